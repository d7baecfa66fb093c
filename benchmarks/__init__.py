"""Benchmarks against the plain diffusers pipeline. See README.md in this folder."""
