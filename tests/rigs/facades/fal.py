"""fal's paths, and the check of a webhook's signature as fal documents it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

APP = "/fal-ai/cogvideox-5b"
RUN = f"/run{APP}"
QUEUE = f"/queue{APP}"


def verify(jwks: dict[str, Any], headers: Mapping[str, str], body: bytes) -> None:
    """Verifies a webhook as fal's documentation describes. Raises InvalidSignature, KeyError."""
    message = "\n".join(
        [
            headers["x-fal-webhook-request-id"],
            headers["x-fal-webhook-user-id"],
            headers["x-fal-webhook-timestamp"],
            hashlib.sha256(body).hexdigest(),
        ]
    ).encode()
    for key in jwks["keys"]:
        public = base64.urlsafe_b64decode(key["x"])
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(headers["x-fal-webhook-signature"]), message)
