"""The table of issued API keys, stored as hashes, so that reading the table does not reveal a key.

Knows: the table, its own cache of it. Does not know: how clients send a key (`server.auth`).

A key is `<id>.<secret>`: 12 and 64 hexadecimal digits from the system's random source. For 256 random bits, plain
SHA-256 is as safe as a deliberately slow hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from server.jobs.database import Database
from server.jobs.store import Quota
from server.jobs.tables import api_keys

FRESH = 1.0  # seconds until a key issued or revoked by another process takes effect here
PATIENCE = 0.25  # seconds that a request waits for a locked table, or for a database that does not answer


@dataclass(frozen=True)
class IssuedKey:
    """Times are unix seconds. `quota`: values other than None override the settings."""

    id: str
    name: str
    digest: bytes
    created_at: float
    revoked_at: float | None
    quota: Quota


class KeyStore:
    """`clock` returns unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._engine = database.engine
        self._clock = clock
        self._known: dict[str, IssuedKey] = {}
        self._read_at = float("-inf")
        self._reading = threading.Lock()

    def create(self, name: str, quota: Quota) -> tuple[str, IssuedKey]:
        """Returns the new key as text, which is not stored, and its record."""
        id_, secret = secrets.token_hex(6), secrets.token_hex(32)
        key = f"{id_}.{secret}"
        issued = IssuedKey(id_, name, hashlib.sha256(key.encode()).digest(), self._clock(), None, quota)
        row = {"id": id_, "name": name, "digest": issued.digest.hex(), "created_at": issued.created_at}
        with self._engine.execution_options(immediate=True).begin() as db:
            db.execute(insert(api_keys).values(**row, at_once=quota.at_once, daily=quota.daily))
        self._read_at = float("-inf")
        return key, issued

    def revoke(self, id_: str) -> bool:
        """False when the key is unknown or already revoked."""
        with self._engine.execution_options(immediate=True).begin() as db:
            own = update(api_keys).where(api_keys.c.id == id_, api_keys.c.revoked_at.is_(None))
            done = bool(db.execute(own.values(revoked_at=self._clock())).rowcount)
        self._read_at = float("-inf")
        return done

    def delete(self, id_: str) -> Literal["deleted", "valid", "unknown"]:
        """Removes the record of a revoked key; the record of a valid key stays."""
        with self._engine.execution_options(immediate=True).begin() as db:
            own = select(api_keys.c.revoked_at).where(api_keys.c.id == id_)
            found = db.execute(own).first()
            if found is None or found.revoked_at is None:
                return "unknown" if found is None else "valid"
            db.execute(delete(api_keys).where(api_keys.c.id == id_))
        self._read_at = float("-inf")
        return "deleted"

    def all(self) -> list[IssuedKey]:
        with self._engine.connect() as db:
            return [_issued(row) for row in db.execute(select(api_keys).order_by(api_keys.c.created_at))]

    def known(self) -> dict[str, IssuedKey]:
        """All issued keys by id. The result is at most FRESH seconds old, but may be older while the table cannot be
        read.

        Blocks for at most PATIENCE seconds (except on the first call), so an event loop may call it.
        """
        if self._read_at == float("-inf"):
            self._read()
        elif time.monotonic() - self._read_at > FRESH and self._reading.acquire(blocking=False):
            reader = threading.Thread(target=self._read_if_possible, name="keys", daemon=True)
            try:
                reader.start()
            except RuntimeError:  # the system allows no further thread
                self._reading.release()
            else:
                reader.join(PATIENCE)
        return self._known

    def _read(self) -> None:
        begun = time.monotonic()
        self._known = {key.id: key for key in self.all()}
        self._read_at = begun

    def _read_if_possible(self) -> None:
        try:
            with contextlib.suppress(SQLAlchemyError):
                self._read()
        finally:
            self._reading.release()


def _issued(row: Row[tuple[object, ...]]) -> IssuedKey:
    d = row._mapping
    quota = Quota(d["at_once"], d["daily"])
    return IssuedKey(d["id"], d["name"], bytes.fromhex(d["digest"]), d["created_at"], d["revoked_at"], quota)
