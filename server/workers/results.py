"""The files of a result: the video, its poster, and the manifest, which describes how it was generated.

Knows: the files' names. Does not know: jobs, when a result is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from pipelines.events import Finished
from pipelines.request import MEDIA_TYPES
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts

EXTENSIONS = {media_type: extension for extension, media_type in MEDIA_TYPES.items()}


def put(
    artifacts: Artifacts, result: Finished, keep_seconds: float | None, owner: str
) -> tuple[Artifact, Artifact, Artifact]:
    """Stores and returns video, poster and manifest: all three or none. Raises DiskFull, OSError."""
    stored: list[Artifact] = []
    try:
        for name, media_type, data in (
            (f"video.{EXTENSIONS.get(result.media_type, 'bin')}", result.media_type, result.video),
            ("poster.jpg", "image/jpeg", result.poster),
            ("manifest.json", "application/json", json.dumps(result.manifest, indent=2, sort_keys=True).encode()),
        ):
            stored.append(artifacts.put(name, media_type, data, keep_seconds, owner))
    except BaseException:
        discard(artifacts, stored)
        raise
    video, poster, manifest = stored
    return video, poster, manifest


def discard(artifacts: Artifacts, stored: Iterable[Artifact]) -> None:
    for artifact in stored:
        artifacts.remove(artifact)
