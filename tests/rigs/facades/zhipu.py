"""Zhipu's paths, a request, and a token as its clients sign it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

BASE = "/api/paas/v4"
CREATE = f"{BASE}/videos/generations"
UNIFIED = "/302/v2/video/create"
ASKED = {"model": "cogvideox-2", "prompt": "a red circle"}


def token(name: str, secret: str, exp: float | None = None, **header: str) -> str:
    def part(data: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()

    now = int(time.time() * 1000)
    # the token is valid for an hour, not the clients' 210 s, because some tests run long after collection
    payload = {"api_key": name, "exp": now + 3_600_000 if exp is None else exp, "timestamp": now}
    signed = f"{part({'alg': 'HS256', 'sign_type': 'SIGN', **header})}.{part(payload)}"
    digest = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
