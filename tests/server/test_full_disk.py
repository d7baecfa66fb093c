"""Every façade on a full disk; the tests mount a small file system, which only root can do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.house import House
from tests.rigs.house import app, ended, house_of, submit, until

MIB = 2**20
BIG = bytes(3 * MIB)
FORM = {"content": ("a.bin", BIG, "application/octet-stream")}
B5 = "cuuupid/cogvideox-5b"
SENT: dict[str, tuple[str, dict[str, Any]]] = {
    "fal submit": ("/queue/fal-ai/cogvideox-5b", {"json": {"prompt": "a"}}),
    "fal refused": ("/queue/fal-ai/cogvideox-5b", {"json": {"prompt": 5}}),
    "fal upload": ("/files/upload", {"content": BIG}),
    "segmind": ("/v2/cog-video-5b-t2v", {"json": {"prompt": "a"}}),
    "segmind upload": ("/upload-asset", {"json": {"data_urls": ["data:text/plain," + "x" * 3 * MIB]}}),
    "zhipu": ("/api/paas/v4/videos/generations", {"json": {"model": "cogvideox-3", "prompt": "a"}}),
    "modelslab": ("/api/v6/video/text2video", {"json": {"prompt": "a", "model_id": "cogvideox"}}),
    "modelslab upload": ("/api/v6/base64_to_url", {"json": {"base64_string": "QUJD" * MIB}}),
    "openai": ("/v1/videos", {"json": {"prompt": "a"}}),
    "openai file": ("/v1/files", {"files": {"file": ("a.png", BIG)}, "data": {"purpose": "vision"}}),
    "replicate": (f"/v1/models/{B5}/predictions", {"json": {"input": {"prompt": "a"}}}),
    "replicate file": ("/replicate/v1/files", {"files": FORM}),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def fill(folder: Path) -> Path:
    """Fills the disk to the last byte."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return ballast


def left_over(house: House) -> list[str]:
    data = house.data
    folders = (data.uploads, data.temporary, data.inputs, data.loras)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    torn = [path for path in data.artifacts.iterdir() if not any(p.name[0] != "." for p in path.iterdir())]
    return [str(path) for path in (*files, *torn)]


@pytest.mark.parametrize("floor", [0, 4])
def test_every_call_on_a_full_disk(tmp_path: Path, small_disk: Path, floor: int) -> None:
    application = app(tmp_path, data_dir=small_disk / "data", min_free_mb=floor)
    with TestClient(application, base_url="http://here:8000", raise_server_exceptions=False) as client:
        house = house_of(application)
        until(lambda: client.get("/health/ready").status_code == 200)
        going = submit(house, "steps=20 sleep=0.1 bytes=100")
        until(lambda: house.store.get(going.id).status == "running")  # type: ignore[union-attr]
        ballast = fill(small_disk)
        for what, (path, sent) in SENT.items():
            answer = client.post(path, **sent)
            told = answer.text.lower()
            assert answer.status_code in (503, 507) or "disk" in told or answer.is_success, (
                what,
                answer.status_code,
                told,
            )
            assert answer.status_code != 500 and "traceback" not in told, (what, told)
        assert left_over(house) == []
        ballast.unlink()
        until(lambda: client.get("/health/live").status_code == 200)
        for what, (path, sent) in SENT.items():
            answer = client.post(path, **sent)
            assert answer.is_success, (what, answer.status_code, answer.text)
        assert ended(house, going, 60).status in ("succeeded", "failed"), "the job is not lost"
