"""`python -m pipelines.rife_check FILE`: whether RIFE weights are what they should be, told before anybody waits for
them.

Knows: that reading them needs torch, which the process that answers requests does not load: another one reads them.
Does not know: the setting that names the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SECONDS = 300.0
REFUSED = 3


def refusal(file: Path) -> str | None:
    """Why `file` is of no use, in a line; None when it loads. Takes as long as torch takes to begin."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    # -P: a folder `pipelines` where the command is given is not this one
    command = [sys.executable, "-P", "-m", "pipelines.rife_check", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return f"could not be read within {SECONDS:g} seconds"
    if done.returncode == 0:
        return None
    return done.stdout.strip() if done.returncode == REFUSED else "cannot be read: the process that tried has died"


def main(file: str) -> int:
    from pipelines import rife

    try:
        rife.load(file, "cpu")
    except OSError as e:
        sys.stdout.write(f"cannot be read: {e.strerror or type(e).__name__}")
    except ValueError as e:
        sys.stdout.write(" ".join(str(e).split())[:400])
    else:
        return 0
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
