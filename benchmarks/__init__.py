"""Measurements against the plain diffusers pipeline, in the same run on the same machine. See README.md here."""
