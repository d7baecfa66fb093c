"""What is known of a transformer and of a file without loading either."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import save_file

from pipelines import lora_file, lora_pickle
from pipelines.lora_file import alpha_of, matched, read
from pipelines.lora_layout import LoraError, layers_of, match
from tests import checkpoints
from tests.pipelines.loras import LAYOUTS, MODULES, draw, tiny, write
from weights.catalog import CATALOG


@pytest.mark.parametrize("kind", checkpoints.KINDS)
def test_layers_by_config_are_those_of_the_transformer(kind: checkpoints.Kind) -> None:
    folder = checkpoints.cached(kind) / "transformer"
    net = CogVideoXTransformer3DModel.from_pretrained(folder)
    real = {
        name: tuple(module.weight.shape)
        for name, module in net.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert layers_of(json.loads((folder / "config.json").read_text())) == real


def published(name: str) -> dict[str, tuple[int, ...]]:
    return layers_of({**CATALOG[name].configs["transformer"], "attention_head_dim": 64})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_base_is_told_by_shape(layout: str) -> None:
    """A LoRA of the published sizes, as shapes only."""

    def shapes(name: str, rank: int = 128) -> dict[str, tuple[int, ...]]:
        out = {}
        for module, (high, wide) in ((m, s) for m, s in published(name).items() if ".attn1." in m):
            down, up = LAYOUTS[layout](module)
            out |= {down: (rank, wide), up: (high, rank)}
        return out

    small, large = shapes("cogvideox-2b"), shapes("cogvideox-5b")
    assert len(match(small, published("cogvideox-2b")).parts) == 30 * 4
    for name in ("cogvideox-5b", "cogvideox-5b-i2v", "cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v"):
        assert len(match(large, published(name)).parts) == 42 * 4
        with pytest.raises(LoraError, match=r"CogVideoX-2B\), the transformer has .*CogVideoX-5B or 1.5-5B"):
            match(small, published(name))
    with pytest.raises(LoraError, match=r"CogVideoX-5B or 1.5-5B\), the transformer has .*CogVideoX-2B"):
        match(large, published("cogvideox-2b"))


def test_layouts_have_names(tmp_path: Path) -> None:
    net = tiny()
    layers = {n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    named = {}
    for layout in LAYOUTS:
        named[layout] = matched(read(write(tmp_path / "a.safetensors", draw(net), layout)), layers).layout
    assert named["diffusers"] == "transformer., lora_A/lora_B"
    assert named["bare"] == "no prefix, lora_A/lora_B"
    assert named["peft dump"] == "raw PEFT dump, lora_A/lora_B"
    assert named["VideoX-Fun"] == "lora_unet__, lora_down/lora_up (kohya, VideoX-Fun)"
    assert named["diffusion_model"].startswith("diffusion_model., ")
    assert named["peft"].startswith("base_model.model., ")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_alpha_tensors_are_read_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    net = tiny()
    layers = {n: tuple(m.weight.shape) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    alphas = {f"transformer.{m}.alpha": torch.tensor(0.5 + n, dtype=dtype) for n, m in enumerate(MODULES)}
    file = read(write(tmp_path / "a.safetensors", draw(net), extra=alphas))
    assert alpha_of(file, matched(file, layers)).values == {m: 0.5 + n for n, m in enumerate(MODULES)}


def test_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for data in (b"", b"\x00" * 8, struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 2) + b"[]", b"<html></html>"):
        path.write_bytes(data)
        with pytest.raises(LoraError, match="cannot be read"):
            read(path)
    header = {"__metadata__": [1], "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    said = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + bytes(4))
    with pytest.raises(LoraError, match="its metadata is not an object"):
        read(path)
    with pytest.raises(LoraError, match="cannot be read"):
        read(tmp_path / "absent.safetensors")


def test_a_digest_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = lora_file.digest(path)
    path.write_bytes(b"another")
    assert lora_file.digest(path) != before


def test_pickles_are_turned_into_safetensors_and_code_in_them_never_runs(tmp_path: Path) -> None:
    net = tiny()
    good = write(tmp_path / "good.safetensors", draw(net))
    from safetensors.torch import load_file

    tensors = load_file(good)
    torch.save({"state_dict": tensors}, tmp_path / "a.pt")
    lora_pickle.convert(tmp_path / "a.pt", tmp_path / "made.safetensors")
    made = load_file(tmp_path / "made.safetensors")
    assert made.keys() == tensors.keys()
    assert all(torch.equal(made[k], v) for k, v in tensors.items())
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> object:
            return (Path.touch, (ran,))

    torch.save({"x": Hostile()}, tmp_path / "b.pt")
    with pytest.raises(LoraError, match="no pickle of plain tensors"):
        lora_pickle.convert(tmp_path / "b.pt", tmp_path / "not.safetensors")
    assert not ran.exists()
    assert not (tmp_path / "not.safetensors").exists()


def test_what_is_no_float_is_refused(tmp_path: Path) -> None:
    layers = {"proj": (4, 4)}
    save_file({"proj.lora_A.weight": torch.ones(2, 4).int(), "proj.lora_B.weight": torch.ones(4, 2).int()},
              tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(LoraError, match="no matrices of floating numbers but I32"):
        matched(read(tmp_path / "a.safetensors"), layers)
