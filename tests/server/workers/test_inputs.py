"""The server sends input files to a worker by name and content, so the worker may have another data folder."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import CogVideoXTransformer3DModel

from pipelines.engine_port import EngineSpec
from pipelines.events import Event, Failed, Finished
from pipelines.request import GenerationRequest, Lora, Media
from server.workers.inputs import InputFolder, packed, unlocated, unpacked
from server.workers.local_pool import LocalPool
from server.workers.protocol import Died, InputFile, Run, Said
from server.workers.spec import WorkerSpec, by_name
from tests.rigs import checkpoints, loras
from tests.rigs.engines import ask, picture_file
from tests.rigs.pace import until


def lora_file(folder: Path, text: bytes = b"weights") -> Lora:
    path = folder / "style.safetensors"
    path.write_bytes(text)
    return Lora(str(path), 0.5)


def test_a_request_is_packed_and_unpacked(tmp_path: Path) -> None:
    image, lora = picture_file(tmp_path), lora_file(tmp_path)
    request = GenerationRequest("a", seed=1, image=image, loras=(lora,))
    there, sources = packed(request)
    assert str(tmp_path) not in str(there.to_dict())
    assert list(sources.values()) == [Path(image.path), Path(lora.path)]
    assert there.loras[0].path.endswith("/style.safetensors")
    folder = InputFolder(tmp_path / "own")
    folder.bring(sources)
    found = unpacked(there, tmp_path / "own")
    for mine, theirs in zip((image, lora), (found.image, *found.loras), strict=True):
        assert theirs is not None and Path(theirs.path).read_bytes() == Path(mine.path).read_bytes()
        assert replace(theirs, path=mine.path) == mine  # type: ignore[type-var]
    assert unlocated(found.to_dict(), tmp_path / "own") == {**there.to_dict(), "loras": [vars(there.loras[0])]}


def test_what_lies_beside_a_lora_comes_along(tmp_path: Path) -> None:
    lora = lora_file(tmp_path)
    before, _ = packed(GenerationRequest("a", loras=(lora,)))
    (tmp_path / "style.safetensors.json").write_text('{"alpha": 4}')
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    after, sources = packed(GenerationRequest("a", loras=(lora,)))
    assert after.loras[0].path != before.loras[0].path
    folder = InputFolder(tmp_path / "own")
    folder.bring(sources)
    path = Path(unpacked(after, tmp_path / "own").loras[0].path)
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "adapter_config.json",
        "style.safetensors",
        "style.safetensors.json",
    ]


def test_a_folder_holds_what_current_runs_need(tmp_path: Path) -> None:
    folder, own = InputFolder(tmp_path / "own"), tmp_path / "own"
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    first = {InputFile("1", "1"): tmp_path / "a", InputFile("x/2", "2"): tmp_path / "b"}
    folder.bring(first)
    folder.bring(first)
    (tmp_path / "a").unlink()
    assert (own / "1").read_bytes() == b"a" and not (own / "1").is_symlink(), "the copy does not need its source"
    folder.keep_only([InputFile("1", "1")])
    assert [one.name for one in own.rglob("*")] == ["1"]
    folder.keep_only([])
    assert not own.exists()
    folder.keep_only([])


def test_another_file_system_gets_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cross_device(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", cross_device)
    (tmp_path / "a").write_bytes(b"a")
    folder = InputFolder(tmp_path / "own")
    folder.bring({InputFile("1", "1"): tmp_path / "a"})
    assert (tmp_path / "own" / "1").read_bytes() == b"a"
    folder.keep_only([])
    assert (tmp_path / "a").exists() and not (tmp_path / "own").exists()


def test_a_file_that_is_gone_is_left_to_the_engine(tmp_path: Path) -> None:
    request = GenerationRequest("a", image=Media(str(tmp_path / "gone"), "0" * 64), loras=(Lora("/no/x.safetensors"),))
    there, sources = packed(request)
    InputFolder(tmp_path / "own").bring(sources)
    assert there.loras[0].path == "missing/x.safetensors" and len(sources) == 1
    assert not Path(unpacked(there, tmp_path / "own").image.path).exists()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a valid name"):
        unpacked(GenerationRequest("a", image=Media(name, "0")), tmp_path)


def test_models_are_found_by_name_where_they_lie_there(tmp_path: Path) -> None:
    spec = WorkerSpec(EngineSpec({}), tmp_path, models_dir=tmp_path / "models")
    folders = {
        "demo": WorkerSpec(EngineSpec({}), tmp_path, ("demo",)).located().models["demo"],
        "own": tmp_path / "own",
    }
    named = by_name(spec, folders)
    assert (named.models, named.engine.models) == (("demo",), {"own": tmp_path / "own"})
    assert named.located().models == folders


class Overheard:
    """The pool of one real worker; it records all messages in both directions, pickled."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.pool, self.to_worker, self.from_worker = LocalPool(spec, ["cpu"]), b"", b""
        self.pool.start()
        line = self.pool._slots[0].line
        assert line is not None
        self._say, line.say = line.say, self._heard  # type: ignore[method-assign]

    def _heard(self, message: Any) -> None:
        self.to_worker += pickle.dumps(message)
        self._say(message)

    def events(self) -> list[Event]:
        found = self.pool.reports(0.1)
        self.from_worker += pickle.dumps(found)
        assert not any(isinstance(one, Died) for one in found)
        return [one.event for one in found if isinstance(one, Said)]

    def film(self, job_id: str, request: GenerationRequest, model: str, away: Callable[[], Any]) -> Finished:
        """Runs a job and calls `away` as soon as the pool has sent the worker its files."""
        until(lambda: self.pool.free() or self.events())
        there, sources = packed(request)
        self.pool.run(Run(job_id, 1, there.to_dict(), model, files=tuple(sources)), sources)
        away()
        said: list[Event] = []
        until(lambda: said.extend(self.events()) or any(isinstance(one, Finished | Failed) for one in said))
        assert isinstance(said[-1], Finished), said[-1]
        return said[-1]


def test_a_worker_with_another_data_folder(tmp_path: Path) -> None:
    """Although the server's folder is gone, the worker makes a video from an image and a video with a LoRA. No message
    between server and worker contains a path."""
    server, worker = tmp_path / "server", tmp_path / "worker"
    server.mkdir()
    transformer = CogVideoXTransformer3DModel.from_pretrained(checkpoints.cached("5b") / "transformer")
    lora = loras.write(server / "style.safetensors", loras.draw(transformer), alpha="4")
    asked = {
        "5b-i2v": ask(image=picture_file(server), num_inference_steps=1),
        "5b": ask(loras=(Lora(str(lora)),), num_inference_steps=1),
    }
    overheard = Overheard(WorkerSpec(EngineSpec({kind: checkpoints.cached(kind) for kind in asked}), worker))
    try:
        for kind, request in asked.items():
            film = overheard.film(kind, request, kind, lambda: server.rename(tmp_path / "away"))
            (tmp_path / "away").rename(server)
            assert kind in str(film.manifest)
            assert not worker.exists(), "the worker keeps no files"
        assert "style.safetensors" in str(film.manifest)
    finally:
        overheard.pool.close()
    assert b"style.safetensors" in overheard.to_worker and b"Finished" in overheard.from_worker
    assert str(tmp_path).encode() not in overheard.to_worker + overheard.from_worker
