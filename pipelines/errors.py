"""How a run can end without a video, other than by a RequestError."""

from __future__ import annotations


class GenerationError(RuntimeError):
    """A run that ended without a video. `code` as in `events.Failed`."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class GenerationCancelled(Exception):
    """`cancelled()` said so."""


class GenerationPaused(Exception):
    """`paused()` said so. The latest Checkpoint is what there is to go on with."""
