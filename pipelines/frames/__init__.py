"""Frames: decode latents, stitch clips, interpolate, enlarge, fit to a size."""
