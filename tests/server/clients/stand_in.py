"""The server over an engine that does as the prompt says: `python -m tests.server.clients.stand_in`."""

from __future__ import annotations

from server.serve import serve
from server.settings import Settings

if __name__ == "__main__":
    serve(Settings.load(), engine="tests.server.fake_engine:Engine")
