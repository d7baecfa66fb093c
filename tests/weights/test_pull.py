from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.rigs import checkpoints, hub
from weights import record
from weights.catalog import CATALOG, UnknownCheckpoint
from weights.pull import PullError, pull
from weights.verify import verify

NAME = "cogvideox-5b"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(checkpoints.cached("5b"), tmp_path / "published"))
    (folder / "LICENSE").write_text("terms")
    (folder / "README.md").write_text("not fetched")
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"never fetched")
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


@dataclass
class File:
    """A dry run's information about a file."""

    file_size: int
    will_download: bool = True


def fake(source: Path, error: Exception | None = None, size: int = 1) -> Callable[..., Any]:
    def snapshot_download(*, local_dir: Path, dry_run: bool = False, **asked: Any) -> Any:
        if dry_run:
            return [File(size)]
        if error:
            raise error
        return shutil.copytree(source, local_dir, dirs_exist_ok=True)

    return snapshot_download


def test_pull_from_a_hub(server: hub.Hub, tmp_path: Path) -> None:
    target = pull(NAME, tmp_path / "models", snapshot_download=through(server, tmp_path))
    assert target == tmp_path / "models" / NAME
    assert verify(target, deep=True).deep
    assert (target / "LICENSE").exists()
    assert not any("README" in n or n.endswith(".bin") for n in server.served)
    kept = record.read(target)
    assert kept is not None
    assert kept.repository == CATALOG[NAME].repository
    assert kept.commit == hub.COMMIT
    server.served.clear()
    assert pull(NAME, tmp_path / "models", snapshot_download=through(server, tmp_path)) == target
    assert server.served == []


def test_pull_mends_only_what_is_broken(server: hub.Hub, tmp_path: Path) -> None:
    target = pull(NAME, tmp_path / "models", snapshot_download=through(server, tmp_path))
    torn = checkpoints.damage(target, "torn-file").relative_to(target).as_posix()
    server.served.clear()
    assert pull(NAME, tmp_path / "models", snapshot_download=through(server, tmp_path)) == target
    assert server.served == [torn]
    assert verify(target, deep=True).ok


def test_interrupted_pull_goes_on(server: hub.Hub, tmp_path: Path) -> None:
    download = through(server, tmp_path)
    done: list[str] = []

    def dies(**asked: Any) -> Any:
        if asked.get("dry_run"):
            return download(**asked)
        download(**{**asked, "allow_patterns": ["*.json", "vae/*.safetensors"]})
        done.extend(server.served)
        raise ConnectionResetError("the cable was pulled")

    with pytest.raises(PullError, match="cable"):
        pull(NAME, tmp_path / "models", snapshot_download=dies)
    assert not (tmp_path / "models" / NAME).exists()
    server.served.clear()
    pull(NAME, tmp_path / "models", snapshot_download=download)
    assert done
    assert not set(done) & set(server.served)


def test_a_cut_line_is_survived(server: hub.Hub, tmp_path: Path) -> None:
    server.cut = "vae/diffusion_pytorch_model.safetensors"
    target = pull(NAME, tmp_path / "models", snapshot_download=through(server, tmp_path))
    assert server.served.count("vae/diffusion_pytorch_model.safetensors") == 2
    assert verify(target, deep=True).deep


def test_bytes_other_than_published_are_noticed(server: hub.Hub, tmp_path: Path) -> None:
    download = through(server, tmp_path)

    def with_a_bad_cable(**asked: Any) -> Any:
        result = download(**asked)
        if not asked.get("dry_run"):
            checkpoints.damage(Path(asked["local_dir"]), "flipped-byte")
        return result

    with pytest.raises(PullError, match="damaged in transfer"):
        pull(NAME, tmp_path / "models", snapshot_download=with_a_bad_cable)
    assert verify(pull(NAME, tmp_path / "models", snapshot_download=download), deep=True).ok


def test_what_it_asks_for(source: Path, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    inner = fake(source)

    def spy(**kwargs: Any) -> Any:
        asked.append(kwargs)
        return inner(**kwargs)

    pull("cogvideox-2b", tmp_path / "models", snapshot_download=spy)
    assert [a.get("dry_run", False) for a in asked] == [True, False]
    assert asked[1]["repo_id"] == "zai-org/CogVideoX-2b"
    assert asked[1]["revision"] == CATALOG["cogvideox-2b"].revision
    assert not any(p.endswith((".bin", ".py", "*")) and p != "LICENSE*" for p in asked[1]["allow_patterns"])


def test_incomplete_repository_is_named(source: Path, tmp_path: Path) -> None:
    checkpoints.damage(source, "missing-shard")
    with pytest.raises(PullError, match=r"not whole: transformer/.*missing"):
        pull(NAME, tmp_path / "models", snapshot_download=fake(source))
    assert not (tmp_path / "models" / NAME).exists()


def test_disk_too_small_is_said_before(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PullError, match=r"1000000000\.0 GB are needed"):
        pull(NAME, tmp_path / "models", snapshot_download=fake(source, size=10**18))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/models"), "cannot be written to"),
        (huggingface_hub.errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (RuntimeError("something\nelse"), "RuntimeError: something else"),
    ],
)
def test_errors_in_plain_words(source: Path, tmp_path: Path, error: Exception, words: str) -> None:
    with pytest.raises(PullError, match=words) as caught:
        pull(NAME, tmp_path / "models", snapshot_download=fake(source, error))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "RepoNotFound", "does not show it without a token"),
        (403, "GatedRepo", "accept the terms of"),
        (404, "RevisionNotFound", "no longer has the revision"),
        (418, "", "answered 418"),
    ],
)
def test_refusals_of_the_hub(server: hub.Hub, tmp_path: Path, status: int, code: str, words: str) -> None:
    server.status, server.error_code = status, code
    with pytest.raises(PullError, match=words):
        pull("cogvideox-5b-i2v", tmp_path / "models", snapshot_download=through(server, tmp_path))


def test_no_network(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with hub.serving(source) as gone:
        download = through(gone, tmp_path)
    with pytest.raises(PullError, match="cannot be reached"):
        pull("cogvideox-5b-i2v", tmp_path / "models", snapshot_download=download)


def test_names_that_cannot_be_pulled(tmp_path: Path) -> None:
    with pytest.raises(PullError, match="ships with"):
        pull("demo", tmp_path)
    with pytest.raises(UnknownCheckpoint):
        pull("cogvideox-9b", tmp_path)
