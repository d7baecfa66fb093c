from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.rigs import checkpoints
from weights import imports, record
from weights.catalog import CATALOG, Checkpoint
from weights.imports import ImportRefused, import_folder
from weights.verify import verify


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints.cached("5b"), tmp_path / "source"))


@pytest.fixture
def recognised(monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr(imports, "recognise", lambda folder: CATALOG["cogvideox-5b"])
    return CATALOG["cogvideox-5b"]


def hub_cache(source: Path, folder: Path) -> Path:
    """The same files as in a Hugging Face cache: blobs, the large ones named by SHA-256, and links in a snapshot."""
    snapshot = folder / "snapshots" / ("a" * 40)
    (folder / "blobs").mkdir(parents=True)
    for path in [p for p in source.rglob("*") if p.is_file()]:
        digest = record.sha256(path)
        blob = folder / "blobs" / (digest if path.suffix == ".safetensors" else digest[:40])
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("../" * len(link.relative_to(folder).parts[:-1])) / "blobs" / blob.name)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    return folder


def test_import_links_and_records(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text("not taken along")
    (source / "LICENSE").write_text("taken along")
    target = import_folder(source, tmp_path / "models", "mine")
    assert target == tmp_path / "models" / "mine"
    weights = Path("vae") / "diffusion_pytorch_model.safetensors"
    assert (target / weights).samefile(source / weights)
    assert (target / "LICENSE").exists()
    assert not (target / "README.md").exists()
    assert verify(target, deep=True).deep
    assert not list((tmp_path / "models" / ".partial").iterdir())


def test_import_takes_the_catalog_name(source: Path, tmp_path: Path, recognised: Checkpoint) -> None:
    target = import_folder(source, tmp_path / "models")
    assert target.name == recognised.name
    kept = record.read(target)
    assert kept is not None
    assert (kept.checkpoint, kept.repository) == (recognised.name, recognised.repository)


@pytest.mark.parametrize("inner", [".", f"snapshots/{'a' * 40}"])
def test_import_from_a_hub_cache(source: Path, tmp_path: Path, inner: str) -> None:
    cache = hub_cache(source, tmp_path / "hub" / "models--THUDM--CogVideoX-5b")
    target = import_folder(cache / inner, tmp_path / "models", "mine")
    assert not any(p.is_symlink() for p in target.rglob("*"))
    kept = record.read(target)
    assert kept is not None
    assert kept.commit == "a" * 40


def test_import_holds_cache_blobs_against_their_names(source: Path, tmp_path: Path) -> None:
    checkpoints.damage(source, "flipped-byte")
    cache = hub_cache(source, tmp_path / "models--THUDM--CogVideoX-5b")
    blob = (cache / "snapshots" / ("a" * 40) / "vae" / "diffusion_pytorch_model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ImportRefused, match="differs from the published one"):
        import_folder(cache, tmp_path / "models", "mine")
    assert not (tmp_path / "models" / "mine").exists()
    assert not list((tmp_path / "models" / ".partial").iterdir())


def test_import_copies_where_links_are_impossible(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    target = import_folder(source, tmp_path / "models", "mine")
    assert not (target / "model_index.json").samefile(source / "model_index.json")


def test_import_refusals(source: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    with pytest.raises(ImportRefused, match="choose a --name"):
        import_folder(source, models)
    for name in ("../up", ".hidden", "", "demo", "a/b"):
        with pytest.raises(ImportRefused, match="name"):
            import_folder(source, models, name)
    import_folder(source, models, "mine")
    with pytest.raises(ImportRefused, match="already there"):
        import_folder(source, models, "mine")
    checkpoints.damage(source, "missing-shard")
    with pytest.raises(ImportRefused, match=r"not whole.*missing"):
        import_folder(source, models, "other")


def test_import_explains_what_is_no_checkpoint(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="not a folder"):
        import_folder(tmp_path / "nowhere", tmp_path / "models")
    with pytest.raises(ImportRefused, match="not a diffusers checkpoint"):
        import_folder(source / "vae", tmp_path / "models")
    hub_cache(source, tmp_path / "cache" / "hub" / "models--THUDM--CogVideoX-5b")
    with pytest.raises(ImportRefused, match="models--THUDM--CogVideoX-5b"):
        import_folder(tmp_path / "cache", tmp_path / "models")
    (tmp_path / "sat" / "1").mkdir(parents=True)
    (tmp_path / "sat" / "1" / "mp_rank_00_model_states.pt").touch()
    with pytest.raises(ImportRefused, match="SAT"):
        import_folder(tmp_path / "sat", tmp_path / "models")


def test_record_survives_a_round_trip(tmp_path: Path) -> None:
    kept = record.Record({"a/b.json": record.FileRecord(3, "0" * 64)}, "cogvideox-5b", "zai-org/CogVideoX-5b", "c")
    record.write(tmp_path, kept)
    assert record.read(tmp_path) == kept
    assert json.loads((tmp_path / record.RECORD).read_text())["format"] == 1
