from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.rigs import checkpoints
from weights import record
from weights.imports import ImportRefused, import_folder, wanted
from weights.numbers import broken_tensor
from weights.safetensors_header import BrokenFile, read_header
from weights.verify import recognise, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints.cached("5b"), tmp_path / "checkpoint"))


def keep_record(folder: Path) -> None:
    record.write(folder, record.Record(record.measure(folder, wanted(folder))))


def pretend(folder: Path, **config: object) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


@pytest.mark.parametrize("kind", checkpoints.KINDS)
def test_whole_checkpoints_pass(kind: checkpoints.Kind) -> None:
    report = verify(checkpoints.cached(kind))
    assert report.ok, report.problems
    assert report.size > 100_000
    assert not report.deep


def test_single_files_pass(tmp_path: Path) -> None:
    assert verify(checkpoints.cached("2b", tmp_path, single_file=True)).ok


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("missing-shard", "transformer/diffusion_pytorch_model-0000"),
        ("torn-file", "torn"),
        ("missing-weights", "vae/diffusion_pytorch_model.safetensors: missing"),
        ("missing-config", "transformer/config.json: missing"),
        ("missing-index", "index.json: missing, although there are shards"),
        ("missing-component", "vae: the folder is missing"),
        ("missing-model-index", "model_index.json: missing"),
        ("missing-tokenizer", "tokenizer/spiece.model: missing"),
        ("wrong-tensor", "lacks the tensor"),
    ],
)
def test_each_damage_is_named(folder: Path, how: checkpoints.Damage, expected: str) -> None:
    checkpoints.damage(folder, how)
    report = verify(folder)
    assert [expected in str(p) for p in report.problems] == [True], report.problems
    assert all(p.remedy for p in report.problems)


def test_half_a_checkpoint_gives_the_whole_list(folder: Path) -> None:
    for how in ("missing-component", "missing-tokenizer", "missing-index", "missing-config"):
        checkpoints.damage(folder, how)
    shard = sorted((folder / "transformer").glob("*.safetensors"))[0]
    shard.unlink()
    named = {p.path for p in verify(folder).problems}
    assert named == {
        "vae",
        "tokenizer/spiece.model",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        f"transformer/{shard.name}",
    }


def test_empty_and_absent_folders(tmp_path: Path) -> None:
    assert [p.path for p in verify(tmp_path / "nowhere").problems] == ["."]
    assert len(verify(tmp_path).problems) == 6  # the index and five components


def test_pickled_weights_are_refused(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "pickled" in str(verify(folder).problems[0])


def test_index_pointing_outside_is_refused(folder: Path) -> None:
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out.weight": "../vae/diffusion_pytorch_model.safetensors"}}))
    assert "points outside" in str(verify(folder).problems[0])


def test_weights_of_another_checkpoint_are_noticed(folder: Path) -> None:
    pretend(folder, in_channels=32)
    assert "but the weights have" in str(verify(folder).problems[0])


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    """If the checkpoint were accepted, the library would decide which of the two tensors is used."""
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(shards[1])
    name, value = next(iter(load_file(shards[0]).items()))
    save_file(tensors | {name: value * 2}, shards[1], {"format": "pt"})
    assert f"{shards[1].name}: contains {name}, and so does transformer/{shards[0].name}" in str(
        verify(folder).problems[0]
    )


def test_swapped_shards_are_refused(folder: Path) -> None:
    first, second, *_ = sorted((folder / "text_encoder").glob("*.safetensors"))
    first.rename(folder / "kept")
    second.rename(first)
    (folder / "kept").rename(second)
    assert {p.path for p in verify(folder).problems} == {f"text_encoder/{p.name}" for p in (first, second)}


def test_another_model_is_one_problem(folder: Path) -> None:
    """For a checkpoint of another model, the report has one problem, and no list of everything that CogVideoX would
    need."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "WanPipeline"}))
    shutil.rmtree(folder / "vae")
    (problem,) = verify(folder).problems
    assert problem.what.startswith("is for a WanPipeline, expected CogVideoXPipeline")


def test_fun_models_are_refused_by_their_channels(tmp_path: Path) -> None:
    folder = checkpoints.build("5b", tmp_path, transformer={"in_channels": 33})
    (problem,) = verify(folder).problems
    assert problem.path == "transformer/config.json"
    assert "in_channels is 33, expected 16 (text to video) or 32 (image to video)" in problem.what
    assert "CogVideoX-Fun" in problem.what
    assert "cogvideox weights list" in problem.remedy


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_quantised_weights_are_named(folder: Path, part: str) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "torchao"}}))
    for file in (folder / part).glob("*.safetensors*"):
        file.unlink()
    (folder / part / "diffusion_pytorch_model.bin").touch()  # torchao's weights are pickled
    (problem,) = verify(folder).problems
    assert (problem.path, "quantised by torchao" in problem.what) == (f"{part}/config.json", True)
    assert "cogvideox weights pull" in problem.remedy


@pytest.mark.parametrize("library", [8, ["x"], {"load_in_8bit": True}])
def test_whatever_quantised_them(folder: Path, library: object) -> None:
    pretend(folder, quantization_config=library)
    assert "quantised by" in str(verify(folder).problems[0])


def test_an_fp16_variant_alone_is_named(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert str(verify(folder).problems[0]) == (
        "vae/diffusion_pytorch_model.safetensors: missing, only the variant fp16 exists: "
        "diffusion_pytorch_model.fp16.safetensors (mv vae/diffusion_pytorch_model.fp16.safetensors "
        "vae/diffusion_pytorch_model.safetensors)"
    )


@pytest.mark.parametrize("kind", ["2b", "5b"])  # float16, bfloat16
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_deep_finds_what_is_no_number(kind: checkpoints.Kind, number: float, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints.cached(kind, single_file=True), tmp_path / "checkpoint"))
    assert verify(folder, deep=True).ok
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.conv.bias"][2] = number
    save_file(tensors, file)
    assert verify(folder).ok
    (problem,) = verify(folder, deep=True).problems
    assert "the tensor decoder.conv_out.conv.bias contains NaN or infinity" in str(problem)
    with pytest.raises(ImportRefused, match=r"decoder\.conv_out\.conv\.bias contains NaN"):
        import_folder(folder, tmp_path / "models", "mine")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_number_is_one(dtype: torch.dtype, tmp_path: Path) -> None:
    file, most = tmp_path / "x.safetensors", torch.finfo(dtype).max
    save_file({"fine": torch.tensor([most, -most, 0.0], dtype=dtype)}, file)
    assert broken_tensor(file) is None
    save_file({"fine": torch.zeros(3), "odd": torch.tensor([0.0, float("nan")], dtype=dtype)}, file)
    assert broken_tensor(file) == "odd"


def test_a_tensor_that_the_index_does_not_name(folder: Path) -> None:
    """Some libraries load a tensor that the index does not name, and others do not."""
    path = folder / "text_encoder" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = sorted(index["weight_map"])[-1]
    shard = index["weight_map"].pop(name)
    path.write_text(json.dumps(index))
    assert f"text_encoder/{shard}: contains the tensor {name}, which the index does not list" in str(
        verify(folder).problems[0]
    )


def test_deep_needs_a_record(folder: Path) -> None:
    report = verify(folder, deep=True)
    assert report.ok
    assert not report.deep
    assert any(record.RECORD in w for w in report.warnings)


def test_deep_finds_a_flipped_byte(folder: Path) -> None:
    keep_record(folder)
    assert verify(folder, deep=True).deep
    broken = checkpoints.damage(folder, "flipped-byte")
    assert verify(folder).ok
    assert [p.path for p in verify(folder, deep=True).problems] == [broken.relative_to(folder).as_posix()]


def test_record_notices_lost_and_grown_files(folder: Path) -> None:
    keep_record(folder)
    (folder / "tokenizer" / "added_tokens.json").unlink()
    (folder / "vae" / "config.json").write_text('{"scaling_factor": 0.7, "more": true}')
    assert {p.path for p in verify(folder).problems} == {"tokenizer/added_tokens.json", "vae/config.json"}


def test_unreadable_record_is_a_warning(folder: Path) -> None:
    (folder / record.RECORD).write_text('{"format": 99, "files": {}}')
    assert any("format 99" in w for w in verify(folder).warnings)


@pytest.mark.parametrize("side", ["two", -1, 0.5, 10**4000, [2], True])
def test_a_patch_size_that_is_none_is_named(folder: Path, side: object) -> None:
    pretend(folder, patch_size=side, patch_size_t=side)
    assert "patch size is not a small whole number" in str(verify(folder).problems[0])


def test_a_config_without_end_is_not_read(folder: Path) -> None:
    with (folder / "transformer" / "config.json").open("r+b") as file:
        file.truncate(2**25)
    assert "transformer/config.json: has more than 16 MiB" in str(verify(folder).problems[0])


@pytest.mark.parametrize("content", ["", "[]", "{", "null", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_broken_json_is_named(folder: Path, content: str) -> None:
    for name in ("model_index.json", "transformer/config.json", "scheduler/scheduler_config.json"):
        (folder / name).write_text(content)
    assert len(verify(folder).problems) == 3


def test_recognises_by_config_and_reports_oddities(folder: Path) -> None:
    assert recognise(folder) is None
    pretend(folder, num_layers=42, num_attention_heads=48)
    report = verify(folder)
    assert report.checkpoint == "cogvideox-5b"
    pretend(folder, num_layers=30, num_attention_heads=30)
    assert verify(folder).checkpoint == "cogvideox-2b"
    assert any("snr_shift_scale is 1.0, cogvideox-2b has 3.0" in w for w in verify(folder).warnings)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (40).to_bytes(8, "little") + b'{"a": 1}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        (9).to_bytes(8, "little") + b'{"a": {}}',
    ],
)
def test_header_refuses_what_is_no_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BrokenFile):
        read_header(path)


def test_header_reads_names_and_shapes(folder: Path) -> None:
    tensors = read_header(folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert tensors["decoder.conv_in.conv.weight"].dtype == "BF16"
