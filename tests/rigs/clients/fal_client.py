"""Checks the outputs and collects the webhook calls that fal's clients receive."""

from __future__ import annotations

from typing import Any

from tests.rigs.clients.running import fetch
from tests.rigs.ear import Ear
from tests.rigs.house import until

ID = "fal-ai/cogvideox-5b"


def heard(ear: Ear, count: int) -> list[tuple[dict[str, str], Any]]:
    until(lambda: len(ear.heard) >= count)
    return ear.heard[:count]


def check_output(output: Any) -> None:
    assert set(output) == {"video", "timings", "seed", "prompt"} and output["seed"] == 7
    assert len(fetch(output["video"]["url"]).content) == output["video"]["file_size"] == 1000
