"""A misspelled or empty API key setting stops `cogvideox serve` instead of starting a server without a key."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs import pace
from tests.rigs.clients.running import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("COGVIDEOX_API_KEYS=,,,", "COGVIDEOX_API_KEYS: holds no key"),
        ("COGVIDEOX_API_KEY=id:secret", "did you mean COGVIDEOX_API_KEYS?"),
        ("COGVIDEOX_API_KEYS: id:secret", "sets nothing: write NAME=VALUE"),
    ],
)
def test_a_key_that_was_meant_is_not_lost(line: str, says: str, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / ".env").write_text(f"{line}\nCOGVIDEOX_PORT={port}\nCOGVIDEOX_INSECURE=true\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COGVIDEOX_")}
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "serve", "--device", "cpu"],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=pace.seconds(60),
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and says in done.stderr and "secret" not in done.stderr
    with socket.socket() as caller:
        assert caller.connect_ex(("127.0.0.1", port)) != 0
    assert not (tmp_path / "data").exists()
