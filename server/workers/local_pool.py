"""The worker processes of this machine, one for each device.

Knows: spawning, which worker is free, how a process ended. Does not know: the job table, what a job is about.
Implements `pool.Pool`; the thread that uses it must outlive the workers.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import structlog

from pipelines import child
from pipelines.events import Cancelled, Event, Failed, Finished, Paused, Progress, Stage
from server.workers import worker
from server.workers.inputs import InputFolder
from server.workers.line import Line
from server.workers.pool import WorkerInfo, WorkerState
from server.workers.protocol import Cancel, Died, InputFile, Pause, Ready, Report, Run, Said, StartFailed
from server.workers.spec import WorkerSpec

START_TRIES = 3
RETRY = 30.0  # seconds until the next try to start a broken worker
CLOSE_SECONDS = 2.0

log = structlog.get_logger()


class Slot:
    """One device and the process on it."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.state = WorkerState.STARTING
        self.process: SpawnProcess | None = None
        self.line: Line | None = None
        self.run: Run | None = None
        self.doing = "while starting"  # what the process is doing, for the report of its death
        self.killed = False  # whether this server killed the process
        self.refusal: str | None = None  # the process's own reason why it cannot start
        self.error: str | None = None
        self.restarts = 0
        self.failed_starts = 0  # consecutive deaths before the process was ready
        self.retry_at = 0.0


class LocalPool:
    """Runs one worker on each of `devices`. Everything else about a worker is in `spec`. `clock`: monotonic seconds."""

    def __init__(self, spec: WorkerSpec, devices: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots = [Slot(replace(spec, engine=replace(spec.engine, device=device))) for device in devices]
        self._inputs = InputFolder(spec.inputs)
        self._context = multiprocessing.get_context("spawn")
        self._nudged, self._nudge = socket.socketpair()
        self._nudged.setblocking(False)
        self._nudge.setblocking(False)

    # -- from any thread ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # if the pipe is full, a wake is pending already; if closed, nobody waits
            self._nudge.send(b"!")

    def workers(self) -> list[WorkerInfo]:
        runs = [slot.run for slot in self._slots]
        return [
            WorkerInfo(s.spec.engine.device, s.state, run.job_id if run else None, s.restarts, s.error)
            for s, run in zip(self._slots, runs, strict=True)
        ]

    def broken(self) -> str | None:
        slots = self._slots
        if not slots or any(slot.error is None for slot in slots):
            return None
        return f"the worker on {slots[0].spec.engine.device} cannot start: {slots[0].error}"

    def remedy(self) -> str:
        return remedy(self._slots[0].error or "") if self._slots else ""

    # -- from the owner -------------------------------------------------------------------------------------------

    def start(self) -> None:
        for slot in self._slots:
            self._spawn(slot)

    def free(self) -> bool:
        return self._choose() is not None

    def run(self, run: Run, sources: Mapping[InputFile, Path]) -> None:
        slot = self._choose()
        if slot is None:
            raise RuntimeError("no worker is free")
        self._inputs.bring(sources)
        slot.run, slot.doing, slot.state = run, "while taking a job", WorkerState.BUSY
        self._send(slot, run)

    def cancel(self, job_id: str, attempt: int) -> None:
        if slot := self._slot_of(job_id, attempt):
            self._send(slot, Cancel(job_id, attempt))

    def pause(self, job_id: str, attempt: int) -> None:
        if slot := self._slot_of(job_id, attempt):
            self._send(slot, Pause(job_id, attempt))

    def kill(self, job_id: str, attempt: int) -> None:
        slot = self._slot_of(job_id, attempt)
        if slot is not None and slot.process is not None:
            slot.killed = True
            slot.process.kill()

    def reports(self, timeout: float) -> list[Report]:
        self._retry()
        found: list[Report] = []
        sources: list[Any] = [self._nudged]
        for slot in self._slots:
            if slot.process is not None:
                sources.append(slot.process.sentinel)
        connection.wait(sources, timeout)
        with contextlib.suppress(BlockingIOError):
            self._nudged.recv(4096)
        for slot in self._slots:
            found += self._listen(slot)
        return found

    def close(self, why: str | None = None) -> None:
        processes = [slot.process for slot in self._slots if slot.process is not None]
        for slot in self._slots:
            if slot.line is not None:
                slot.line.close()
            slot.process, slot.line, slot.run, slot.state = None, None, None, WorkerState.BROKEN
            slot.error = why or slot.error
        until = time.monotonic() + CLOSE_SECONDS
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._drop_inputs()
        self._nudge.close()
        self._nudged.close()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _choose(self) -> Slot | None:
        return next((s for s in self._slots if s.state is WorkerState.READY), None)

    def _drop_inputs(self) -> None:
        self._inputs.keep_only([file for slot in self._slots if slot.run for file in slot.run.files])

    def _retry(self) -> None:
        for slot in self._slots:
            if slot.state is WorkerState.BROKEN and self._clock() >= slot.retry_at:
                self._spawn(slot)

    def _slot_of(self, job_id: str, attempt: int) -> Slot | None:
        wanted = (job_id, attempt)
        return next((s for s in self._slots if s.run and (s.run.job_id, s.run.attempt) == wanted), None)

    def _spawn(self, slot: Slot) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker.main,
            args=(theirs, slot.spec, os.getpid()),
            name=f"worker {slot.spec.engine.device}",
            daemon=True,
        )
        try:
            with child.safe_path():
                process.start()
        except OSError as e:  # the system allows no further process
            ours.close()
            self._give_up(slot, f"no process could be started: {e.strerror or e}")
            return
        finally:
            theirs.close()  # with this end open, this process would never read EOF
        slot.process, slot.line, slot.state = process, Line(ours, self.wake), WorkerState.STARTING
        slot.doing, slot.killed, slot.refusal = "while starting", False, None

    def _send(self, slot: Slot, message: Run | Cancel | Pause) -> None:
        if slot.line is not None:
            slot.line.say(message)

    def _listen(self, slot: Slot) -> list[Report]:
        """The reports received so far, including the last reports of a worker that has died."""
        line, process = slot.line, slot.process
        if line is None or process is None:
            return []
        # checked before the messages are read, so that no message of a dead worker is missed
        is_gone = line.ended or not process.is_alive()
        found = [said for message in (line.rest() if is_gone else line.take()) for said in self._heard(slot, message)]
        if not is_gone:
            return found
        if line.nonsense:
            log.warning("unreadable message from worker", device=slot.spec.engine.device, error=line.nonsense)
        return found + self._bury(slot)

    def _heard(self, slot: Slot, message: Ready | StartFailed | Said) -> list[Report]:
        match message:
            case Ready():
                slot.failed_starts = 0
                slot.state, slot.doing, slot.error = WorkerState.READY, "while idle", None
                log.info("worker ready", device=slot.spec.engine.device)
            case StartFailed(reason):
                slot.refusal = reason
                if slot.process is not None:
                    slot.process.kill()  # with a partly built engine, the process may never exit by itself
            case Said(_, _, event):
                if isinstance(event, Finished | Failed | Cancelled | Paused):
                    slot.run, slot.state, slot.doing = None, WorkerState.READY, "while idle"
                    self._drop_inputs()
                else:
                    slot.doing = doing(event) or slot.doing
                return [message]
        return []

    def _bury(self, slot: Slot) -> list[Report]:
        process, line, run = slot.process, slot.line, slot.run
        if process is None or line is None:
            return []
        line.close()
        process.join(1.0)
        if process.is_alive():
            process.kill()
            process.join()
        ending = how_it_ended(process.exitcode, slot.killed)
        process.close()
        was_starting = slot.state is WorkerState.STARTING
        slot.process = slot.line = slot.run = None
        self._drop_inputs()
        if slot.refusal is not None:
            self._give_up(slot, slot.refusal)
            return []
        slot.restarts += 1
        evidence = f"the worker on {slot.spec.engine.device} {ending} {slot.doing}"
        log.error("worker died", device=slot.spec.engine.device, evidence=evidence)
        slot.failed_starts += was_starting
        if slot.failed_starts >= START_TRIES:
            self._give_up(slot, f"it {ending} {slot.doing}")
        else:
            self._spawn(slot)
        return [Died(run.job_id, run.attempt, evidence)] if run else []

    def _give_up(self, slot: Slot, why: str) -> None:
        """Marks the worker as broken until the next try. Logs a new reason."""
        if slot.error != why:
            log.error(f"the worker on {slot.spec.engine.device} cannot start: {why}{remedy(why)}", retry_seconds=RETRY)
        slot.state, slot.error, slot.retry_at = WorkerState.BROKEN, why, self._clock() + RETRY
        slot.failed_starts = 0


def remedy(why: str) -> str:
    return "; run `make setup`" if why.startswith(("ImportError", "ModuleNotFoundError")) else ""


def doing(event: Event) -> str | None:
    """What a worker does after this event, for the report of its death. None for an event that does not show what the
    worker does."""
    match event:
        case Stage(name):
            return f"during {name}"
        case Progress("denoise", done, total):
            return f"during denoise, after step {done} of {total}"
        case Progress(stage, done, total):
            return f"during {stage}, after {done} of {total}"
        case _:
            return None


def how_it_ended(exit_code: int | None, killed: bool = False) -> str:
    """How the process ended, for messages. `killed`: whether this server killed it."""
    if exit_code is None or exit_code >= 0:
        return f"ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    if name == "SIGKILL":
        return f"was ended by {name} ({'from this server' if killed else 'perhaps the system was out of memory'})"
    return f"was ended by {name}"
