"""`python -m pipelines.upscaler_check FILE`: whether an upscaler's file is one, before a job waits for it.

Knows: that reading it needs torch and may run a stranger's pickle: another process reads it. Does not know: the setting
that names the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUFFIXES = (".safetensors", ".pth")
SECONDS = 300.0
REFUSED = 3


def wrong_file(file: Path) -> str | None:
    """What is wrong with `file` before it is opened: it is not there, or has another ending."""
    if not file.exists():
        return "there is no such file"
    if not file.is_file():
        return "is not a file"
    if file.suffix.lower() not in SUFFIXES:
        return f"upscalers are {' and '.join(SUFFIXES)} files"
    return None


def refusal(file: Path) -> str | None:
    """Why `file` cannot be used, in a line; None when it loads. Takes as long as torch takes to be imported."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    # -P: a folder `pipelines` in the working directory is not this one
    command = [sys.executable, "-P", "-m", "pipelines.upscaler_check", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"could not be read within {SECONDS:g} seconds"
    if done.returncode == 0:
        return None
    if done.returncode != REFUSED:
        return "cannot be read: the process that tried has died"
    return done.stdout.strip().removeprefix(f"{file.name} ")


def main(file: str) -> int:
    import torch

    from pipelines import super_resolution

    try:
        super_resolution.load(file, torch.device("cpu"))
    except OSError as e:
        sys.stdout.write(f"cannot be read: {e.strerror or type(e).__name__}")
        return REFUSED
    except ValueError as e:
        sys.stdout.write(" ".join(str(e).split())[:400])
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
