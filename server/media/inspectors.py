"""Checks untrusted files in limited processes, which are killed when a check takes too long or the server stops.

Knows: `server.media.inspector`, turns of API keys, how long a check may take. Does not know: the checks. Quick checks
never wait for slow checks: quick and slow checks have separate turns. An inspector process ends after a slow check, so
that its memory is freed.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from pipelines import child
from pipelines.lora.layout import LoraError
from pipelines.video.probe import LONGEST, PIXELS
from pipelines.video.process import MediaCode, MediaUnreadable
from server.limits.shares import Shares
from server.media import inspector

QUICK, SLOW = (4, 2, 100), (4, 1, 32)  # quick checks at a time: in total, per key, and waiting per key
SLOW_PROCESSES = 6  # slow checks at a time for any number of keys, because each takes up to 1.5 GiB
SECONDS = 60.0  # of real time; the inspector itself limits its CPU time
KEPT = QUICK[0]  # idle inspectors
USES = 200  # checks after which an inspector is replaced


class TooSlow(Exception):
    """A program did not end within its time limit."""


@dataclass
class _Inspector:
    process: Process
    uses: int = 0


class Inspectors:
    """Use from one event loop only. No process runs before the first check. After `stop`, checks raise
    HTTPException 503."""

    def __init__(self) -> None:
        self._quick = Shares("images and LoRAs", *QUICK)
        self._slow = Shares("clips and large images", *SLOW)
        self._memory = asyncio.Semaphore(SLOW_PROCESSES)
        self._idle: list[_Inspector] = []
        self._running: set[Process] = set()
        self._stopped = False

    async def image(self, path: Path, owner: str) -> None:
        """Raises MediaUnreadable, QueueFull."""
        await self._media("image", "image_load_error", path, owner)

    async def clip(self, path: Path, owner: str) -> None:
        """Raises MediaUnreadable, QueueFull."""
        limits = {"longest": LONGEST, "pixels": PIXELS, "slow": True}
        await self._media("clip", "unsupported_video_format", path, owner, **limits)

    async def _media(self, check: str, code: MediaCode, path: Path, owner: str, **more: Any) -> None:
        answer = await self._answer(owner, {"check": check, "path": str(path), "code": code, **more})
        if "error" in answer:
            raise MediaUnreadable(answer.get("code") or code, answer["error"])

    async def lora(self, path: Path, owner: str, config: Path | None = None, alpha: float | None = None) -> None:
        """Checks that the file is a LoRA and fits the transformer of this config.json. Raises LoraError, QueueFull."""
        task = {"check": "lora", "path": str(path), "alpha": alpha, "config": None if config is None else str(config)}
        answer = await self._answer(owner, {**task, "code": None})
        if "error" in answer:
            raise LoraError(answer["error"])

    def slow_turn(self, owner: str) -> AbstractAsyncContextManager[None]:
        """A context manager: waits for a turn to process an untrusted file with another program. Raises QueueFull."""
        return self._slow.turn(owner)

    async def program(self, command: Sequence[str], seconds: float) -> tuple[int, bytes, bytes]:
        """Runs a program without input; returns its exit status, standard output and standard error. Raises TooSlow."""
        process = await self._start(command, DEVNULL, PIPE)
        try:
            async with asyncio.timeout(seconds):
                out, err = await process.communicate()
        except TimeoutError:
            raise TooSlow from None
        finally:
            await self._end(process)
        self._check_stopped()
        return process.returncode or 0, out, err

    def stop(self) -> None:
        """Kills all running processes at once. May be called from a signal handler, and repeatedly."""
        self._stopped = True
        for process in tuple(self._running):
            if process.returncode is None:
                child.end(process.pid)

    async def close(self) -> None:
        self.stop()
        for process in tuple(self._running):
            await self._end(process)

    async def _answer(self, owner: str, task: dict[str, Any]) -> dict[str, Any]:
        if not task.get("slow"):
            async with self._quick.turn(owner):
                answer = await self._asked({**task, "slow": False})
            if not answer.get("slow"):
                return answer
        async with self._slow.turn(owner), self._memory:
            return await self._asked({**task, "slow": True})

    async def _asked(self, task: dict[str, Any]) -> dict[str, Any]:
        one = await (self._fresh() if task["slow"] else self._take())
        answer: dict[str, Any] | None = None
        try:
            assert one.process.stdin is not None and one.process.stdout is not None
            async with asyncio.timeout(SECONDS):
                one.process.stdin.write(json.dumps(task).encode() + b"\n")
                if line := await one.process.stdout.readline():
                    answer = json.loads(line)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        finally:
            one.uses += 1
            if answer is None or task["slow"] or one.uses >= USES or len(self._idle) >= KEPT:
                await self._end(one.process)
            else:
                self._idle.append(one)
        self._check_stopped()
        # an inspector without an answer has exceeded a limit
        return {"error": "it takes too long, or too much memory, to read"} if answer is None else answer

    async def _take(self) -> _Inspector:
        while self._idle:
            one = self._idle.pop()
            if one.process.returncode is None:
                return one
            self._running.discard(one.process)
        return await self._fresh()

    async def _fresh(self) -> _Inspector:
        return _Inspector(await self._start(child.command(inspector.__name__), PIPE, DEVNULL))

    async def _start(self, command: Sequence[str], stdin: int, stderr: int) -> Process:
        self._check_stopped()
        process = await asyncio.create_subprocess_exec(
            *command, stdin=stdin, stdout=PIPE, stderr=stderr, env=child.environment(), start_new_session=True
        )
        self._running.add(process)
        if self._stopped:  # `stop` was called while this process was starting
            await self._end(process)
            self._check_stopped()
        return process

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            child.end(process.pid)
        await process.wait()
        self._running.discard(process)

    def _check_stopped(self) -> None:
        if self._stopped:
            raise HTTPException(503, "The server is stopping; send the request again later")
