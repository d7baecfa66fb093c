"""Compares two of RIFE's networks with recorded output of the author's code; the tests give the other networks weights
whose effect is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pipelines.frames import rife
from pipelines.frames.rife import IFNet, Shape, build, interpolate, load, plan

GOLDEN = Path(__file__).parents[2] / "golden" / "rife" / "golden.npz"

FULL = (192, 128, 96, 64)
LITE = (128, 96, 64, 48)
FOUR, FIVE = (8, 4, 2, 1), (16, 8, 4, 2, 1)
# version -> shape, number of the first block's inputs, millions of parameters, multiple for padding
VERSIONS: dict[str, tuple[Shape, int, float, int]] = {
    "4.6": (Shape(FULL, 24, 0, 0, 0, FOUR), 7, 5.3, 32),
    "4.7": (Shape(FULL, 24, 2, 16, 4, FOUR), 15, 5.3, 32),
    "4.10": (Shape(FULL, 24, 4, 32, 8, FOUR), 23, 5.4, 32),
    "4.13": (Shape(FULL, 24, 4, 32, 8, FOUR), 23, 5.4, 32),
    "4.12.lite": (Shape(LITE, 24, 4, 32, 4, FOUR), 15, 2.6, 32),
    "4.15.lite": (Shape(LITE, 24, 4, 16, 4, FOUR), 15, 2.6, 32),
    "4.20": (Shape((384, 192, 96, 48), 24, 4, 32, 8, FOUR), 23, 15.4, 32),
    "4.22": (Shape((256, 192, 96, 48), 52, 4, 32, 8, FOUR), 23, 9.3, 32),
    "4.22.lite": (Shape((192, 128, 64, 32), 52, 4, 16, 4, FOUR), 15, 4.9, 32),
    "4.25": (Shape((192, 128, 96, 64, 32), 52, 4, 16, 4, FIVE), 15, 5.7, 64),
    "4.25.lite": (Shape((192, 128, 96, 64, 24), 52, 4, 16, 4, (32, 16, 8, 4, 1)), 15, 5.6, 128),
    "4.25.heavy": (Shape((384, 256, 192, 128, 64), 52, 4, 16, 4, FIVE), 15, 21.7, 64),
    "4.26.heavy": (Shape((192, 128, 96, 64, 32), 52, 4, 16, 16, FIVE), 39, 5.7, 64),
}
PLANES = ["x0", "y0", "x1", "y1", "mask"]
TINY = Shape((8, 6, 4, 4), 24, 4, 4, 4, FOUR)
SEQUENTIAL_ENCODER = {"4.7", "4.10", "4.12.lite"}


def golden_spec() -> dict[str, Any]:
    with np.load(GOLDEN) as data:
        spec: dict[str, Any] = json.loads(str(data["spec"]))
    return spec


def golden_weights(spec: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Weights from NumPy's legacy generator, whose numbers never change; the recorded output was made with the same
    weights."""
    out = {}
    for k, (name, entry) in enumerate(sorted(spec.items())):
        random, shape = np.random.RandomState(seed * 1000 + k), tuple(entry["shape"])
        if name.endswith("beta"):
            values = random.rand(*shape) + 0.5
        else:
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 64
            values = random.randn(*shape) * fan_in**-0.5
        out[name] = torch.from_numpy((values * entry["gain"]).astype(np.float32))
    return out


def golden_pair(height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    random, picture = np.random.RandomState(seed), torch.zeros(1, 3, height, width)
    for k in (3, 7, 17, 41):
        coarse = random.rand(1, 3, max(2, height // k), max(2, width // k)).astype(np.float32)
        picture += F.interpolate(torch.from_numpy(coarse), (height, width), mode="bilinear", align_corners=False) * k
    picture = (picture - picture.amin()) / (picture.amax() - picture.amin())
    return picture[0], (torch.roll(picture, (3, -5), (2, 3)) * 0.9 + 0.05)[0]


def draw(net: IFNet, a: Tensor, b: Tensor, t: float) -> Tensor:
    return rife._Frame(net, a).towards(rife._Frame(net, b), t)


@pytest.mark.parametrize("version", ["4.25", "4.6"])
def test_recorded_output(version: str) -> None:
    entry = golden_spec()[version]
    net = build(golden_weights(entry["weights"], entry["seed"]))
    assert net.shape == VERSIONS[version][0]
    with np.load(GOLDEN) as data:
        for k, (height, width, t) in enumerate(entry["cases"]):
            wanted = torch.from_numpy(data[f"{version}/{k}"].astype(np.float32))[0]
            before, after = golden_pair(height, width, entry["seed"] + k)
            drawn = draw(net, before, after, t)
            torch.testing.assert_close(net(before[None], after[None], t)[0], drawn, rtol=0, atol=0)
            assert (drawn - wanted).abs().max() < 4e-4  # the recording is in float16, which rounds by up to 2.4e-4


def state_dict(version: str | Shape, **biases: float) -> dict[str, Tensor]:
    """A state dict with the names from the published files. All values are zero, except for the given biases of
    lastconv's planes."""
    shape = version if isinstance(version, Shape) else VERSIONS[version][0]
    with torch.device("meta"):
        net = IFNet(shape)
    out = {}
    for key, value in net.state_dict().items():
        if key.startswith("encode.") and version not in SEQUENTIAL_ENCODER:
            _, layer, kind = key.split(".")
            key = f"encode.cnn{int(layer) // 2}.{kind}"
        out[key] = torch.zeros(value.shape)
        if key.endswith("lastconv.0.bias"):
            planes = out[key].view(-1, 4)
            for name, bias in biases.items():
                planes[PLANES.index(name)] = bias
    return out


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_read_off_its_shapes(version: str) -> None:
    shape, first, millions, multiple = VERSIONS[version]
    weights = state_dict(version)
    net = build(weights)
    assert net.shape == shape
    assert net.shape.multiple == multiple
    assert weights["block0.conv0.0.0.weight"].shape[1] == first
    later = first + 1 + (8 if shape.out == 52 else 0) + 4
    assert {weights[f"block{k}.conv0.0.0.weight"].shape[1] for k in range(1, len(shape.widths))} == {later}
    assert round(sum(v.numel() for v in weights.values()) / 1e6, 1) == millions
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(("version", "count"), [("4.6", 120), ("4.13", 128), ("4.25", 158)])
def test_tensor_counts_of_the_published_files(version: str, count: int) -> None:
    assert len(state_dict(version)) == count


@pytest.mark.parametrize("version", VERSIONS)
def test_flow_and_mask_mean_what_they_should(version: str) -> None:
    shape, *_ = VERSIONS[version]
    total = sum(shape.scales)
    # the first frame's flow is 3 pixels right, the second frame's is 2 up; each block adds its bias times its scale
    net = build(state_dict(version, x0=3 / total, y1=-2 / total, mask=0.7))
    a, b = golden_pair(64, 96, 5)
    moved_a = torch.cat((a[:, :, 3:], a[:, :, -1:].expand(-1, -1, 3)), 2)
    moved_b = torch.cat((b[:, :1].expand(-1, 2, -1), b[:, :-2]), 1)
    logit = 0.7 * len(shape.widths) if version == "4.6" else 0.7
    share = 1 / (1 + np.exp(-logit))
    inside = (slice(None), slice(2, None), slice(None, 90))  # the columns right of these show the zero padding
    drawn = draw(net, a, b, 0.5)
    assert (drawn - (moved_a * share + moved_b * (1 - share)))[inside].abs().max() < 2e-4


def test_frames_of_any_size_come_back_uncropped_and_unpadded() -> None:
    net = build(state_dict(Shape((8, 8, 8, 8, 8), 52, 4, 4, 4, FIVE)))
    for size in ((64, 64), (1, 2), (65, 127), (90, 30)):
        a, b = torch.rand(3, *size), torch.rand(3, *size)
        assert torch.allclose(draw(net, a, b, 0.25), (a + b) / 2, atol=1e-4)


# --- frame times


@pytest.mark.parametrize(
    ("n", "source", "target", "count", "drawn"),
    [
        *((49, 8, 16, 97, 48), (49, 8, 24, 145, 96), (49, 8, 30, 181, 168), (49, 8, 32, 193, 144)),
        *((49, 8, 60, 361, 336), (49, 8, 4, 25, 0), (81, 16, 32, 161, 80), (81, 16, 30, 151, 140)),
        *((49, 8, 8, 49, 0), (1, 8, 60, 1, 0), (2, 8, 4, 1, 0)),
    ],
)
def test_plan(n: int, source: int, target: int, count: int, drawn: int) -> None:
    places = plan(n, source, target)
    assert len(places) == count
    assert sum(t != 0 for _, t in places) == drawn
    assert places[0] == (0, 0.0)
    for k, (i, t) in enumerate(places):
        assert i + t == pytest.approx(k * source / target, abs=1e-9)
        assert 0 <= t < 1
        assert i + (t > 0) < n


def test_plan_refuses() -> None:
    for bad in ((0, 8, 16), (5, 0, 16), (5, 8, -1), (5, 8, float("nan"))):
        with pytest.raises(ValueError):
            plan(*bad)
    with pytest.raises(ValueError):
        interpolate(build(state_dict(TINY)), [], 8, 0)


def test_interpolate_follows_the_plan_and_keeps_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build(state_dict(TINY))
    frames = [torch.full((3, 40, 50), 0.1 * k) for k in range(5)]
    encoded: list[float] = []
    plain = IFNet.encoded

    def counting(self: IFNet, frame: Tensor) -> Tensor:
        encoded.append(float(frame[0, 0, 0, 0]))
        return plain(self, frame)

    monkeypatch.setattr(IFNet, "encoded", counting)
    for target in (8, 16, 30, 6, 4):
        encoded.clear()
        out = list(interpolate(net, iter(frames), 8, target))
        places = plan(5, 8, target)
        assert len(out) == len(places)
        for drawn, (i, t) in zip(out, places, strict=True):
            assert drawn.shape == (3, 40, 50)
            if t == 0:
                assert drawn is frames[i]
            else:
                assert torch.allclose(drawn, torch.tensor(0.1 * i + 0.05), atol=1e-5)
        assert len(encoded) == len(set(encoded)), "a frame was encoded twice"
        assert target not in (8, 4) or not encoded


def test_interpolate_streams() -> None:
    net = build(state_dict(TINY))
    taken = []

    def source() -> Iterator[Tensor]:
        for k in range(9):
            taken.append(k)
            yield torch.zeros(3, 32, 32)

    out = interpolate(net, source(), 8, 16)
    for expected in ([0], [0, 1], [0, 1], [0, 1, 2]):
        next(out)
        assert taken == expected
    assert not torch.is_inference_mode_enabled()


def test_half_frames_come_back_half() -> None:
    net = build(state_dict(TINY))
    out = list(interpolate(net, [torch.rand(3, 32, 32).half() for _ in range(2)], 1, 2))
    assert [f.dtype for f in out] == [torch.float16] * 3


def test_interpolate_refuses_other_frames() -> None:
    net = build(state_dict(TINY))
    for bad in (torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="frames must be"):
            list(interpolate(net, [bad, bad], 8, 16))
    with pytest.raises(ValueError, match="differ in size"):
        list(interpolate(net, [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], 8, 16))


# --- files


def test_forms_of_published_files(tmp_path: Path) -> None:
    plain = state_dict(Shape((8, 8, 8, 8, 8), 52, 4, 4, 4, FIVE), mask=1.0)
    extra = {"teacher.block0.x": torch.zeros(1), "caltime.0.weight": torch.zeros(1)}
    forms: list[dict[str, Tensor]] = [
        {f"module.{k}": v for k, v in (plain | extra).items()},
        {
            f"flownet.{k}".replace("block", "blocks.", 1) if ".conv" in k else f"flownet.{k}": v
            for k, v in plain.items()
        },
    ]
    a, b = golden_pair(64, 64, 3)
    wanted = draw(build(plain), a, b, 0.5)
    for k, form in enumerate(forms):
        torch.save(form, tmp_path / f"{k}.pkl")
        save_file(form, tmp_path / f"{k}.safetensors")
        for suffix in ("pkl", "safetensors"):
            assert torch.equal(draw(load(tmp_path / f"{k}.{suffix}", "cpu"), a, b, 0.5), wanted)
    halves = {k: v.half() for k, v in plain.items()}
    assert next(build(halves).parameters()).dtype == torch.float32


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/nonexistent/evil"),)


def test_files_that_are_none(tmp_path: Path) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pkl")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pkl").write_bytes(b"")
    (tmp_path / "a.onnx").write_bytes(b"")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=path.name):
            load(path, "cpu")
    with pytest.raises(OSError):
        load(tmp_path / "absent.pkl", "cpu")
    with pytest.raises(OSError):
        load(tmp_path / "absent.safetensors", "cpu")


def changed(base: dict[str, Tensor], **changes: Tensor) -> dict[str, Tensor]:
    return base | {k.replace("__", "."): v for k, v in changes.items()}


def test_other_generations_are_refused_with_advice() -> None:
    base = state_dict("4.6")
    without_beta = {k: v for k, v in base.items() if not k.endswith("beta")}
    refused = {
        "RIFE v3": {"module.block0.convblock0.0.0.weight": torch.zeros(1)},
        "RIFE v3 weights": {"block_tea.conv0.0.0.weight": torch.zeros(1)},
        "4.0 to 4.5": without_beta,
        "4.0 to 4.5 weights": changed(base, block0__lastconv__0__weight=torch.zeros(192, 20, 4, 4)),
        "4.14.lite": changed(base, block0__convblock__0__conv__weight=torch.zeros(192, 48, 3, 3)),
        "no RIFE weights": {"layer.weight": torch.zeros(1)},
        "fit no RIFE": base | {"surprise": torch.zeros(1)},
        "lack": {k: v for k, v in base.items() if k != "block2.conv0.1.0.weight"},
    }
    for words, weights in refused.items():
        with pytest.raises(ValueError, match=words) as e:
            build(weights)
        assert "get flownet 4.25" in str(e.value)
    with pytest.raises(ValueError):
        build({})


KEYS = (
    "block0.lastconv.0.weight", "block0.lastconv.0.bias", "block0.conv0.0.0.weight", "block3.conv0.1.0.weight",
    "block0.convblock.0.conv.weight", "block0.convblock.0.beta", "encode.0.weight", "encode.6.weight", "encode.2.bias",
)  # fmt: skip
SHAPES: tuple[tuple[int, ...], ...] = (
    (), (1,), (23,), (0,), (4, 24), (2, 3, 4), (1, 24, 1, 1), (0, 24, 4, 4), (5, 24, 0, 4), (1, 1, 1, 1, 1),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # torch's warning about layers without channels
@pytest.mark.parametrize("key", KEYS)
def test_tensors_of_any_shape_are_refused_in_words(key: str) -> None:
    plain = build(state_dict(TINY)).state_dict()
    build(plain)
    hostile = [torch.zeros(shape) for shape in SHAPES]
    hostile += [torch.zeros(1).expand(shape) for shape in ((2**40, 8, 3, 3), (8, 2**40, 3, 3), (3, 24, 2**40, 2))]
    hostile += [plain[key].to(kind) for kind in (torch.int64, torch.uint8, torch.bool, torch.complex64)]
    hostile.append(plain[key].to_sparse())
    for tensor in hostile:
        for weights in (plain | {key: tensor}, {key: tensor}):
            with pytest.raises(ValueError, match=r"get flownet 4\.25"):
                build(weights)


def test_names_of_any_kind_are_refused_in_words() -> None:
    plain = build(state_dict(TINY)).state_dict()
    odd: list[dict[Any, Tensor]] = [{7: torch.zeros(1)}, plain | {None: torch.zeros(1)}]
    odd += [plain | {f"encode.{n}.weight": plain["encode.0.weight"]} for n in ("00", "8", "9" * 5000)]
    for weights in odd:
        with pytest.raises(ValueError, match=r"get flownet 4\.25"):
            build(weights)
