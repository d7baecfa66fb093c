"""The real engine, which takes few steps however many are asked for: what the frames show matters elsewhere.

Runs in a real worker process: `python -m tests.server.clients.stand_in tests.server.few_steps:Engine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipelines import generate
from pipelines.events import Event
from pipelines.generate import GenerationCancelled, GenerationError, GenerationPaused
from pipelines.request import GenerationRequest

__all__ = ["Engine", "GenerationCancelled", "GenerationError", "GenerationPaused"]  # the worker's
FEW = 4


class Engine(generate.Engine):
    def run(self, request: GenerationRequest, *how: Any, **more: Any) -> Iterator[Event]:
        asked = request.num_inference_steps
        return super().run(
            replace(request, num_inference_steps=FEW if asked is None else min(asked, FEW)), *how, **more
        )
