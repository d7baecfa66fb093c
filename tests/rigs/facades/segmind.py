"""Segmind's paths."""

from __future__ import annotations

T2V = "/v1/cog-video-5b-t2v"
I2V = "/v1/cog-video-5b-i2v"
