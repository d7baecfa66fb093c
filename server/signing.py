"""The server's own secrets for signing webhooks and tokens, created at the server's first start and kept in the data
folder.

Knows: Ed25519 and HMAC keys, their files. Does not know: what is signed, vendors' forms of a signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.datadir import read_secret, write_atomically
from server.errors import DataDirUnwritable
from server.private import private_folder

SECRET_BYTES = 32


class Signing:
    """Makes `folder` private. Raises DataDirUnwritable when the secrets can be neither read nor created."""

    def __init__(self, folder: Path) -> None:
        try:
            private_folder(folder)
            self._ed25519 = Ed25519PrivateKey.from_private_bytes(
                _kept(folder / "ed25519", lambda: Ed25519PrivateKey.generate().private_bytes_raw())
            )
            self.secret = _kept(folder / "hmac", lambda: secrets.token_bytes(SECRET_BYTES))
        except DataDirUnwritable:
            raise
        except (OSError, ValueError) as e:
            raise DataDirUnwritable(f"cannot keep the webhook keys in {folder}: {e}") from None

    def ed25519(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._ed25519.sign(message)

    def jwks(self) -> dict[str, Any]:
        """The public key as in RFC 7517. `x` keeps its base64 padding, which fal's published verifier needs."""
        public = self._ed25519.public_key().public_bytes_raw()
        x = base64.urlsafe_b64encode(public).decode()
        name = hashlib.sha256(public).hexdigest()[:16]
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": name, "x": x}]}

    def hmac_sha256(self, message: bytes) -> bytes:
        return hmac.new(self.secret, message, hashlib.sha256).digest()

    def token(self, *parts: str) -> str:
        """A token for these parts. It proves that this server issued it, and for no other parts."""
        message = b"\0".join(part.encode("utf-8", "surrogatepass") for part in ("token", *parts))
        return self.hmac_sha256(message).hex()

    def allows(self, token: str, *parts: str) -> bool:
        given = token.encode("utf-8", "surrogatepass")
        return hmac.compare_digest(self.token(*parts).encode(), given)


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """Reads a secret, creating it if missing. Raises DataDirUnwritable for a damaged file, because replacing it would
    invalidate everything signed so far."""
    if not path.exists():
        write_atomically(path, make())
    secret = read_secret(path)
    if len(secret) != SECRET_BYTES or len(set(secret)) == 1:
        raise DataDirUnwritable(
            f"{path} is damaged: it must hold {SECRET_BYTES} random bytes; restore it from a backup, or remove it and"
            " the server makes a new one (then earlier upload URLs and webhook secrets are invalid)"
        )
    return secret
