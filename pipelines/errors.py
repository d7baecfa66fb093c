"""The exceptions that end a run without a video, in addition to RequestError."""

from __future__ import annotations


class GenerationError(RuntimeError):
    """The run failed. `code` as in `events.Failed`."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class GenerationCancelled(Exception):
    """`cancelled()` returned True."""


class GenerationPaused(Exception):
    """`paused()` returned True. Resume from the latest Snapshot."""
