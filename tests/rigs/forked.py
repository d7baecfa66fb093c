"""Runs cogvideox commands one after another. Each command runs in a fork of a process that has already imported the
engine, because the import takes longer than most commands. `run` starts that process: `python -m tests.rigs.forked`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(commands: Sequence[Sequence[str]], folder: Path, environ: Mapping[str, str], seconds: float) -> list[str]:
    """Runs the commands in `folder`; returns their stdout. Raises AssertionError if one fails."""
    program = [sys.executable, "-m", "tests.rigs.forked"]
    env = {**environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        program, cwd=folder, env=env, input=json.dumps(commands), capture_output=True, text=True, timeout=seconds
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(one["code"] == 0 for one in told) and len(told) == len(commands), (told[-1:], done.stderr)
    return [str(one["out"]) for one in told]


def _main() -> None:
    from pipelines import environment

    environment.prepare()
    import pipelines.engine.generate  # noqa: F401  also imports torch
    from server.cli import app
    from tests.rigs import convolution  # noqa: F401

    for words in json.load(sys.stdin):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                code = 1
                try:
                    app(words)
                except SystemExit as e:
                    code = e.code if isinstance(e.code, int) else int(e.code is not None)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode())
        sys.stdout.write(json.dumps({"words": words, "code": code, "out": said[0], "err": said[1]}) + "\n")
        sys.stdout.flush()
        if code:
            return


if __name__ == "__main__":
    _main()
