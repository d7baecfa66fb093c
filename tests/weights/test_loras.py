"""The LoRA folder: finding, adding and removing files, and pulling from a stand-in for the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from tests.rigs import hub
from tests.rigs.lora_host import lora_file
from weights import loras
from weights.catalog import WeightsError

LIMIT = 10 * 2**20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    lora_file(folder / "pytorch_lora_weights.safetensors")
    lora_file(folder / "more" / "other.safetensors", seed=1)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2}))
    (folder / "README.md").write_text("not fetched")
    (folder / "training.bin").write_bytes(b"never fetched")
    return folder


@pytest.fixture
def server(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub.serving(source) as running:
        yield running


def through(server: hub.Hub, tmp_path: Path) -> Callable[..., Any]:
    return partial(
        huggingface_hub.snapshot_download, endpoint=server.url, cache_dir=tmp_path / "cache", token=False, max_workers=2
    )


def test_pull_all_or_one_file(server: hub.Hub, tmp_path: Path) -> None:
    folder, fetch = tmp_path / "loras", through(server, tmp_path)
    one = loras.pull("some/style/more/other.safetensors", folder, LIMIT, snapshot_download=fetch)
    assert one == folder / "some" / "style" / "more" / "other.safetensors"
    assert loras.installed(folder) == ["some/style/more"]
    assert loras.find("some/style", folder) == one
    home = loras.pull("some/style", folder, LIMIT, snapshot_download=fetch)
    assert {p.name for p in home.iterdir()} >= {"pytorch_lora_weights.safetensors", "adapter_config.json", "more"}
    assert not any("README" in name or name.endswith(".bin") for name in server.served)
    assert loras.find("some/style", folder) == home / "pytorch_lora_weights.safetensors"


def test_pull_in_plain_words(server: hub.Hub, source: Path, tmp_path: Path) -> None:
    folder, fetch = tmp_path / "loras", through(server, tmp_path)

    def refused(name: str, words: str, limit: int = LIMIT) -> None:
        with pytest.raises(WeightsError, match=words):
            loras.pull(name, folder, limit, snapshot_download=fetch)
        assert loras.installed(folder) == [] if folder.is_dir() else True

    refused("some/style", "the limit is 0 MiB", limit=10)
    refused("some/style/absent.safetensors", "some/style has no absent.safetensors")
    for name in ("style", "some/../style", "some/style/x.bin", "/a/b", "https://x/y"):
        refused(name, "is not a repository")
    server.status, server.error_code = 404, "RepoNotFound"
    refused("some/style", "has no some/style, or does not show it without a token")


def test_added_found_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    file = lora_file(tmp_path / "run" / "step-100.safetensors")
    (file.parent / "adapter_config.json").write_text("{}")
    added = loras.add(file, folder, "mine", alpha=2, origin="a run")
    assert added.read_bytes() == file.read_bytes()
    assert added.with_name("adapter_config.json").is_file()
    assert json.loads(added.with_name(f"{added.name}.json").read_text()) == {"alpha": 2, "origin": "a run"}
    assert loras.find("mine", folder) == added
    with pytest.raises(WeightsError, match="already exists"):
        loras.add(file, folder, "mine")
    for name in ("../mine", "", "a:b"):
        with pytest.raises(WeightsError, match="is not a valid name"):
            loras.add(file, folder, name)
    flat = lora_file(folder / "flat.safetensors")
    assert loras.find("ein Stil (v2)", folder) is None
    lora_file(folder / ".cache" / "hidden.safetensors").rename(folder / ".cache" / "still.safetensors")
    (folder / "flat.safetensors.json").write_text("{}")
    assert loras.installed(folder) == ["flat", "mine"]
    assert loras.remove("mine", folder) == added
    assert not (folder / "mine").exists()
    assert loras.remove("flat", folder) == flat
    assert [path.name for path in folder.iterdir()] == [".cache"]
    with pytest.raises(WeightsError, match="no LoRA 'mine' is installed here; there are: none"):
        loras.remove("mine", folder)


def test_removing_one_of_several_leaves_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        lora_file(tmp_path / "owner" / "name" / f"{name}.safetensors")
    loras.remove("owner/name/a", tmp_path)
    assert loras.installed(tmp_path) == ["owner/name"]
    loras.remove("owner/name", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_a_folder_of_one_name_are_told_apart(tmp_path: Path) -> None:
    flat, inside = lora_file(tmp_path / "style.safetensors"), lora_file(tmp_path / "style" / "x.safetensors")
    lora_file(tmp_path / "owner.safetensors")
    lora_file(tmp_path / "owner" / "deep" / "y.safetensors")
    assert loras.installed(tmp_path) == ["owner", "owner/deep", "style.safetensors", "style/x.safetensors"]
    for name in loras.installed(tmp_path):
        assert loras.find(name, tmp_path) is not None
    assert loras.find("style.safetensors", tmp_path) == flat
    assert loras.find("style/x", tmp_path) == inside
    several = "style is the name of several LoRAs; choose one of them: style.safetensors, style/x.safetensors"
    for call in (loras.find, loras.remove):
        with pytest.raises(WeightsError, match=several):
            call("style", tmp_path)
    lora_file(tmp_path / "style" / "z.safetensors")
    assert loras.find("style", tmp_path) == flat
    assert "style" in loras.installed(tmp_path)


HUB = "https://huggingface.co/some/style"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (f"{HUB}/resolve/main/a.safetensors", "some/style/a.safetensors"),
        (f"{HUB}/resolve/main/a.safetensors?download=true", "some/style/a.safetensors"),
        (f"{HUB}/blob/main/more/a.safetensors", "some/style/more/a.safetensors"),
        (f"{HUB}/raw/main/a%20b.safetensors", "some/style/a b.safetensors"),
        (f"{HUB}/resolve/v1.0/a.safetensors", "some/style@v1.0/a.safetensors"),
        ("http://hf.co/some/style/resolve/0123abc/a.safetensors", "some/style@0123abc/a.safetensors"),
        ("HTTPS://www.HuggingFace.co:443/some/style/resolve/main/a.safetensors", "some/style/a.safetensors"),
        ("huggingface.co/some/style/blob/main/a.safetensors", "some/style/a.safetensors"),
        (HUB, "some/style"),
        (f"{HUB}/", "some/style"),
        (f"{HUB}/tree/main", "some/style"),
        (f"{HUB}/tree/v2", "some/style@v2"),
        ("hf://some/style@v2/a.safetensors", "some/style@v2/a.safetensors"),
        (f"{HUB}/resolve/main/a.bin", None),
        ("https://huggingface.co/datasets/some/style/resolve/main/a.safetensors", None),
        ("https://huggingface.co.example.org/some/style/resolve/main/a.safetensors", None),
        ("https://huggingface.co@example.org/some/style/resolve/main/a.safetensors", None),
        ("https://example.org/huggingface.co/some/style/resolve/main/a.safetensors", None),
        ("some/style", None),
        ("huggingface.co", None),
    ],
)
def test_addresses_of_the_hub(address: str, name: str | None) -> None:
    assert loras.hub_name(address) == name


@pytest.mark.parametrize("revision", ["refs%2Fpr%2F1", "..", "a%00b", "%20", "@"])
def test_revisions_that_no_folder_is_called(revision: str) -> None:
    with pytest.raises(WeightsError, match="is not a supported revision"):
        loras.hub_name(f"{HUB}/resolve/{revision}/a.safetensors")


def test_pull_a_revision(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def download(**what: Any) -> list[Any]:
        asked.append(what)
        return [SimpleNamespace(filename="a.safetensors", file_size=1)]

    made = loras.pull("some/style@v2/a.safetensors", tmp_path, LIMIT, snapshot_download=download)
    assert made == tmp_path / "some" / "style@v2" / "a.safetensors"
    assert {one["revision"] for one in asked} == {"v2"}
    assert {one["repo_id"] for one in asked} == {"some/style"}
