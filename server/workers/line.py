"""The connection to a worker process: sends and receives whole messages without ever blocking on an incomplete one.

Knows: a pipe, a thread that reads it and a thread that writes it. Does not know: the messages, processes.
A worker that stops in the middle of a message (SIGSTOP, swapping) blocks only these two threads.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

UNHEARD = 64  # the most received messages that wait for `take`; beyond this number, the sender has to wait
REST_SECONDS = 1.0


class Line:
    """`nudge` is called, from another thread, when a message has arrived or the line has ended."""

    def __init__(self, pipe: Connection, nudge: Callable[[], None]) -> None:
        self._pipe = pipe
        self._nudge = nudge
        self._heard: queue.Queue[Any] = queue.Queue(UNHEARD)
        self._to_say: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closing = False
        self.ended = False  # no further message will arrive
        self.nonsense = ""  # the type of the error that ended the line; "" if the other side closed the line
        self._reader = threading.Thread(target=self._read, name="line, reading", daemon=True)
        self._writer = threading.Thread(target=self._write, name="line, writing", daemon=True)
        self._reader.start()
        self._writer.start()

    def say(self, message: Any) -> None:
        """Sends a message; returns at once. If the other side has died, the message is dropped."""
        self._to_say.put(ForkingPickler.dumps(message))

    def take(self) -> list[Any]:
        """All complete messages so far, in order."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._heard.get_nowait())
        return found

    def rest(self) -> list[Any]:
        """The last messages of the other side after its death."""
        found, until = self.take(), time.monotonic() + REST_SECONDS
        while not self.ended and time.monotonic() < until:
            self._reader.join(0.01)
            found += self.take()
        return found + self.take()

    def close(self) -> None:
        """Closes the line; the other side reads EOF, even in the middle of a message."""
        self._closing = True
        # close() alone would not wake the threads that are waiting for this pipe, on either side
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._pipe.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        self._to_say.put(None)
        for thread in (self._reader, self._writer):
            thread.join(REST_SECONDS)
        if not (self._reader.is_alive() or self._writer.is_alive()):  # otherwise the last thread to end closes it
            self._pipe.close()

    def _read(self) -> None:
        try:
            while not self._closing:
                self._keep(self._pipe.recv())
                self._nudge()
        except (EOFError, OSError):
            pass
        except Exception as e:  # unpickling an incomplete message can raise any error
            self.nonsense = type(e).__name__
        finally:
            self.ended = True
            self._nudge()

    def _keep(self, message: Any) -> None:
        while not self._closing:
            try:
                self._heard.put(message, timeout=0.1)
            except queue.Full:
                continue
            return

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while (message := self._to_say.get()) is not None:
                self._pipe.send_bytes(message)
