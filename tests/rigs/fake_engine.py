"""A fake engine, controlled by the prompt: instead of making videos, it sleeps, fails, hangs or dies in a real worker.

The prompt consists of words `name=value`. Defaults are in parentheses.

- steps=N (10): number of steps; sleep=SECONDS (0.01): duration of each step; bytes=N (1000): size of the result
- at=STEP (3): the step at which one of these happens: fail=CODE, refuse=FIELD, raise=TEXT, hang=1, die=SIGNAL, die=exit
- times=N (always): the engine dies at most N times with this seed
- decode=SECONDS (0): duration of decoding, in units of 0.05 s; die_decoding=UNIT: dies at this unit of decoding
- deaf=1: ignores cancel and pause while sampling
- save=1: yields a snapshot after every step
- stay=STAGE: blocks once in load, encode or decode; for=SECONDS (1): how long it blocks
- freeze=1: stops itself once with SIGSTOP when half of the result is sent; needs bytes above 2000000

Each run appends lines to the file `journal` in the model's folder, so that tests can see what ran. If the model's
folder contains a file `broken`, the engine fails on start (with an ImportError if the file contains `import`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipelines.engine_port import EngineSpec
from pipelines.errors import GenerationCancelled, GenerationError, GenerationPaused
from pipelines.events import Event, Finished, Log, Progress, Snapshot, Stage, Started
from pipelines.request import GenerationRequest, RequestError


class Engine:
    def __init__(self, spec: EngineSpec) -> None:
        self.models = spec.models
        for folder in spec.models.values():
            if (folder / "broken").exists():
                if "import" in (folder / "broken").read_text():
                    raise ImportError("libcudnn.so.9: cannot open shared object file: No such file or directory")
                raise GenerationError("model_error", "weights are torn")

    def run(
        self,
        request: GenerationRequest,
        model: str,
        cancelled: Callable[[], bool],
        resume: bytes | None = None,
        paused: Callable[[], bool] = lambda: False,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Iterator[Event]:
        order = dict(word.partition("=")[::2] for word in request.prompt.split())
        journal = self.models[model] / "journal"
        with journal.open("a") as f:
            f.write(f"start {request.seed}{f' at {resume.decode()}' if resume else ''}\n")

        def stay(stage: str) -> None:
            seconds = float(order.get("for", 1))
            if order.get("stay") == stage and once(journal, f"staying in {stage} for {seconds:g}"):
                time.sleep(seconds)

        yield Stage("load")
        stay("load")
        yield Started({"seed": request.seed, "task": request.task})
        yield Log("memory: fake")
        yield Stage("encode")
        stay("encode")
        yield Stage("denoise")
        steps, units = int(order.get("steps", 10)), int(float(order.get("decode", 0)) / 0.05)
        for step in range(1 + int(resume or 0), steps + 1):
            if cancelled() and "deaf" not in order:
                raise GenerationCancelled
            if paused() and "deaf" not in order:
                yield Snapshot(str(step - 1).encode(), step - 1)
                raise GenerationPaused
            time.sleep(float(order.get("sleep", 0.01)))
            if step == int(order.get("at", 3)):
                self.misbehave(order, journal, request.seed)
            yield Progress("denoise", step, steps, step / (steps + units + 1), 0.01 * (steps - step) + 0.05 * units)
            if "save" in order:
                yield Snapshot(str(step).encode(), step)
        yield Stage("decode")
        stay("decode")
        for unit in range(1, units + 1):
            if cancelled():
                raise GenerationCancelled
            time.sleep(0.05)
            if unit == int(order.get("die_decoding", 0)):
                os.kill(os.getpid(), signal.SIGKILL)
            share = (steps + unit) / (steps + units + 1)
            progress(Progress("decode", unit, units, share, 0.05 * (units - unit)))
        with journal.open("a") as f:
            f.write(f"end {request.seed}\n")
        data = bytes(i % 251 for i in range(int(order.get("bytes", 1000))))
        if "freeze" in order and once(journal, "freezing"):
            freeze_in_the_next_message()
        manifest: dict[str, Any] = {"seed": request.seed}
        media_type = {"mp4": "video/mp4", "gif": "image/gif", "webm": "video/webm"}[request.output_format]
        yield Finished(data, b"poster", media_type, 9, 8, 64, 48, manifest, {"denoise": 0.1}, "none: fake")

    def is_broken_by(self, error: Exception) -> bool:
        return "CUDA error" in str(error)

    def misbehave(self, order: dict[str, str], journal: Path, seed: int | None) -> None:
        if "fail" in order:
            raise GenerationError(order["fail"], "as told", "prompt")
        if "refuse" in order:
            raise RequestError(order["refuse"], "as told")
        if "raise" in order:
            raise ZeroDivisionError(order["raise"])
        if "hang" in order:
            time.sleep(3600)
        if "die" in order:
            died = journal.read_text().count(f"dying {seed}\n")
            if died < int(order.get("times", 1000)):
                with journal.open("a") as f:
                    f.write(f"dying {seed}\n")
                if order["die"] == "exit":
                    os._exit(7)
                os.kill(os.getpid(), getattr(signal, order["die"]))


def once(journal: Path, line: str) -> bool:
    """Appends the line to the journal; returns whether the journal did not contain it before."""
    before = journal.read_text().splitlines()
    with journal.open("a") as f:
        f.write(f"{line}\n")
    return line not in before


def freeze_in_the_next_message() -> None:
    whole: Any = Connection._send  # type: ignore[attr-defined]

    def half(self: Connection, data: Any, write: Any = os.write) -> None:
        if len(data) < 1_000_000:
            return whole(self, data)
        Connection._send = whole  # type: ignore[attr-defined]
        whole(self, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGSTOP)
        return whole(self, data[len(data) // 2 :])

    Connection._send = half  # type: ignore[attr-defined]
