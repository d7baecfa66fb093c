"""Downloads a published checkpoint from the Hugging Face Hub. Only this module and `weights.loras` call the Hub.

Knows: which files, at which revision, into which folder; how a download is resumed and checked; plain error messages.
Does not know: the transfer itself; huggingface_hub handles resuming, retries, progress bars, mirrors (HF_ENDPOINT) and
tokens.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from weights import record
from weights.catalog import MODEL_INDEX, Checkpoint, WeightsError, get
from weights.imports import PARTIAL, wanted
from weights.verify import Report, verify

_DOWNLOAD_NOTES = Path(".cache") / "huggingface" / "download"  # written by huggingface_hub into its local_dir
_DIGEST = re.compile(r"[0-9a-f]{64}")


class PullError(WeightsError):
    """The download failed. The files downloaded so far are kept, and the next pull resumes from them."""


CONNECT_SECONDS = 10.0  # time limit for the Hub's first response; huggingface_hub would retry for half a minute


def pull(name: str, models_dir: Path, *, snapshot_download: Callable[..., Any] | None = None) -> Path:
    """Download a catalog checkpoint to `models_dir/<name>`, verify it, write its record; returns the folder.

    Does nothing if the checkpoint is already installed and passes `verify` (without `deep`). If it does not pass, only
    its invalid files are downloaded again. The folder gets its name only when it is complete.
    Raises UnknownCheckpoint or PullError.
    """
    checkpoint = get(name)
    name = checkpoint.name
    target, partial = models_dir / name, models_dir / PARTIAL / name
    if checkpoint.repository is None:
        raise PullError(f"{name} ships with this project, so there is nothing to pull")
    if target.exists():
        report = verify(target)
        if report.ok:
            return target
        _take_back(report, partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        asked = {
            "repo_id": checkpoint.repository,
            "revision": checkpoint.revision,
            "local_dir": partial,
            "allow_patterns": list(checkpoint.allow_patterns),
        }
        if snapshot_download is None:
            snapshot_download = hub_download()
        # NOTE: the dry run also proves that the Hub responds. If it does not, the real call silently returns the
        # incomplete folder.
        _check_space(partial, snapshot_download(**asked, dry_run=True))
        snapshot_download(**asked)
        return _settle(partial, target, checkpoint)
    except WeightsError:
        raise
    except Exception as error:  # the library has a dozen error classes
        raise PullError(plain_words(error, checkpoint)) from error


def hub_download() -> Callable[..., Any]:
    """huggingface_hub's download function, after checking that the Hub responds. Raises huggingface_hub's errors."""
    from huggingface_hub import constants, get_session, snapshot_download

    if not constants.HF_HUB_OFFLINE:
        get_session().head(constants.ENDPOINT, timeout=CONNECT_SECONDS)
    return snapshot_download


def _take_back(report: Report, partial: Path) -> None:
    """Move a checkpoint that failed verification back to the folder of partial downloads, without its invalid files."""
    if partial.exists():
        shutil.rmtree(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    report.folder.rename(partial)
    for problem in report.problems:
        if (partial / problem.path).is_file():
            (partial / problem.path).unlink()


def _check_space(folder: Path, plan: list[Any]) -> None:
    needed = sum(f.file_size or 0 for f in plan if f.will_download)
    needed -= sum(p.stat().st_size for p in folder.rglob("*.incomplete"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PullError(f"{needed / 1e9:.1f} GB are needed, but {folder} has {free / 1e9:.1f} GB free")


def _settle(partial: Path, target: Path, checkpoint: Checkpoint) -> Path:
    names = wanted(partial)
    files = record.measure(partial, names)
    notes = {n: _note(partial, n) for n in names}
    torn = [n for n in names if _DIGEST.fullmatch(notes[n][1]) and notes[n][1] != files[n].sha256]
    for name in torn:
        (partial / name).unlink()
    if torn:
        raise PullError(f"damaged in transfer, pull again to download them: {', '.join(torn)}")
    (partial / record.RECORD).unlink(missing_ok=True)
    report = verify(partial)
    if not report.ok:
        raise PullError(f"{checkpoint.repository} is not whole: " + "; ".join(map(str, report.problems)))
    commit = notes.get(MODEL_INDEX, ("", ""))[0] or None
    record.write(partial, record.Record(files, checkpoint.name, checkpoint.repository, commit))
    partial.rename(target)
    return target


def _note(folder: Path, name: str) -> tuple[str, str]:
    """Commit and etag that huggingface_hub recorded for a file; a large file's etag is its published SHA-256."""
    path = folder / _DOWNLOAD_NOTES / f"{name}.metadata"
    lines = path.read_text().splitlines() if path.is_file() else []
    return (lines[0], lines[1]) if len(lines) >= 2 else ("", "")


def plain_words(error: BaseException, checkpoint: Checkpoint) -> str:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    endpoint, where = constants.ENDPOINT, checkpoint.repository
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return "the disk is full; make room and pull again, it resumes"
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"{cause.filename} cannot be written to: {cause.strerror}"
        if isinstance(cause, hub.GatedRepoError):
            return f"accept the terms of {where} at {endpoint}/{where} first, then run `hf auth login`, then pull"
        if isinstance(cause, hub.RevisionNotFoundError):
            return f"{where} no longer has the revision {checkpoint.revision}"
        if isinstance(cause, hub.RepositoryNotFoundError):
            return f"{endpoint} has no {where}, or does not show it without a token"
        if isinstance(cause, hub.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so nothing is downloaded; unset it and pull again"
        if isinstance(cause, hub.HfHubHTTPError) and cause.response is not None:
            return f"{endpoint} answered {cause.response.status_code}; try again later, a download resumes"
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "ProxyError"):
            return f"{endpoint} cannot be reached ({cause}); try again later, a download resumes"
    return f"{where} could not be fetched: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
