"""Replicate's paths and a request."""

from __future__ import annotations

B5 = "/v1/models/cuuupid/cogvideox-5b/predictions"
T2V = "/v1/models/thudm/cogvideox-t2v/predictions"
I2V = "/v1/models/thudm/cogvideox-i2v/predictions"
WAIT = {"prefer": "wait"}
A = {"input": {"prompt": "a"}}
