"""API keys: who may use the server.

Knows: how clients of the different clouds send a key (in two headers, as a signed token, in a field of the body), and
that `id.secret` and `id:secret` are the same key.
Does not know: users, quotas, routes, the form of a refusal (each façade has its own).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import structlog

from server.errors import InsecureBind, ServerError
from server.settings import Settings

SCHEMES = ("bearer", "token", "key")
log = structlog.get_logger()
SHORT_KEY = 16  # characters; a shorter key could be guessed over the network
TOKEN_SKEW = 60.0  # seconds that a client's clock may be behind ours
LONGEST_TOKEN = 8192  # characters
LATEST = 1e15  # milliseconds, the largest accepted `exp`: about the year 33,700


Reason = Literal["missing", "unknown", "expired"]


class Unauthorized(ServerError):
    """The request has no key, or its key is not accepted."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"key {reason}")
        self.reason = reason


def _digest(key: str) -> bytes:
    return hashlib.sha256(_canonical(key).encode("utf-8", "surrogatepass")).digest()


def _canonical(key: str) -> str:
    return key.strip().replace(":", ".", 1)


def given_keys(headers: Mapping[str, str], body_key: str | None = None) -> list[str]:
    """All keys in the headers and the body. `headers`: a mapping whose names are lower case, or whose look-up ignores
    case."""
    found = []
    if key := headers.get("x-api-key", "").strip():
        found.append(key)
    if value := headers.get("authorization", "").strip():
        scheme, _, rest = value.partition(" ")
        if scheme.lower() not in SCHEMES:
            found.append(value)
        elif rest.strip():
            found.append(rest.strip())
    if body_key and body_key.strip():
        found.append(body_key.strip())
    return found


class Issued(Protocol):
    """A key created by `cogvideox keys create`; only its hash is known."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> bytes: ...

    @property
    def revoked_at(self) -> float | None: ...


class Keys:
    """The keys from the settings and the issued keys; `issued` returns the issued keys by id."""

    def __init__(
        self,
        settings: Settings,
        issued: Callable[[], Mapping[str, Issued]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issued = issued
        self._may_open = settings.insecure or is_loopback(settings.host)
        self._was_open: bool | None = None
        self._keys = [_canonical(key) for key in settings.keys]
        self._digests = [_digest(key) for key in self._keys]
        self._clock = clock

    @property
    def none(self) -> bool:
        """Whether no key exists, not even a revoked key."""
        return not self._keys and not self._issued()

    @property
    def owners(self) -> set[str]:
        """The owner names of all valid keys."""
        issued = (owner_of(key.digest) for key in self._issued().values() if key.revoked_at is None)
        return {*map(owner_of, self._digests), *issued}

    @property
    def open(self) -> bool:
        """Whether requests need no key: no key exists, and the server listens on loopback or `insecure` is set. A
        server on a network is not opened by deleting its last key."""
        return self._may_open and self.none

    @property
    def counts(self) -> tuple[int, int]:
        """The number of valid keys, including the keys from the settings, and the number of revoked keys."""
        revoked = [key.revoked_at is not None for key in self._issued().values()]
        return len(self._keys) + revoked.count(False), revoked.count(True)

    def log_changes(self) -> None:
        """Logs whether the server has become open or closed since the previous call."""
        now = self.open
        if self._was_open is not None and now != self._was_open:
            valid, revoked = self.counts
            state = "open: no request needs a key" if now else "closed: every request needs a key"
            log.warning(f"server is now {state}", valid_keys=valid, revoked_keys=revoked)
        self._was_open = now

    def identify(self, headers: Mapping[str, str], body_key: str | None = None) -> str:
        """The owner of the request: a name derived from its key, "" on an open server. Raises Unauthorized.

        The duration of the check does not reveal which configured key matched.
        """
        if self.open:
            return ""
        given = given_keys(headers, body_key)
        if not given:
            raise Unauthorized("missing")
        matches = [known for key in given for known in self._digests if hmac.compare_digest(_digest(key), known)]
        if matches:
            return owner_of(matches[0])
        issued = self._issued()
        for key in given:
            found, digest = issued.get(_canonical(key).partition(".")[0]), _digest(key)
            if found is not None and hmac.compare_digest(found.digest, digest) and found.revoked_at is None:
                return owner_of(digest)
        for token in given:
            if token.count(".") == 2:
                return self._of_token(token)
        raise Unauthorized("unknown")

    def name_of(self, owner: str) -> str:
        """The name and public id of the owner's key, for the log; never its secret."""
        for issued in self._issued().values():
            if owner_of(issued.digest) == owner:
                return f"{issued.name} ({issued.id})"
        for place, (key, digest) in enumerate(zip(self._keys, self._digests, strict=True), 1):
            if owner_of(digest) == owner:
                public, dot, _ = key.partition(".")
                return public if dot and public else f"key {place} of COGVIDEOX_API_KEYS"
        return owner

    def _of_token(self, token: str) -> str:
        """The owner of the `id.secret` key that signed this JWT of a Zhipu client: HS256, with the id in `api_key`.

        Zhipu's `exp` is in milliseconds; a value below 1e11 counts as seconds, as the JWT standard defines it.
        """
        if len(token) > LONGEST_TOKEN:
            raise Unauthorized("unknown")
        try:
            signed, _, signature = token.rpartition(".")
            header, payload = (_json_object(_from_base64url(part)) for part in signed.split("."))
            algorithm, name, expires = header["alg"], payload["api_key"], payload["exp"]
            given = _from_base64url(signature)
        except (ValueError, KeyError, RecursionError):
            raise Unauthorized("unknown") from None
        if algorithm != "HS256" or not isinstance(name, str) or type(expires) not in (int, float):
            raise Unauthorized("unknown")
        if not -LATEST <= expires <= LATEST:  # also refuses NaN and infinities
            raise Unauthorized("unknown")
        owner = None
        for key, digest in zip(self._keys, self._digests, strict=True):
            known, dot, secret = key.partition(".")
            wanted = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
            same = hmac.compare_digest(wanted, given) & hmac.compare_digest(known.encode(), _plain(name))
            if same and known and dot and secret:
                owner = owner_of(digest)
        if owner is None:
            raise Unauthorized("unknown")
        if (expires / 1000 if expires > 1e11 else expires) + TOKEN_SKEW < self._clock():
            raise Unauthorized("expired")
        return owner


def owner_of(digest: bytes) -> str:
    """The owner name of a key: the text that stands for the key in the job table."""
    return digest.hex()[:16]


def _json_object(text: bytes) -> dict[str, Any]:
    """Raises ValueError for invalid JSON, for a value that is not an object, and for duplicate members; RecursionError
    for deep nesting."""

    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) != len(members):
            raise ValueError("a member comes twice")
        return found

    found = json.loads(text, object_pairs_hook=once)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _from_base64url(text: str) -> bytes:
    return base64.b64decode(_plain(text) + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _plain(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def check_bind(settings: Settings, keys: Keys) -> None:
    """Raises InsecureBind when other machines can reach the address and no key exists."""
    if is_loopback(settings.host):
        return
    if short := sum(len(key) < SHORT_KEY for key in settings.keys):
        log.warning(f"COGVIDEOX_API_KEYS: keys of fewer than {SHORT_KEY} characters can be guessed", keys=short)
    if not keys.none or settings.insecure:
        return
    folder = "" if settings.database_url is not None else f" --data-dir {shlex.quote(str(settings.data_dir))}"
    raise InsecureBind(
        f"{settings.shown('host')} can be reached from other machines and there is no key: set COGVIDEOX_API_KEYS, "
        f"create one with `cogvideox keys create NAME{folder}`, listen on 127.0.0.1, or pass --insecure"
    )


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
