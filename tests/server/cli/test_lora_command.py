"""The `cogvideox lora` commands, through the command line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from pipelines.video import read_manifest
from server.cli import app
from tests.rigs import checkpoints, hub
from tests.rigs.lora_host import Host, hosted, lora_file, tensors, zipped
from weights import loras


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.setenv("COGVIDEOX_LORAS_DIR", str(tmp_path / "loras"))
    monkeypatch.setenv("COGVIDEOX_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("COGVIDEOX_ALLOW_PRIVATE_URLS", "true")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(checkpoints.cached("5b"))


@pytest.fixture
def host() -> Iterator[Host]:
    with hosted() as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs a local hub, every repository of which contains the files of the returned folder."""
    lora_file(tmp_path / "published" / "style.safetensors")
    (tmp_path / "published" / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4}))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub.serving(tmp_path / "published") as server:
        asked = {"endpoint": server.url, "cache_dir": tmp_path / "cache", "token": False, "max_workers": 2}
        fetch = partial(huggingface_hub.snapshot_download, **asked)
        monkeypatch.setattr(loras, "pull", partial(loras.pull, snapshot_download=fetch))
        yield tmp_path / "published"


def everything(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["lora", *words])


def done(*words: str) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return re.sub(r":  +", ": ", result.stdout)


def refused(words: list[str], match: str, code: int = 2) -> None:
    result = call(*words)
    assert (result.exit_code, match in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


def test_add_list_inspect_remove(tmp_path: Path) -> None:
    file = lora_file(tmp_path / "run" / "My style (v1).safetensors")
    assert done("add", str(file)) == "My-style-v1\n"
    assert done("add", str(file), "--name", "second", "--alpha", "1") == "second\n"
    shown = done("list")
    assert "second" in shown and "tiny" in shown and "1 (from sidecar)" in shown
    assert str(tmp_path / "loras") in shown
    said = done("inspect", "second")
    for words in ("transformer., lora_A/lora_B", "rank: 4", "alpha: 1 (from sidecar)", "factor: 0.25", "base: tiny"):
        assert words in said, said
    assert "4: attn1.to_q, attn1.to_v of 2 blocks" in said
    found = json.loads(done("inspect", str(file), "--json"))
    assert found["alpha"] == "4 (from nothing, so alpha = rank)"
    assert len(found["sha256"]) == 64
    assert "removed" in done("remove", "second")
    refused(["inspect", "second"], "no LoRA 'second' is installed here; there are: My-style-v1")
    refused(["remove", "../run"], "is not a valid LoRA name")
    refused(["add", str(file)], "already exists")


def test_published_bases_are_told_apart_and_sat_exports_are_doubted(tmp_path: Path) -> None:
    for width, blocks, base in (
        (1920, 30, "cogvideox-2b"),
        (3072, 42, "cogvideox-5b, cogvideox-5b-i2v, cogvideox-1.5"),
    ):
        bare = {k.removeprefix("transformer."): v for k, v in tensors(width=width, blocks=blocks, rank=1).items()}
        save_file(bare, tmp_path / "a.safetensors")
        said = done("inspect", "a.safetensors")
        assert f"base: {base}" in said
        assert f"of {blocks} blocks" in said and "note: alpha is not in the file" in said


def test_what_fits_nothing_says_what_was_expected(tmp_path: Path) -> None:
    lora_file(tmp_path / "wide.safetensors", width=64)
    result = call("inspect", "wide.safetensors")
    assert result.exit_code == 1
    assert "problem:  tiny: transformer_blocks.0.attn1.to_q: it is for 64 -> 64 channels" in result.stdout
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "wide.safetensors").read_bytes()[:-1])
    refused(["inspect", "torn.safetensors"], "cannot be read: torn")
    refused(["add", "torn.safetensors"], "cannot be read: torn")
    assert done("list").count("torn") == 0


def test_add_from_an_address(host: Host, tmp_path: Path) -> None:
    assert done("add", host.url(), "--alpha", "2") == "style\n"
    assert json.loads((tmp_path / "loras" / "style" / "style.safetensors.json").read_text()) == {
        "alpha": 2.0,
        "origin": host.url(),
    }
    refused(["add", host.url("/html"), "--name", "page"], "a web page, no LoRA")
    refused(["add", host.url("/absent"), "--name", "none"], "the host answered 404")
    refused(["add", host.url(), "--name", "other", "--sha256", "0" * 64], "asked for was 000")


def test_what_add_inspect_and_generate_say_is_what_the_server_says(tmp_path: Path) -> None:
    for alpha in ("nan", "0", "-3", "inf"):
        refused(
            ["add", str(lora_file(tmp_path / "style.safetensors")), "--alpha", alpha], "alpha must be a number above 0"
        )
    (tmp_path / "style.zip").write_bytes(zipped())
    refused(["add", "style.zip"], "style.zip is an archive (.zip), no LoRA; give the file that is in it")
    torch.save(tensors(), tmp_path / "noextension")
    refused(["add", "noextension"], "is a pickle")
    refused(["inspect", "noextension"], "a LoRA must be a .safetensors file, this is a pickle")
    lora_file(tmp_path / "run.safetensors").rename(tmp_path / "bare")
    refused(["inspect", "bare"], "also by its name; rename it if it is one")
    assert done("add", "bare") == "bare\n"
    foreign = {
        key.replace("transformer_blocks", "blocks").replace("attn1", "self_attn"): v for key, v in tensors().items()
    }
    save_file(foreign, tmp_path / "wan.safetensors")
    result = call("add", "wan.safetensors")
    assert result.exit_code == 0
    assert "fits no model known here" in result.output and "it is for Wan, not for CogVideoX" in result.output
    assert call("inspect", "wan").stdout.count("it is for Wan") <= 3  # each reason appears once, and not once per model
    text = {f"text_encoder.encoder.block.0.q.lora_{half}.weight": torch.ones(4, 4) for half in "AB"}
    save_file({**tensors(), **text}, tmp_path / "both.safetensors")
    assert "note: its part for the text encoder (1 layer) is not applied" in call("add", "both.safetensors").output
    assert "note: its part for the text encoder (1 layer)" in done("inspect", "both")
    assert "kind: LoRA" in done("inspect", "both")
    name = "lycoris_transformer_blocks_0_attn1_to_q.lokr_w"
    save_file({f"{name}1": torch.ones(4, 4), f"{name}2": torch.ones(8, 8)}, tmp_path / "whole.safetensors")
    said = done("inspect", "whole.safetensors")
    assert "kind: LoKr" in said and "rank: none" in said and "factor: 1 " in said


def test_add_from_the_hub(repository: Path, tmp_path: Path) -> None:
    file, digest = repository / "style.safetensors", hashlib.sha256((repository / "style.safetensors").read_bytes())
    refused(["add", "some/style", "--sha256", "0" * 64], f"its SHA-256 is {digest.hexdigest()}, asked for was 000")
    assert everything(tmp_path / "loras") == []
    assert done("add", "some/style", "--sha256", digest.hexdigest(), "--alpha", "2") == "some/style\n"
    home = tmp_path / "loras" / "some" / "style"
    assert everything(tmp_path / "loras") == [
        home / name for name in ("adapter_config.json", file.name, f"{file.name}.json")
    ]
    assert (home / file.name).read_bytes() == file.read_bytes()
    assert json.loads((home / f"{file.name}.json").read_text()) == {"alpha": 2.0, "origin": "some/style"}
    assert "base: tiny" in done("inspect", "some/style")


def test_what_cannot_be_read_on_the_hub_leaves_what_is_installed(repository: Path, tmp_path: Path) -> None:
    lora_file(repository / "a.safetensors", seed=1)
    assert done("add", "some/style/a.safetensors") == "some/style\n"
    before = {path: path.read_bytes() for path in everything(tmp_path / "loras")}
    (repository / "style.safetensors").write_bytes((repository / "style.safetensors").read_bytes()[:-9])
    for source in ("some/style", "some/style/style.safetensors"):
        refused(["add", source], "cannot be read: torn")
    assert {path: path.read_bytes() for path in everything(tmp_path / "loras")} == before
    lora_file(repository / "style.safetensors")
    assert done("add", "some/style") == "some/style/a\nsome/style/style\n"


def test_private_addresses_and_pickles_need_a_word_of_the_owners(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tensors(), tmp_path / "old.pt")
    refused(["add", "old.pt"], "COGVIDEOX_LORA_PICKLE")
    monkeypatch.setenv("COGVIDEOX_LORA_PICKLE", "true")
    assert done("add", "old.pt") == "old\n"
    assert "base: tiny" in done("inspect", "old")
    monkeypatch.delenv("COGVIDEOX_ALLOW_PRIVATE_URLS")
    refused(["add", host.url()], "not public")


def test_generate_and_replay_take_installed_names(tmp_path: Path) -> None:
    done("add", str(lora_file(tmp_path / "style.safetensors")), "--name", "mine", "--alpha", "1")
    model = [
        "--model",
        str(checkpoints.cached("5b")),
        "--device",
        "cpu",
        "--steps",
        "2",
        "--frames",
        "5",
        "--seed",
        "3",
    ]

    def generate(name: str, *more: str) -> Result:
        return CliRunner().invoke(app, ["generate", "a red circle", "-o", name, *model, *more])

    for name, more in (("plain.mp4", []), ("styled.mp4", ["--lora", "mine:0.5", "--lora", "style.safetensors"])):
        result = generate(name, *more)
        assert result.exit_code == 0, result.output
    manifest = read_manifest(Path("styled.mp4"))
    assert [(one["file"], one["scale"]) for one in manifest["plan"]["loras"]] == [
        ("mine.safetensors", 0.5),
        ("style.safetensors", 1.0),
    ]
    assert Path("styled.mp4").read_bytes() != Path("plain.mp4").read_bytes()
    again = CliRunner().invoke(app, ["replay", "styled.mp4", *model[:4]])
    assert "byte for byte the same file" in again.output, again.output
    result = generate("strong.mp4", "--lora", "style.safetensors#alpha=9:0.5")
    assert "alpha 9 (from request)" in result.output, result.output
    for lora, words in (
        ("style.safetensors#alfa=9:0.5", "after # only sha256=HEX and alpha=NUMBER may stand, each once; got 'alfa=9'"),
        ("style.safetensors#alpha=0", "#alpha must be a number above 0"),
        ("nobody#alpha=1", "nobody is not a file, and no LoRA of that name is installed"),
        ("nobody", "no LoRA of that name is installed"),
        ("mine:x", "must be FILE.safetensors[:SCALE]"),
        ("https://example.org/a.safetensors:2", "nothing is downloaded here; cogvideox lora add https://example.org"),
    ):
        result = generate("x.mp4", "--lora", lora)
        assert result.exit_code == 2 and words in result.output, result.output
