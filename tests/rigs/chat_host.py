"""A chat API on loopback whose responses tests configure; it records its requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.rigs.loopback import serving


class Chat:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.says: Any = "steps=2 a reworded prompt"  # text, or a whole body
        self.status = 200
        self.headers: dict[str, str] = {}
        self.waits = 0.0
        self.drips = 0.0  # seconds between two bytes of the response
        self.url = ""


@contextmanager
def chat_host() -> Iterator[Chat]:
    chat = Chat()

    class Handler(BaseHTTPRequestHandler):
        def flush_headers(self) -> None:
            self.sent(b"".join(self._headers_buffer))
            self._headers_buffer: list[bytes] = []

        def sent(self, data: bytes) -> None:
            for at in range(len(data)) if chat.drips else ():
                time.sleep(chat.drips)
                self.wfile.write(data[at : at + 1])
            self.wfile.write(b"" if chat.drips else data)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chat.asked.append(body | {"path": self.path})
            chat.keys.append(self.headers.get("authorization"))
            time.sleep(chat.waits)
            says = chat.says
            if isinstance(says, str):
                says = json.dumps({"choices": [{"message": {"role": "assistant", "content": says}}]}).encode()
            try:
                self.send_response(chat.status)
                for name, value in chat.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(says)))
                self.end_headers()
                self.sent(says)
            except OSError:  # the client has disconnected
                pass

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    with serving(server):
        yield chat
