"""The parameters of a worker; where possible, they do not depend on the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.engine_port import EngineSpec
from pipelines.models import ModelError
from server.workers.prompt_help import Helper
from weights import catalog
from weights.catalog import UnknownCheckpoint

REAL_ENGINE = "pipelines.engine.generate:Engine"


@dataclass(frozen=True)
class WorkerSpec:
    """`models`: names of checkpoints; the worker finds these in `models_dir` or among the built-in checkpoints.
    Checkpoints that only have a folder are in `engine.models`. `inputs`: the worker's own folder, where the pool puts
    the files of a Run. `engine_class`: `module:class`, imported in the worker."""

    engine: EngineSpec
    inputs: Path
    models: tuple[str, ...] = ()
    models_dir: Path = Path()
    engine_class: str = REAL_ENGINE
    helper: Helper | None = None

    def located(self) -> EngineSpec:
        """The engine's spec, completed with the folder of every model; for use in the worker. Raises ModelError."""
        return replace(self.engine, models={**self.engine.models, **{name: self._folder(name) for name in self.models}})

    def _folder(self, name: str) -> Path:
        folder = find(name, self.models_dir)
        if folder is None:
            raise ModelError(f"{name} is not installed in {self.models_dir}")
        return folder


def find(name: str, models_dir: Path) -> Path | None:
    try:
        folder = catalog.find(name, models_dir)
    except UnknownCheckpoint:
        return None
    return folder and folder.absolute()


def by_name(spec: WorkerSpec, folders: Mapping[str, Path]) -> WorkerSpec:
    """`spec` with these models: a model is given by name if a worker finds the same folder under that name, and
    otherwise by folder."""
    names = tuple(name for name, folder in folders.items() if find(name, spec.models_dir) == folder)
    others = {name: folder for name, folder in folders.items() if name not in names}
    return replace(spec, models=names, engine=replace(spec.engine, models=others))
