"""Runs the server so that DNS lookups of `.dead` names time out: `python -m tests.rigs.attacks.dead_names`."""

from __future__ import annotations

import socket
import time
from typing import Any

from server.serve import serve
from server.settings import Settings

SECONDS = 20.0  # the system's resolver gives up on two name servers after this time
_real = socket.getaddrinfo


def _look_up(host: Any, *args: Any, **more: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name and name.endswith(".dead"):
        time.sleep(SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _real(host, *args, **more)


if __name__ == "__main__":
    socket.getaddrinfo = _look_up
    serve(Settings.load(), engine="tests.rigs.fake_engine:Engine")
