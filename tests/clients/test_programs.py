"""Runs the JavaScript programs that `cogvideox clients` prints, changed only in URL and key, and more calls of Vercel's
AI SDK.

In these tests the server has the fake engine. `tests/test_docs.py` runs the programs with the demo model and without a
key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.facades.facade import Snippet
from server.facades.registry import FACADES
from tests.rigs.clients.running import KEY, fetch, run_program, run_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAMS = [snippet for facade in FACADES.values() for snippet in facade.clients if snippet.language == "js"]
FILM = bytes(i % 251 for i in range(1000))  # the fake engine's output


@pytest.mark.parametrize("snippet", PROGRAMS, ids=lambda snippet: snippet.title)
def test_javascript_programs(stand_in: str, tmp_path: Path, snippet: Snippet) -> None:
    printed = run_program("program.mjs", snippet.filled(f"http://{stand_in}", KEY), tmp_path).strip()
    film = tmp_path / "video.mp4"
    if film.is_file():
        assert film.read_bytes() == FILM
    else:
        assert printed.startswith(f"http://{stand_in}/")
        assert fetch(printed).content == FILM


def test_the_ai_sdk(stand_in: str, tmp_path: Path) -> None:
    """The SDK uses its default `download` and a `fetch` that redirects fal's host to this server."""
    told = json.loads(run_script("ai_sdk.mjs", tmp_path, {"SERVER": stand_in}).strip().splitlines()[-1])
    assert {name: size for name, size in told.items() if isinstance(size, int)} == dict.fromkeys(
        ("fal", "falPicture", "replicate", "replicatePicture"), len(FILM)
    )
    assert told["falFails"] == "Internal Server Error" and told["falRefuses"] == "Unprocessable Entity"
    assert "as told" in told["replicateFails"] and "the range is 1 to 500" in told["replicateRefuses"]
