"""A folder laid out as Hugging Face's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from weights import record


def hub_cache(source: Path, folder: Path) -> Path:
    """The same files as a Hugging Face cache keeps them: large blobs named by SHA-256, links in a snapshot."""
    snapshot = folder / "snapshots" / ("a" * 40)
    (folder / "blobs").mkdir(parents=True)
    for path in [p for p in source.rglob("*") if p.is_file()]:
        digest = record.sha256(path)
        blob = folder / "blobs" / (digest if path.suffix == ".safetensors" else digest[:40])
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("../" * len(link.relative_to(folder).parts[:-1])) / "blobs" / blob.name)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    return folder
