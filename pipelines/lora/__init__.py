"""LoRA files of any trainer -> adapters with the right scale. The package does not know downloads, or requests except
for `Lora`."""
