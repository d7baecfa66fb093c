"""The published checkpoints by name, and where they are on this machine.

Knows: names, Hugging Face repositories, licences, sizes, the config values that distinguish the checkpoints, and the
models folder with its layout (`<models_dir>/<name>/`, a diffusers folder).
Does not know: torch, the network, whether a folder is complete (`weights.verify`), what a model needs to run.

Sources: the README table of zai-org/CogVideo and the published configs. The organisation used to be called THUDM, and
the old names redirect; `weights.imports` finds Hugging Face caches under the old and the new name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
MODEL_INDEX = "model_index.json"

# The files of a pull or an import: configs and safetensors of the five folders, and the licence. Never pickles or code.
ALLOW_PATTERNS = (
    MODEL_INDEX,
    "LICENSE*",
    "scheduler/*.json",
    "text_encoder/*.json",
    "text_encoder/*.safetensors",
    "tokenizer/*.json",
    "tokenizer/spiece.model",
    "transformer/*.json",
    "transformer/*.safetensors",
    "vae/*.json",
    "vae/*.safetensors",
)

Configs = Mapping[str, Mapping[str, object]]


class WeightsError(Exception):
    """A problem with weights that the user can fix; the message says how, in one line."""


class UnknownCheckpoint(WeightsError, LookupError):
    """Not a name in the catalog or the models folder, and not a checkpoint's folder. `why` is the message without the
    name, for callers that have already printed it."""

    def __init__(self, asked: str, why: str = "", names: Iterable[str] = ()) -> None:
        known = list(dict.fromkeys((*CATALOG, *names)))
        similar = get_close_matches(asked.strip().lower().rpartition("/")[2], known, 1, 0.7)
        hint = f"did you mean {similar[0]}?" if similar else f"known names: {', '.join(known)}"
        self.why = f"{why or 'no such model'}; {hint}"
        super().__init__(f"{asked}: {self.why}")
        self.asked = asked


@dataclass(frozen=True)
class Checkpoint:
    """One published checkpoint.

    `size_gb`: size of the download in 10^9 bytes, computed from parameter counts at two bytes each. `revision`: a
    branch or a full commit. `configs`: component -> config values of this checkpoint (None: absent).
    """

    name: str
    repository: str | None  # None: ships with this project
    licence: str
    size_gb: float
    tasks: tuple[str, ...]
    revision: str = "main"
    configs: Configs = field(default_factory=lambda: MappingProxyType({}), hash=False)
    allow_patterns: tuple[str, ...] = ALLOW_PATTERNS

    @property
    def packaged(self) -> bool:
        return self.repository is None

    @property
    def terms(self) -> str | None:
        """The licence's conditions, to show before the weights are used; None for an open-source licence."""
        if self.licence != _FAMILY_LICENCE:
            return None
        return f"{self.licence}: free for research; commercial use needs registration with Zhipu: {LICENCE_URL}"


@dataclass(frozen=True)
class Installed:
    """A checkpoint folder on this machine; `checkpoint` is None if the catalog does not have it."""

    name: str
    folder: Path
    checkpoint: Checkpoint | None


_T2V = ("text-to-video", "video-to-video")  # video-to-video runs on text-to-video weights
_I2V = ("image-to-video",)
_FAMILY_LICENCE = "CogVideoX License"
LICENCE_URL = "https://huggingface.co/zai-org/CogVideoX-5b/blob/main/LICENSE"
_HUB = re.compile(r"^(https?://)?(huggingface\.co/|hf\.co/|hf://)?(zai-org/|thudm/)?", re.IGNORECASE)


def _configs(version: str, *, image: bool, large: bool = True) -> Configs:
    second = version == "1.5"
    return {
        "transformer": {
            "num_layers": 42 if large else 30,
            "num_attention_heads": 48 if large else 30,
            "in_channels": 32 if image else 16,
            "patch_size_t": 2 if second else None,
            "ofs_embed_dim": 512 if second and image else None,
            "use_rotary_positional_embeddings": large,
            "use_learned_positional_embeddings": image and not second,
        },
        "vae": {"scaling_factor": 0.7 if large else 1.15258426, "invert_scale_latents": second},
        "scheduler": {
            "snr_shift_scale": 1.0 if large else 3.0,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
        },
    }


# The revision is a commit only if many independent public sources name that commit, otherwise a branch; a pull records
# the commit. Weights: 16-bit transformer + T5 (4.76 B parameters) + VAE (0.22 B).
CATALOG: Mapping[str, Checkpoint] = MappingProxyType(
    {
        c.name: c
        for c in (
            Checkpoint(
                "cogvideox-2b", "zai-org/CogVideoX-2b", "Apache-2.0", 13.3, _T2V,
                "1137dacfc2c9c012bed6a0793f4ecf2ca8e7ba01", _configs("1.0", image=False, large=False),
            ),
            Checkpoint(
                "cogvideox-5b", "zai-org/CogVideoX-5b", _FAMILY_LICENCE, 21.1, _T2V,
                "8d6ea3f817438460b25595a120f109b88d5fdfad", _configs("1.0", image=False),
            ),
            Checkpoint(
                "cogvideox-5b-i2v", "zai-org/CogVideoX-5b-I2V", _FAMILY_LICENCE, 21.2, _I2V,
                configs=_configs("1.0", image=True),
            ),
            Checkpoint(
                "cogvideox-1.5-5b", "zai-org/CogVideoX1.5-5B", _FAMILY_LICENCE, 21.1, _T2V,
                configs=_configs("1.5", image=False),
            ),
            Checkpoint(
                "cogvideox-1.5-5b-i2v", "zai-org/CogVideoX1.5-5B-I2V", _FAMILY_LICENCE, 21.1, _I2V,
                configs=_configs("1.5", image=True),
            ),
            Checkpoint("demo", None, "Apache-2.0", 0.03, _T2V),
            Checkpoint("demo-i2v", None, "Apache-2.0", 0.03, _I2V),
        )
    }
)  # fmt: skip


def default_models_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The models folder if COGVIDEOX_MODELS_DIR is not set: `$XDG_CACHE_HOME/cogvideox/models`, or without that
    variable `~/.cache/cogvideox/models`."""
    cache = environ.get("XDG_CACHE_HOME", "")
    # the XDG specification says to ignore a relative path here
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "cogvideox" / "models"


def get(name: str) -> Checkpoint:
    """The catalog's entry for a name or Hub id. Raises UnknownCheckpoint, whose message suggests the nearest name."""
    known = known_name(name)
    if known is None:
        raise UnknownCheckpoint(name)
    return CATALOG[known]


def known_name(text: str) -> str | None:
    """The catalog's name for a name or Hub id in any case, with or without organisation or URL:
    `zai-org/CogVideoX1.5-5B`, `THUDM/CogVideoX-5b`, `CogVideoX-5B`. None for anything else."""
    short = _HUB.sub("", text.strip()).rstrip("/").lower()
    for checkpoint in CATALOG.values():
        if short in (checkpoint.name, (checkpoint.repository or "").lower().rpartition("/")[2] or checkpoint.name):
            return checkpoint.name
    return None


def plain_name(name: str) -> str:
    """The form in which two names from clients are compared: `zai-org/CogVideoX-5b` is `cogvideox5b`, for any owner."""
    return re.sub(r"[^a-z0-9.]", "", name.strip().rstrip("/").rpartition("/")[2].lower())


def published(name: str) -> Checkpoint | None:
    """The published checkpoint of that name or Hub id, with any owner; None for others."""
    wanted = plain_name(name)
    for checkpoint in CATALOG.values():
        if checkpoint.repository and wanted in (plain_name(checkpoint.name), plain_name(checkpoint.repository)):
            return checkpoint
    return None


def home(path: str | Path) -> Path:
    """Expand `~` and `~name`. If there is no user of that name, the path stays unchanged."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def name_of(asked: str, models_dir: Path) -> str:
    """The name that `find` uses: the catalog's name for a Hub id, unless a folder has exactly that id as its name."""
    known = known_name(asked)
    if known is None or asked in CATALOG or _is_checkpoint(models_dir / asked):
        return asked
    if _is_checkpoint(_folder(known, models_dir)):
        return known
    return asked if _is_checkpoint(home(asked)) else known


def find(name_or_folder: str | Path, models_dir: Path) -> Path | None:
    """The folder of a checkpoint: a catalog name or Hub id, the name of a folder in `models_dir`, or a path to one.

    None if the checkpoint is in the catalog but not on this machine. Raises UnknownCheckpoint for anything else. A name
    takes precedence over a folder of that name in the working directory; use `./name` for the folder.
    """
    asked = name_of(str(name_or_folder), models_dir)
    if asked in CATALOG:
        folder = _folder(asked, models_dir)
        return folder if _is_checkpoint(folder) else None
    for folder in (models_dir / asked, home(asked)):
        if asked and _is_checkpoint(folder):
            return folder
    why = ""
    if asked and home(asked).is_dir():
        why = f"the folder has no {MODEL_INDEX}: cogvideox weights import {asked} installs it or says what it is"
    raise UnknownCheckpoint(asked or "''", why, (one.name for one in installed(models_dir)))


def installed(models_dir: Path) -> list[Installed]:
    """Every checkpoint with a model_index.json on this machine: first the catalog's in its order, then others by
    name."""
    names = list(CATALOG)
    if models_dir.is_dir():
        names += sorted(p.name for p in models_dir.iterdir() if p.name not in CATALOG and not p.name.startswith("."))
    folders = {n: _folder(n, models_dir) if n in CATALOG else models_dir / n for n in names}
    return [Installed(n, f, CATALOG.get(n)) for n, f in folders.items() if _is_checkpoint(f)]


def _folder(name: str, models_dir: Path) -> Path:
    return _packaged(name) if CATALOG[name].packaged else models_dir / name


def _is_checkpoint(folder: Path) -> bool:
    try:
        return (folder / MODEL_INDEX).is_file()
    except OSError:  # the name is too long for a file
        return False


def _packaged(name: str) -> Path:
    return Path(__file__).resolve().parent / name
