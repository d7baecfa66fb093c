"""The real engine with fewer steps. It takes only FEW steps if a request has no number of steps, or MANY or more steps
(as an API's default may have).

Runs in a real worker process: `python -m tests.rigs.clients.stand_in tests.rigs.few_steps:Engine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipelines.engine import generate
from pipelines.events import Event
from pipelines.request import GenerationRequest
from tests.rigs import convolution  # noqa: F401

FEW, MANY = 4, 25


class Engine(generate.Engine):
    def run(self, request: GenerationRequest, *how: Any, **more: Any) -> Iterator[Event]:
        asked = request.num_inference_steps
        steps = FEW if asked is None or asked >= MANY else asked
        return super().run(replace(request, num_inference_steps=steps), *how, **more)
