"""`python -m pipelines.frames.upscaler_check FILE`: checks an upscaler's file when the server starts, not in a job.

A process of its own, because reading the file needs torch and may unpickle a stranger's data.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines import child

SUFFIXES = (".safetensors", ".pth")
SECONDS = 300.0


def wrong_file(file: Path) -> str | None:
    """What is wrong with `file` before it is opened: it is missing, or has the wrong suffix."""
    if not file.exists():
        return "there is no such file"
    if not file.is_file():
        return "is not a file"
    if file.suffix.lower() not in SUFFIXES:
        return f"upscalers are {' and '.join(SUFFIXES)} files"
    return None


def refusal(file: Path) -> str | None:
    """Why `file` cannot be used, in one line; None when it loads. Takes as long as importing torch."""
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
