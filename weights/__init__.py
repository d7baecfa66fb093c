"""Checkpoints: the catalogue, the models folder, pull, import and verify. Imports no torch."""
