"""LoRA files of any trainer -> adapters with the right scale. Knows no requests beyond `Lora`, no downloads."""
