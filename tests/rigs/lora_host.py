"""LoRA files for the tiny checkpoints, and a host on a loopback port that serves these files and unusable files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import save, save_file

from tests.rigs.loopback import serving

HTML = b"<!DOCTYPE html><html><body>Log in to download style.safetensors</body></html>"


def tensors(width: int = 32, blocks: int = 2, rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """A diffusers LoRA for the attention layers of a transformer of this width."""
    g = torch.Generator().manual_seed(seed)
    names = [f"transformer.transformer_blocks.{n}.attn1.{one}" for n in range(blocks) for one in ("to_q", "to_v")]
    return {
        f"{name}.lora_{half}.weight": torch.randn((rank, width) if half == "A" else (width, rank), generator=g)
        for name in names
        for half in "AB"
    }


def lora(**shape: int) -> bytes:
    return save(tensors(**shape), metadata={"format": "pt"})


def lora_file(path: Path, **shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(**shape), path, metadata={"format": "pt"})
    return path


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("style.safetensors", lora())
    return data.getvalue()


class Host(ThreadingHTTPServer):
    """A host that serves `files`, the content at each path. `asked` lists the requested paths in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {
            "/style.safetensors": lora(),
            "/wide.safetensors": lora(width=64),
            "/html": HTML,
            "/torn.safetensors": lora()[:-50],
            "/empty": b"",
            "/style.zip": zipped(),
            "/style.gguf": b"GGUF" + bytes(60),
            "/large": bytes(3 * 2**20),
        }
        self.asked: list[str] = []

    def url(self, path: str = "/style.safetensors") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path.partition("?")[0])
        self.send_response(404 if data is None else 200)
        self.send_header("content-length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hosted() -> Iterator[Host]:
    host = Host()
    with serving(host):
        yield host
