"""A stored file, as jobs and façades name it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Artifact:
    """`key` is made by the server and unguessable, `size` is in bytes."""

    key: str
    media_type: str
    file_name: str
    size: int
