"""LoRA files of any trainer -> adapters with the right scale."""
