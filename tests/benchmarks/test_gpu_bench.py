"""The GPU benchmark with a tiny model on the CPU: every section runs, and the reported bit equality is correct."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, report
from benchmarks.ours_and_plain import ours, plain
from benchmarks.random_checkpoints import KINDS, Kind, build
from pipelines.engine.memory import LADDER, Placement

CPU = torch.device("cpu")
PUBLISHED: dict[Kind, float] = {"2b": 1.694, "5b": 5.570, "5b-i2v": 5.570, "1.5-5b": 5.571}


@pytest.mark.slow
def test_every_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu.main(["--tiny", "--budget", "1000000"]) == 0
    (path,) = tmp_path.glob("*-tiny-gpu-5b-cpu.json")
    result = json.loads(path.read_text())
    assert result["errors"] == {}
    found = result["found"]
    same = {"latents": True, "frames": True}
    for pair in (found["short"], found["full"]):
        assert pair["equal"] == same
        assert pair["plain"]["finite"]
        assert pair["plain"]["frames_std"] > 1, "flat frames would make the comparison meaningless"
        assert pair["ratio_step"] > 0
        assert pair["ratio_peak"] is None, "PyTorch records no peak memory on a CPU"
        assert pair["ours"]["file_bytes"] > 0
    assert found["short"]["order"] == ["plain", "ours"]
    assert found["full"]["order"] == ["ours", "plain"]
    assert found["same_seed_twice"]["equal"] == same
    assert [one["rung"] for one in found["rungs"]] == [str(rung) for rung in LADDER]
    assert all(one["equal"]["latents"] and one["frames"] == [9, 48, 64, 3] for one in found["rungs"])
    assert [one["equal"]["frames"] for one in found["rungs"]] == [None if rung.tiling else True for rung in LADDER]
    assert found["out_of_memory"]["finished"]
    assert found["out_of_memory"]["latents_equal"]
    assert len(found["out_of_memory"]["climbed"]) == 2
    assert result["machine"]["cpu"]
    assert result["versions"]["torch"] == torch.__version__
    header, rule, line, *rest = path.with_suffix(".md").read_text().splitlines()
    assert rest == []
    assert header.count("|") == rule.count("|") == line.count("|")
    assert "latents yes, frames yes" in line


def test_without_time_it_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu.main(["--tiny", "--budget", "0.001", "--quick"]) == 0
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["found"]["short"] is None
    assert result["errors"]["short"].startswith("not measured")
    assert report.NOT_MEASURED in path.with_suffix(".md").read_text()


@pytest.mark.slow
def test_an_error_in_one_section_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))

    def broken(*_: object) -> None:
        raise ValueError("broken on purpose")

    monkeypatch.setattr(gpu.Bench, "pair", broken)
    assert gpu.main(["--tiny", "--quick", "--budget", "1000000"]) == 1
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["errors"]["short"] == "ValueError: broken on purpose"
    assert result["found"]["same_seed_twice"]["equal"]["latents"]


@pytest.mark.parametrize("kind", KINDS)
def test_both_paths_agree_on_every_shape(kind: Kind) -> None:
    """The frames also have the planned size with VAE tiling."""
    model = build(kind, CPU, "tiny")
    plan, source = gpu.a_plan(model, 2)
    placement = Placement(model.modules, CPU)
    placement.apply(LADDER[0])
    a, b = plain(model, plan, CPU, source), ours(model, plan, placement, source)
    assert gpu.equal(a, b) == {"latents": True, "frames": True}
    placement.apply(LADDER[2])
    tiled = ours(model, plan, placement, source)
    assert a.frames.shape == tiled.frames.shape == (plan.video.num_frames, plan.video.height, plan.video.width, 3)
    if source is None:  # with an image, tiled encoding changes the latents
        assert torch.equal(tiled.latents, b.latents)


def test_a_seed_draws_the_same_weights_and_no_zeros() -> None:
    first, second, other = (build("2b", CPU, "tiny", seed) for seed in (0, 0, 1))
    for module in ("text_encoder", "transformer", "vae"):
        pairs = list(zip(first.modules[module].parameters(), second.modules[module].parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in pairs)
        assert all(a.abs().max() > 0 for a, _ in pairs)
    assert not torch.equal(first.transformer.proj_out.weight, other.transformer.proj_out.weight)


@pytest.mark.slow
def test_the_true_shapes_have_the_published_number_of_parameters() -> None:
    """The numbers are in billions; T5-XXL's encoder has 4.762 billion parameters."""
    meta = torch.device("meta")
    for kind, published in PUBLISHED.items():
        model = build(kind, meta)
        counted = {name: sum(p.numel() for p in module.parameters()) / 1e9 for name, module in model.modules.items()}
        assert round(counted["transformer"], 3) == published
        assert round(counted["text_encoder"], 3) == 4.762
        assert model.transformer.dtype is (torch.float16 if kind == "2b" else torch.bfloat16)


def test_the_work_of_a_step_is_counted_as_published() -> None:
    """FlopCounterMode counts 338.2 TFLOP in linear layers and 326.2 TFLOP in attention for the 5B at 49 frames of
    720x480."""
    tiny = build("5b", CPU, "tiny")
    plan, _ = gpu.a_plan(tiny, 2)
    config = type("Config", (), {"num_layers": 42})
    info = type("Info", (), {"latent_patch_frames": 1, "max_tokens": 226, "inner_dim": 3072})
    shape = type("Shape", (), {"transformer": type("T", (), {"config": config}), "info": info})
    big = type("Plan", (), {"model_frames": 49, "model_width": 720, "model_height": 480, "guidance_scale": 6.0})
    assert math.isclose(gpu.step_tera_flop(big, shape), 664.4, rel_tol=0.001)  # type: ignore[arg-type]
    assert gpu.step_tera_flop(plan.sampling, tiny) < 0.001
