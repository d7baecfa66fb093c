"""Chooses at startup which checkpoint serves which task, and on which devices.

Knows: the installed and the preferred checkpoints. Does not know: weights beyond their config files, jobs, HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipelines.frames import rife_check, upscaler_check
from pipelines.models import ModelError, ModelInfo, describe
from pipelines.request import Task
from server.devices import find_devices
from server.errors import BadSetting, NoModel
from server.setting_types import listed
from server.settings import Settings, plain
from weights import catalog
from weights.catalog import UnknownCheckpoint, WeightsError
from weights.interpolation import RIFE, place, rife_weights
from weights.verify import verify

DEMOS = ("demo", "demo-i2v")
PREFERRED = ("cogvideox-5b", "cogvideox-1.5-5b", "cogvideox-2b", "cogvideox-5b-i2v", "cogvideox-1.5-5b-i2v")
REAL_WEIGHTS = (
    "This is the demo model that ships with the server, not CogVideoX. For CogVideoX, on a GPU: "
    "cogvideox weights pull cogvideox-5b, then start the server again (or set COGVIDEOX_MODEL)."
)


@dataclass(frozen=True)
class Served:
    """`by_task`: the model that serves each task. `devices`: the names of the devices; each device has one worker.

    `problems`: for each installed network that is damaged and so not used, a sentence that says what is wrong.
    `rife_weights`: the network for frame interpolation, None without one.
    """

    by_task: Mapping[Task, ModelInfo]
    devices: tuple[str, ...]
    problems: tuple[str, ...] = ()
    rife_weights: Path | None = None

    @property
    def folders(self) -> dict[str, Path]:
        return {info.name: info.folder for info in self.by_task.values()}

    @property
    def is_demo(self) -> bool:
        """Whether the demo model serves any task."""
        return any(info.is_demo for info in self.by_task.values())

    @property
    def rife_available(self) -> bool:
        """Whether frames can be interpolated."""
        return self.rife_weights is not None

    def header(self, names: Collection[str] = ()) -> str:
        """The value of x-cogvideox-model for a response that concerns jobs of these models, or no job at all."""
        names = names or [info.name for info in self.by_task.values()]
        return ", ".join(sorted({self.label(name) for name in names})) or "none"

    def label(self, name: str) -> str:
        """A model's name in ASCII, with a note for the demo model."""
        is_demo = any(info.is_demo for info in self.by_task.values() if info.name == name)
        return (f"{name} (demo, not CogVideoX)" if is_demo else name).encode("ascii", "replace").decode()

    def model_for(self, task: Task) -> ModelInfo:
        """Raises NoModel."""
        if task in self.by_task:
            return self.by_task[task]
        can = ", ".join(sorted(self.by_task)) or "nothing"
        raise NoModel(task, f"no checkpoint for {task} is served here (served: {can}); set COGVIDEOX_MODEL")


def choose(settings: Settings) -> Served:
    """Raises BadSetting when MODEL or RIFE_WEIGHTS is missing or damaged, or when this machine lacks DEVICE."""
    check_folders(settings)
    devices = find_devices(settings.device, called=settings.named("device"))
    problems: list[str] = []
    if settings.model is not None:
        called = settings.named("model")
        infos = [_asked(name, settings.models_dir, called) for name in listed(settings.model)]
    else:
        infos, problems = _best(settings.models_dir, on_cuda=devices[0].startswith("cuda"))
    by_task: dict[Task, ModelInfo] = {}
    if len({info.name for info in infos}) < len({info.folder for info in infos}):
        raise BadSetting(f"{settings.shown('model')}: two folders have the same name")
    for info in infos:
        for task in info.tasks:
            by_task.setdefault(task, info)
    try:
        rife = rife_weights(settings.rife_weights, settings.models_dir)
    except WeightsError as e:
        raise BadSetting(f"{settings.shown('rife_weights')}: {e}") from None
    imported = place(RIFE, settings.models_dir)
    if settings.rife_weights is None and rife == imported and (broken := verify(imported.parent).problems):
        problems.append(f"{RIFE} is installed and not used: {broken[0]}")
        rife = rife_weights()
    return Served(by_task, devices, tuple(problems), rife)


def check_rife(settings: Settings) -> None:
    """Raises BadSetting when the file named by RIFE_WEIGHTS is not a RIFE network. Reading the file takes a second or
    two."""
    if settings.rife_weights is not None and (why := rife_check.refusal(settings.rife_weights)) is not None:
        raise BadSetting(f"{settings.shown('rife_weights')}: {why}")


def check_upscaler(settings: Settings) -> None:
    """Raises BadSetting when the file named by UPSCALER is not an upscaling network, or when the package that it needs
    is missing. Another process reads the file, which takes a few seconds."""
    if settings.upscaler is None:
        return
    why = upscaler_check.wrong_file(settings.upscaler)
    if why is None and find_spec("spandrel") is None:
        why = "needs the package spandrel (the extra `upscale`)"
    if why := why or upscaler_check.refusal(settings.upscaler):
        raise BadSetting(f"{settings.shown('upscaler')}: {why}")


def check_folders(settings: Settings) -> None:
    """Raises BadSetting for a models or LoRA folder that is a file; a missing folder counts as empty."""
    for name in ("models_dir", "loras_dir"):
        folder = getattr(settings, name)
        if folder is not None and folder.exists() and not folder.is_dir():
            raise BadSetting(f"{settings.shown(name)}: is a file, not a folder")


def _asked(given: str, models_dir: Path, called: str) -> ModelInfo:
    """`called`: the flag or variable that names the model."""
    name = catalog.name_of(given, models_dir)
    try:
        folder = catalog.find(name, models_dir)
        if folder is None:
            raise BadSetting(f"{called}={plain(given)}: not installed; cogvideox weights pull {name}")
        is_name = name in catalog.CATALOG or folder.parent == models_dir
        if problems := verify(folder).problems:
            more = f"; and {len(problems) - 1} more (cogvideox weights verify {name})" if problems[1:] else ""
            raise BadSetting(f"{called}={plain(given)}: does not load: {problems[0]}{more}")
        return describe(folder.absolute(), name if is_name else None)
    except UnknownCheckpoint as e:
        raise BadSetting(f"{called}={plain(given)}: {e.why}") from None
    except (WeightsError, ModelError) as e:
        raise BadSetting(f"{called}={plain(given)}: {e}") from None


def _best(models_dir: Path, *, on_cuda: bool) -> tuple[list[ModelInfo], list[str]]:
    """The models to serve by default, best first, and the problems of damaged models.

    Without CUDA only the demo, because a real model takes minutes per step.
    """
    found: list[ModelInfo] = []
    problems: list[str] = []
    for name in (*(PREFERRED if on_cuda else ()), *DEMOS):
        folder = catalog.find(name, models_dir)
        if folder is None or (name in DEMOS and any(not info.is_demo for info in found)):
            continue  # beside a real model, users would mistake the demo's videos for real results
        try:
            if broken := verify(folder).problems:
                raise ModelError(str(broken[0]))
            found.append(describe(folder.absolute(), name))
        except ModelError as e:
            problems.append(f"{name} is installed and not served: {e}")
    return found, problems
