"""Who may use the server: the API keys.

Knows: the ways clients of the different clouds send a key, and that `id.secret` and `id:secret` are one key.
Does not know: users, quotas, routes; what a refusal looks like (each façade has its own).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping

from server.errors import InsecureBind
from server.settings import Settings

SCHEMES = ("bearer", "token", "key")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.strip().replace(":", ".", 1).encode("utf-8", "surrogatepass")).digest()


def _header_keys(headers: Mapping[str, str]) -> list[str]:
    """Every key in `headers`, whose names are lower case or looked up without regard to case."""
    found = []
    if key := headers.get("x-api-key", "").strip():
        found.append(key)
    if value := headers.get("authorization", "").strip():
        scheme, _, rest = value.partition(" ")
        if scheme.lower() not in SCHEMES:
            found.append(value)
        elif rest.strip():
            found.append(rest.strip())
    return found


def extract(headers: Mapping[str, str]) -> str | None:
    """The key that came with a request: x-api-key, else Authorization with Bearer, Token, Key or nothing before it."""
    return next(iter(_header_keys(headers)), None)


class Keys:
    def __init__(self, settings: Settings) -> None:
        self._digests = [_digest(key) for key in settings.keys]

    @property
    def open(self) -> bool:
        """No key is configured: everybody who reaches the port may use it."""
        return not self._digests

    def check(self, headers: Mapping[str, str], body_key: str | None = None) -> bool:
        """Whether the server is open or any key given is a known one; takes equally long for each known key."""
        if self.open:
            return True
        given = [*_header_keys(headers), *([body_key] if body_key else [])]
        matches = [hmac.compare_digest(_digest(key), known) for key in given for known in self._digests]
        return any(matches)


def check_bind(settings: Settings) -> None:
    """Raises InsecureBind for an address others can reach while no key is configured."""
    if settings.keys or settings.insecure or _is_loopback(settings.host):
        return
    raise InsecureBind(
        f"{settings.host} can be reached from elsewhere and no key is set: set COGVIDEOX_API_KEYS, "
        "or bind 127.0.0.1, or pass --insecure"
    )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
