"""A worker process: owns one device, runs one job at a time, reports events.

Knows: the engine (imported by name, so that only this process imports torch), the pipe to its parent. Does not know:
the job table, result files, other workers. The worker dies with its parent: on all systems when the pipe ends, and on
Linux also by a signal from the kernel.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from pipelines import child, environment
from pipelines.engine_port import Engine
from pipelines.errors import GenerationCancelled, GenerationError, GenerationPaused
from pipelines.events import Cancelled, Event, Failed, Paused, Progress, Reworded, Started
from pipelines.models import ModelError
from pipelines.request import GenerationRequest, RequestError
from server.workers.inputs import unlocated, unpacked
from server.workers.prompt_help import Helper
from server.workers.protocol import Cancel, Pause, Ready, Run, Said, StartFailed
from server.workers.spec import WorkerSpec

NICE = 10  # a lower priority than the API process, which must stay responsive
POISONED = 42  # the worker's exit status when the device's context is broken


def main(pipe: Connection, spec: WorkerSpec, parent: int) -> None:
    """Runs until the pipe ends. `parent`: the process id of the parent."""
    _die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach the whole process group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICE)
    inbox = Inbox(pipe)
    try:
        environment.prepare()
        engine_spec = replace(spec.located(), device=confine(spec.engine.device))
        module, _, name = spec.engine_class.partition(":")
        create = getattr(importlib.import_module(module), name)
        engine: Engine = create(engine_spec)
    except BaseException as e:
        if not isinstance(e, GenerationError | ModelError | ImportError):  # their messages are enough
            _print_traceback()
        _tell(pipe, StartFailed(_one_line(e)))
        return
    _tell(pipe, Ready())
    while True:
        run = inbox.next()

        def tell(event: Event, run: Run = run) -> None:
            _tell(pipe, Said(run.job_id, run.attempt, event))

        for event in events(engine, run, inbox, spec.inputs, spec.helper, tell):
            tell(event)


def _tell(pipe: Connection, message: Ready | StartFailed | Said) -> None:
    try:
        pipe.send(message)
    except OSError:
        os._exit(0)


class Inbox:
    """Reads the pipe while the main thread computes."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._cancelled: set[tuple[str, int]] = set()
        self._paused: set[tuple[str, int]] = set()
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Run:
        return self._runs.get()

    def cancelled(self, run: Run) -> bool:
        return (run.job_id, run.attempt) in self._cancelled

    def paused(self, run: Run) -> bool:
        return (run.job_id, run.attempt) in self._paused

    def _read(self) -> None:
        try:
            while True:
                message = self._pipe.recv()
                if isinstance(message, Run):
                    self._runs.put(message)
                elif isinstance(message, Cancel):
                    self._cancelled.add((message.job_id, message.attempt))
                elif isinstance(message, Pause):
                    self._paused.add((message.job_id, message.attempt))
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone, so the result is no longer needed


def events(
    engine: Engine,
    run: Run,
    inbox: Inbox,
    inputs: Path,
    helper: Helper | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Iterator[Event]:
    """Yields Reworded if prompt help is wanted, then the engine's events, and at the end Failed, Cancelled or Paused if
    the engine has not yielded Finished.

    `inputs`: the folder with the run's input files. `progress`: called with reports of the engine at moments when the
    engine cannot yield."""
    try:
        request = GenerationRequest.from_dict(run.request)
        if helper is not None and helper.wanted(request):
            better = helper.better(request, lambda: inbox.cancelled(run) or inbox.paused(run))
            if better is None:
                yield Cancelled() if inbox.cancelled(run) else Paused()
                return
            request, run = better, replace(run, resume=None)  # the snapshot belongs to the original prompt
            yield Reworded(request.to_dict())
        for event in engine.run(
            unpacked(request, inputs),
            run.model,
            lambda: inbox.cancelled(run),
            run.resume,
            lambda: inbox.paused(run),
            progress,
        ):
            yield Started(unlocated(event.plan, inputs)) if isinstance(event, Started) else event
    except RequestError as e:
        yield Failed("invalid_request", e.message, e.field)
    except GenerationCancelled:
        yield Cancelled()
    except GenerationPaused:
        yield Paused()
    except GenerationError as e:
        yield Failed(e.code, e.message, e.field)
    except MemoryError:
        yield Failed("out_of_memory", "the machine ran out of memory")
    except Exception as e:
        _print_traceback()
        if engine.is_broken_by(e):
            os._exit(POISONED)
        yield Failed("internal", _one_line(e))


def confine(device: str) -> str:
    """Makes `cuda:N` the only CUDA device visible to this process, before torch starts; returns its new name."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not index:
        return device
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    if visible and int(index) >= len(visible):
        raise ValueError(f"device {device} is not among CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(index)].strip() if visible else index
    return "cuda:0"


def _die_with(parent: int) -> None:
    child.die_with_parent()
    if os.getppid() != parent:
        os._exit(0)


def _print_traceback() -> None:
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        traceback.print_exc()
        sys.stderr.flush()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:500] if isinstance(error, GenerationError) else f"{type(error).__name__}: {text}"[:500]
