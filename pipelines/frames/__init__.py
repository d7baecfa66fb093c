"""Frames: decode, stitch, interpolate, enlarge, fit."""
