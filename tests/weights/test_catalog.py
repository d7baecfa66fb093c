from __future__ import annotations

import json
from pathlib import Path

import pytest

from weights import catalog
from weights.catalog import CATALOG, UnknownCheckpoint, default_models_dir, find, get, installed, known_name


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    return folder


def test_catalog_tells_all_published_checkpoints_apart() -> None:
    published = [c for c in CATALOG.values() if not c.packaged]
    identities = {json.dumps(dict(c.configs["transformer"])) for c in published}
    assert len(published) == 5
    assert len(identities) == 5
    assert all(c.size_gb > 10 and c.licence and c.tasks for c in published)
    assert CATALOG["cogvideox-2b"].licence == "Apache-2.0"
    assert {hash(c) for c in CATALOG.values()}


def test_models_dir_follows_xdg() -> None:
    assert default_models_dir({"XDG_CACHE_HOME": "/there"}) == Path("/there/cogvideox/models")
    assert default_models_dir({}) == Path.home() / ".cache/cogvideox/models"
    assert default_models_dir({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/cogvideox/models"


def test_find_by_name_own_name_and_folder(tmp_path: Path) -> None:
    models = tmp_path / "models"
    assert find("cogvideox-2b", models) is None
    two = put(models / "cogvideox-2b")
    own = put(models / "my-tune")
    elsewhere = put(tmp_path / "elsewhere")
    assert find("cogvideox-2b", models) == two
    assert find("my-tune", models) == own
    assert find(elsewhere, models) == elsewhere


def test_find_the_packaged_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "catalog.py"))
    assert find("demo", tmp_path / "models") is None
    demo = put(tmp_path / "demo")
    assert find("demo", tmp_path / "models") == demo
    assert [i.name for i in installed(tmp_path / "models")] == ["demo"]


@pytest.mark.parametrize("asked", ["5b", "", "./nowhere"])
def test_unknown_names_list_the_known_ones(asked: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"cogvideox-1\.5-5b-i2v.*demo"):
        find(asked, tmp_path)
    with pytest.raises(UnknownCheckpoint):
        get(asked)


def test_folder_without_model_index_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(UnknownCheckpoint, match="has no model_index"):
        find(tmp_path, tmp_path / "models")


def test_installed_skips_what_is_on_its_way(tmp_path: Path) -> None:
    assert [i for i in installed(tmp_path / "nowhere") if not (i.checkpoint and i.checkpoint.packaged)] == []
    put(tmp_path / "own")
    put(tmp_path / ".partial" / "cogvideox-5b")
    put(tmp_path / "cogvideox-5b")
    names = [i.name for i in installed(tmp_path) if not (i.checkpoint and i.checkpoint.packaged)]
    assert names == ["cogvideox-5b", "own"]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("cogvideox-5b", "cogvideox-5b"),
        ("CogVideoX-5B", "cogvideox-5b"),
        ("zai-org/CogVideoX-5b", "cogvideox-5b"),
        ("THUDM/CogVideoX-5b-I2V", "cogvideox-5b-i2v"),
        ("thudm/cogvideox1.5-5b", "cogvideox-1.5-5b"),
        ("https://huggingface.co/zai-org/CogVideoX1.5-5B-I2V/", "cogvideox-1.5-5b-i2v"),
        ("Demo", "demo"),
        ("somebody/CogVideoX-5b", None),
        ("cogvideox-5", None),
        ("", None),
        ("zai-org/", None),
    ],
)
def test_hub_ids_are_names(asked: str, name: str | None) -> None:
    assert known_name(asked) == name


def test_a_folder_that_is_called_like_a_hub_id_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"
    here = put(tmp_path / "THUDM" / "CogVideoX-5b")
    assert find("THUDM/CogVideoX-5b", models) == Path("THUDM/CogVideoX-5b") and here.is_dir()
    own = put(models / "CogVideoX-5b")
    assert find("CogVideoX-5b", models) == own
    named = put(models / "cogvideox-5b")
    assert find("THUDM/CogVideoX-5b", models) == named, "an installed model wins over a folder in the working directory"


@pytest.mark.parametrize("asked", ["cogvideox-5bb", "cogvidoex-5b", "zai-org/CogVideoX-5c", "cogvideo-5b"])
def test_a_typo_gets_a_suggestion(asked: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"did you mean cogvideox-5b\?"):
        find(asked, tmp_path)
    put(tmp_path / "my-style")
    with pytest.raises(UnknownCheckpoint, match=r"did you mean my-style\?"):
        find("my-stile", tmp_path)
