"""A damaged checkpoint is either refused or makes the same video as before."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.engine import loader
from pipelines.engine.generate import Engine
from pipelines.engine.loader import Loader
from pipelines.engine_port import EngineSpec
from pipelines.models import ModelError
from tests.rigs import checkpoints, mutations
from tests.rigs.engines import ask, finished, frames_of
from weights import record
from weights.imports import wanted
from weights.verify import Report, verify

EVERY = mutations.every()
SAME = {  # the only changes that may pass the checks
    *(f"{part} {name} float32" for part, names in mutations.TENSORS.items() for name in names),
    *(f"{file} doubled" for file in mutations.WEIGHTS.values()),
    "transformer/config.json dropout=0.1",
    "transformer/config.json add_control_layer=True",
    "vae/config.json sample_height=96",
    "vae/config.json force_upcast=False",
    "text_encoder/config.json tie_word_embeddings=False",
    "text_encoder/config.json dropout_rate='0.1'",
    "text_encoder/config.json dropout_rate=-0.1",
    "text_encoder/config.json classifier_dropout='0.0'",
    "text_encoder/config.json eos_token_id=1.0",
    "text_encoder/config.json use_cache=1",
    "text_encoder/config.json dtype='x'",
    "text_encoder/config.json output_hidden_states='x'",
    "scheduler/scheduler_config.json timestep_spacing='linspace'",
    "tokenizer/tokenizer_config.json model_max_length=5",
    "one embedding twice",
    "the other name of the embedding",
    "a whole T5's decoder",
}


def frames(folder: Path, tmp_path: Path) -> np.ndarray:
    engine = Engine(EngineSpec({"it": folder}, "cpu"))
    return frames_of(finished(engine.run(ask(num_inference_steps=2), "it")), tmp_path)


def copy(folder: Path) -> Path:
    return Path(shutil.copytree(checkpoints.cached("5b", single_file=True), folder))


def test_there_are_a_hundred() -> None:
    assert len(EVERY) > 150
    assert set(EVERY) > SAME


SPOILED = random.Random(13).sample(sorted(set(EVERY) - SAME), len(EVERY) - len(SAME))


@pytest.mark.parametrize(
    "names", [SPOILED[:40], pytest.param(SPOILED[40:], marks=pytest.mark.slow)], ids=["sample", "others"]
)
def test_is_refused_by_name(names: list[str], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        folder = copy(tmp_path / str(number))
        EVERY[name](folder)
        problems = verify(folder).problems
        assert problems, name
        for problem in problems:
            assert (folder / problem.path.split("/")[0]).exists(), name
            assert problem.remedy, name


def test_what_may_pass_is_called_whole(tmp_path: Path) -> None:
    for number, name in enumerate(sorted(SAME)):
        folder = copy(tmp_path / str(number))
        EVERY[name](folder)
        assert verify(folder).problems == (), name


@pytest.mark.slow
def test_what_passes_makes_the_same_video(tmp_path: Path) -> None:
    before = frames(copy(tmp_path / "whole"), tmp_path)
    for number, name in enumerate(sorted(SAME)):
        folder = copy(tmp_path / str(number))
        EVERY[name](folder)
        assert np.array_equal(frames(folder, tmp_path), before), name


def test_a_record_makes_every_change_of_a_config_a_problem(tmp_path: Path) -> None:
    """The record also notices a change to a value that would be valid in a custom model (here the scaling factor)."""
    folder = copy(tmp_path / "checkpoint")
    mutations.config(folder, "vae/config.json", scaling_factor=0.8)
    assert verify(folder).ok
    assert "vae/config.json: scaling_factor is 0.8, CogVideoX-5B has 0.7" in verify(folder).warnings
    mutations.without(folder, "transformer/config.json", "sample_frames")
    assert "transformer/config.json: sample_frames is missing, which means 49" in verify(folder).warnings
    record.write(folder, record.Record(record.measure(folder, wanted(folder))))
    mutations.config(folder, "vae/config.json", scaling_factor=0.9)
    assert [p.path for p in verify(folder).problems] == ["vae/config.json"]


@pytest.mark.parametrize("part", sorted(mutations.WEIGHTS))
def test_a_torn_set_of_tensors_does_not_load(part: str, tmp_path: Path) -> None:
    folder, name = copy(tmp_path / "checkpoint"), mutations.TENSORS[part][1]
    mutations.weights(folder, part, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"{mutations.WEIGHTS[part]}: lacks the tensor {name} that"):
        Loader(torch.device("cpu")).load(folder)


def test_loading_trusts_the_library_more_than_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that were initialised at random are refused even if the list of expected tensors is too short."""
    folder, name = copy(tmp_path / "checkpoint"), "encoder.final_layer_norm.weight"
    mutations.weights(folder, "text_encoder", lambda tensors: tensors.pop(name))
    monkeypatch.setattr(loader, "verify", lambda folder: Report(folder))
    with pytest.raises(ModelError, match=f"text_encoder lacks 1 of its tensors, such as {name}"):
        Loader(torch.device("cpu")).load(folder)
