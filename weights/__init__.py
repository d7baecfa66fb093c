"""Checkpoints: which exist, where they lie, whether they are whole. No torch."""
