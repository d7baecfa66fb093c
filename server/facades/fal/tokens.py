"""Signed tokens that this server issues and later verifies. The tokens contain no secrets and are not stored."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

from server.signing import Signing

Kind = Literal["files", "app", "upload"]


def issue(signing: Signing, kind: Kind, until: float, **claims: Any) -> str:
    """Creates a signed token that is valid until `until` (unix seconds)."""
    text = base64.urlsafe_b64encode(json.dumps({"until": until, **claims}).encode()).decode().rstrip("=")
    return f"{text}.{signing.token('fal', kind, text)}"


def read(signing: Signing, kind: Kind, token: str) -> dict[str, Any] | None:
    """The claims of a valid token; None if the token has expired or was not issued by this server."""
    text, _, seal = token.partition(".")
    if not signing.allows(seal, "fal", kind, text):
        return None
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return claims if claims.pop("until") > time.time() else None


@dataclass(frozen=True)
class Ticket:
    """The permission to upload one file. The upload URL contains this permission as a token."""

    key: str
    name: str
    media_type: str
    keep_seconds: float | None

    def token(self, signing: Signing, until: float) -> str:
        return issue(signing, "upload", until, **asdict(self))

    @classmethod
    def of(cls, signing: Signing, token: str) -> Ticket | None:
        claims = read(signing, "upload", token)
        return cls(**claims) if claims is not None else None
