"""Upscalers: tiling, half precision, running out of memory, and loading of files."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipelines.errors import GenerationError
from pipelines.events import Log
from pipelines.frames.upscaler import Upscaler, load, tiled
from tests.rigs import upscalers
from tests.rigs.engines import ask, finished, new_engine
from tests.rigs.upscalers import Architecture, small

CPU = torch.device("cpu")


def waves(height: int, width: int) -> Tensor:
    """A uint8 frame [3, H, W] without two equal neighbourhoods."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [torch.sin(x / 9 + y / 31), torch.cos(y / 7), torch.sin((x - y) / 13)]
    return ((torch.stack(planes) * 0.45 + 0.5) * 255).round().to(torch.uint8)


class FakeX4(nn.Module):
    """A 4x network in which input pixels up to 4 away affect an output pixel, so that tile borders matter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Tanh(), nn.Conv2d(8, 48, 5, padding=2))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.shape[2], x.shape[3]))
        large = nn.functional.interpolate(x, scale_factor=4, mode="nearest")
        return large * 0.8 + nn.functional.pixel_shuffle(self.net(x), 4) * 0.2


@pytest.mark.parametrize("size", [(96, 160), (97, 131), (40, 200), (33, 33)])
def test_tiles_make_the_whole_frame(size: tuple[int, int]) -> None:
    net, picture = FakeX4(), waves(*size)[None] / 255
    whole = tiled(net, picture, 4, None, 0)
    net.seen.clear()
    pieces = tiled(net, picture, 4, 48, 16)
    assert pieces.shape == whole.shape == (1, 3, size[0] * 4, size[1] * 4)
    assert all(h <= 48 and w <= 48 for h, w in net.seen) and (len(net.seen) > 1) == (max(size) > 48)
    assert (pieces - whole).abs().mean() < 1e-3
    assert (pieces - whole).abs().max() < 0.02, "also at tile borders"


def test_seams_fade() -> None:
    """Tiles of different brightness blend without a step between neighbouring pixels."""
    levels = iter([0.2, 0.6, 0.4, 0.8])

    def uneven(x: Tensor) -> Tensor:
        return torch.full((1, 3, x.shape[2] * 4, x.shape[3] * 4), next(levels))

    out = tiled(uneven, torch.zeros(1, 3, 48, 80), 4, 48, 16)
    steps = out[0, 0, 0].diff().abs()
    assert out[0, 0, 0, 0] == pytest.approx(0.2) and out[0, 0, 0, -1] == pytest.approx(0.6)
    assert steps.max() < 0.4 / 60, "0.4 of difference over 64 pixels of overlap"


@pytest.mark.parametrize("overlap", [-1, 48])
def test_an_overlap_that_is_none(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        tiled(FakeX4(), torch.zeros(1, 3, 60, 60), 4, 48, overlap)


def test_frames_are_bytes_in_and_out() -> None:
    large = Upscaler(lambda x: nn.functional.interpolate(x, scale_factor=4, mode="nearest"), 4, CPU)(waves(20, 30))
    assert large.dtype == torch.uint8 and torch.equal(large[:, ::4, ::4], waves(20, 30))


def test_in_half_precision_frames_are_the_same_but_for_rounding() -> None:
    frame = waves(24, 40)
    full, half = (
        Upscaler(FakeX4().to(dtype), 4, CPU, dtype)(frame).to(torch.int16) for dtype in (torch.float32, torch.float16)
    )
    assert full.shape == half.shape == (3, 96, 160)
    assert 0 < (full - half).abs().max() <= 1


def test_memory_that_runs_out_ends_in_tiles() -> None:
    net = FakeX4()

    def small(x: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] > 256 * 256:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return net(x)

    upscaler = Upscaler(small, 4, CPU)
    upscaler.tile = None
    frame = waves(270, 300)
    whole = (tiled(net, frame[None] / 255, 4, None, 0)[0].clamp(0, 1) * 255).round()
    assert (upscaler(frame).float() - whole).abs().max() <= 3
    assert upscaler.tile == 256, "the tile size is kept for later frames"

    def never(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory (pretended)")

    for whole_only in (False, True):
        with pytest.raises(torch.OutOfMemoryError):
            Upscaler(never, 4, CPU, whole=whole_only)(frame)


def test_a_larger_file_is_made_from_larger_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, request = write(tmp_path / "net.pth"), ask(width=160, height=120, num_inference_steps=1)
    net, plainly = FakeX4(), finished(new_engine().run(request, "5b"))
    monkeypatch.setattr(
        "pipelines.frames.upscaler.load", lambda file, device: Upscaler(net, 4, device, name=file.name, sha256="ab")
    )
    engine = new_engine(upscaler=path)
    events = list(engine.run(request, "5b"))
    result = finished(events)
    assert (result.width, result.height, result.frames, len(net.seen)) == (160, 120, 9, 9)
    assert set(net.seen) == {(48, 64)}
    assert result.manifest["upscaler"] == {"file": "net.pth", "sha256": "ab", "scale": 4}
    assert result.video != plainly.video and "upscaler" not in plainly.manifest
    assert any(isinstance(e, Log) and "enlarged 4 times by net.pth" in e.message for e in events)
    assert finished(engine.run(request, "5b")).video == result.video
    native = finished(engine.run(ask(num_inference_steps=1), "5b"))
    assert len(net.seen) == 18 and "upscaler" not in native.manifest, "no upscaling at the model's own size"


@pytest.mark.parametrize("name", ["net.pth", "missing.pth", "net.txt"])
def test_a_wrong_file_fails_the_video_and_not_the_engine(name: str, tmp_path: Path) -> None:
    write(tmp_path / "net.pth")
    engine = new_engine(upscaler=tmp_path / name)
    with pytest.raises(GenerationError, match=f"upscaler: {name}") as e:
        list(engine.run(ask(width=160, height=120, num_inference_steps=1), "5b"))
    assert e.value.code == "model_error" and str(tmp_path) not in e.value.message
    assert finished(engine.run(ask(num_inference_steps=1), "5b")).frames == 9


def write(path: Path) -> Path:
    path.write_bytes(b"PK\3\4" + b"\0" * 100)
    return path


def test_what_cannot_be_loaded_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError):
        load(tmp_path / "missing.pth", CPU)
    with pytest.raises(ValueError, match=r"net.pt: upscalers are .safetensors and .pth files"):
        load(write(tmp_path / "net.pt"), CPU)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ValueError, match=r"net.pth needs the package spandrel"):
        load(write(tmp_path / "net.pth"), CPU)


@pytest.fixture
def spandrel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return upscalers.spandrel(monkeypatch)


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.usefixtures("spandrel")
def test_files_that_spandrel_reads(architecture: Architecture, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = small(architecture).eval(), tmp_path / f"net{suffix}"
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    if suffix == ".pth":
        torch.save({"params_ema": state}, path)
    else:
        save_file(state, path)
    upscaler, frame = load(path, CPU), waves(40, 56)
    assert (upscaler.scale, upscaler.for_manifest()["file"], len(upscaler.sha256)) == (4, path.name, 64)
    with torch.no_grad():
        expected = (network(frame[None] / 255)[0].clamp(0, 1) * 255).round()
    assert (upscaler(frame).float() - expected).abs().max() <= 1


class _Shell:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


def test_files_that_spandrel_does_not_read(
    spandrel: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"params": _Shell(), "n": np.float64(1)}))
    for name in ("other.safetensors", "torn.safetensors", "evil.pth"):
        with pytest.raises(ValueError, match=rf"^{name} is no upscaler that spandrel"):
            load(tmp_path / name, CPU)
    assert capsys.readouterr().out == "", "code in a file does not run"
