"""Runs the server with another engine, by default the fake engine:
`python -m tests.rigs.clients.stand_in [MODULE:ENGINE]`."""

from __future__ import annotations

import sys

from server.serve import serve
from server.settings import Settings

if __name__ == "__main__":
    serve(Settings.load(), engine=sys.argv[1] if len(sys.argv) > 1 else "tests.rigs.fake_engine:Engine")
