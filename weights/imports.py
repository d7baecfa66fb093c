"""Installs a checkpoint, or RIFE's network, from this machine into the models folder.

Knows: diffusers folders, Hugging Face caches (`models--org--name/snapshots/<commit>/` with links to blobs), and how to
make a folder appear complete or not at all. Does not know: the network. Files are hard-linked if the file system allows
it, so that nothing is stored twice; otherwise they are copied.
"""

from __future__ import annotations

import errno
import fnmatch
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weights import foreign, interpolation, record
from weights.catalog import ALLOW_PATTERNS, CATALOG, MODEL_INDEX, WeightsError, home
from weights.finetune import Transformer, base_folder, fill
from weights.verify import recognise, verify

PARTIAL = ".partial"  # folder for unfinished downloads and imports in the models folder; the catalog does not list it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ImportRefused(WeightsError):
    """This folder cannot be imported; the message says why."""


def import_folder(source: Path, models_dir: Path, name: str | None = None) -> Path:
    """Import a diffusers folder or a Hugging Face cache as `models_dir/<name>`; returns that folder.

    Without `name`, the configs decide which of the catalog's names the folder gets. The source is verified first, and
    the SHA-256 of its files are recorded. If a cache names its blobs by SHA-256, the files are compared with those
    hashes. Raises ImportRefused.
    """
    folder, commit = locate(home(source))
    report = verify(folder)
    if report.ok:
        report = verify(folder, deep=True)
    if not report.ok:
        raise ImportRefused(f"{folder} is not whole: " + "; ".join(map(str, report.problems)))
    checkpoint = recognise(folder)
    if name is None and checkpoint is None:
        raise ImportRefused(f"{folder} does not have the configs of a published checkpoint: choose a --name for it")
    name = name or (checkpoint.name if checkpoint else "")
    if name in interpolation.NETWORKS:
        raise ImportRefused(f"{name} is the name of an interpolation network: choose another --name")
    target = models_dir / _free_name(name, models_dir)
    with _arriving(folder, target) as scratch:
        names = wanted(folder)
        for file in names:
            _bring((folder / file).resolve(), scratch / file)
        files = record.measure(scratch, names)
        _hold_against_blobs(folder, files)
        repository = checkpoint.repository if checkpoint else None
        record.write(scratch, record.Record(files, checkpoint.name if checkpoint else None, repository, commit))
    return target


def import_transformer(found: Transformer, models_dir: Path, base: str | None, name: str | None = None) -> Path:
    """Import a transformer as `models_dir/<name>`, with the other parts of the checkpoint `base`.

    Without `name`, the name comes from the source. Raises WeightsError.
    """
    base_name, other = base_folder(base, found, models_dir)
    name = name or found.name
    if name in CATALOG or name in interpolation.NETWORKS:
        raise ImportRefused(f"{name} is the name of another model: choose a --name for it")
    target = models_dir / _free_name(name, models_dir)
    if broken := verify(other).problems:
        raise ImportRefused(f"{base_name} is not whole: " + "; ".join(map(str, broken)))
    with _arriving(found.source, target) as scratch:
        for file in wanted(other):
            if not file.startswith("transformer/"):
                _bring((other / file).resolve(), scratch / file)
        fill(found, other, scratch, _bring)
        if problems := verify(scratch, deep=True).problems:
            raise ImportRefused(f"{found.source} does not fit {base_name}: " + "; ".join(map(str, problems)))
        made_from = base_name if base_name in CATALOG else None
        record.write(scratch, record.Record(record.measure(scratch, wanted(scratch)), made_from))
    return target


def import_network(file: Path, models_dir: Path, convert: Callable[[Path, Path], str]) -> tuple[Path, str]:
    """Store a RIFE file in the models folder; returns its path there and the description that `convert` returns.

    `convert(file, target)` writes `target` as safetensors and may raise WeightsError. Raises WeightsError.
    """
    file = home(file)
    try:
        interpolation.named(file)
    except WeightsError as error:
        raise ImportRefused(f"{file}: {error}") from None
    target = interpolation.place(interpolation.RIFE, models_dir)
    if target.parent.exists():
        raise ImportRefused(f"{target.parent} is already there: remove it first")
    with _arriving(file, target.parent) as scratch:
        what = convert(file, scratch / target.name)
        (scratch / target.name).chmod(0o644)  # the library that wrote it allows only the owner to read it
        record.write(scratch, record.Record(record.measure(scratch, [target.name]), interpolation.RIFE))
    return target, what


@contextmanager
def _arriving(source: Path, target: Path) -> Iterator[Path]:
    """A folder to fill. It becomes `target` at the end, or is removed if the block raises an exception."""
    models_dir = target.parent
    try:
        (models_dir / PARTIAL).mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=models_dir / PARTIAL))
    except OSError as error:
        raise ImportRefused(f"{models_dir} cannot be written to: {error.strerror}") from error
    try:
        scratch.chmod(0o755)
        yield scratch
        scratch.rename(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ImportRefused(f"the disk of {models_dir} is full") from error
        raise ImportRefused(f"{source} could not be imported: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def locate(source: Path) -> tuple[Path, str | None]:
    """The diffusers folder at or inside `source`. If `source` is a Hugging Face cache, also the commit of the
    repository."""
    if (source / MODEL_INDEX).exists():
        return source, source.name if source.parent.name == "snapshots" else None
    if not source.is_dir():
        raise ImportRefused(f"{source} is not a folder")
    snapshots = foreign.snapshots(source)
    for snapshot in snapshots:
        if (snapshot / MODEL_INDEX).exists():
            return snapshot, snapshot.name
    if snapshots:
        how = foreign.folder_step(snapshots[0])
        raise ImportRefused(f"{source} is a Hugging Face cache without a diffusers checkpoint: {how}")
    raise ImportRefused(foreign.hub_step(source) or foreign.folder_step(source))


def wanted(folder: Path) -> list[str]:
    """The files to import or pull: relative paths with forward slashes. Others are left out."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return sorted(n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in ALLOW_PATTERNS))


def _free_name(name: str, models_dir: Path) -> str:
    if not _NAME.fullmatch(name):
        raise ImportRefused(f"{name!r} is not a valid name: use at most 64 letters, digits, '.', '_' and '-'")
    if name in CATALOG and CATALOG[name].packaged:
        raise ImportRefused(f"{name} ships with this project: choose another --name")
    if (models_dir / name).exists():
        raise ImportRefused(f"{models_dir / name} is already there: remove it, or choose another --name")
    return name


def _bring(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _hold_against_blobs(folder: Path, files: dict[str, record.FileRecord]) -> None:
    """Compare with a Hugging Face cache's blob names, which are the publisher's SHA-256 of large files."""
    for name, file in files.items():
        blob = (folder / name).resolve().name
        if (folder / name).is_symlink() and _DIGEST.fullmatch(blob) and blob != file.sha256:
            raise ImportRefused(f"{folder / name}: its SHA-256 differs from the published one; download it again")
