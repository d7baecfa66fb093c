"""`python -m pipelines.frames.upscaler_check FILE`: checks an upscaler's file when the server starts, not in a job.

It is a separate process, because reading the file needs torch and may unpickle untrusted data.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines import child

SUFFIXES = (".safetensors", ".pth")
SECONDS = 300.0


def wrong_file(file: Path) -> str | None:
    """The error if `file` is missing or has the wrong suffix; checked before the file is opened."""
    if not file.exists():
        return "there is no such file"
    if not file.is_file():
        return "is not a file"
    if file.suffix.lower() not in SUFFIXES:
        return f"upscalers are {' and '.join(SUFFIXES)} files"
    return None


def refusal(file: Path) -> str | None:
    """Why `file` cannot be used, in one line; None if it loads. The check takes as long as importing torch."""
    return child.verdict("pipelines.frames.upscaler_check", file, seconds=SECONDS)[0]


def main(file: str) -> int:
    import torch

    from pipelines.frames import upscaler

    try:
        upscaler.load(file, torch.device("cpu"))
    except (OSError, ValueError) as e:
        return child.refuse(e)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
