"""The folder of LoRA files: their names, adding, removing, and downloading from the Hugging Face Hub.

Knows: the folder's layout, the Hub. Does not know: torch, the content of a file.
Run as a program, it downloads one LoRA; the kernel ends it after a time limit.

    NAME.safetensors   added by hand; or NAME/FILE.safetensors with other files next to it
    OWNER/NAME/…       a repository of the Hub; OWNER/NAME@REVISION/… if it is not the main branch
    FILE.json          next to FILE.safetensors: the user's settings for it, such as {"alpha": 1}
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from weights.catalog import Checkpoint, WeightsError
from weights.pull import hub_download, plain_words

SUFFIX = ".safetensors"
PART = r"\w[\w .()+,@=-]{0,95}"
NAME = re.compile(rf"{PART}(/{PART}){{0,5}}")
WORD = r"[A-Za-z0-9_][\w.-]*"
REPOSITORY = re.compile(rf"({WORD}/{WORD})(?:@({WORD}))?(?:/(.+{re.escape(SUFFIX)}))?", re.ASCII)
HUB = re.compile(r"hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)(?::443)?/", re.IGNORECASE)
PAGES = ("resolve", "blob", "raw", "tree")  # parts of a URL of a repository's file, before the revision
CONFIG = "adapter_config.json"
LISTED = 10  # names in a message


def installed(folder: Path) -> list[str]:
    """The names of all LoRA files in the folder, for use with `find`. A folder with only one file is listed by its own
    name."""
    names: dict[str, list[str]] = {}
    for path in folder.rglob(f"*{SUFFIX}"):
        inside = path.relative_to(folder)
        if path.is_file() and NAME.fullmatch(inside.as_posix()):
            alone = path.parent != folder and len(list(path.parent.glob(f"*{SUFFIX}"))) == 1
            name = inside.parent.as_posix() if alone else inside.as_posix().removesuffix(SUFFIX)
            names.setdefault(name, []).append(inside.as_posix())
    return sorted(one for name, files in names.items() for one in ([name] if len(files) == 1 else files))


def find(name: str, folder: Path) -> Path | None:
    """The file of that name: its path in the folder with or without .safetensors, or the only file of a folder.

    None if there is none. Raises WeightsError for an invalid name, for a folder with several files, and if both a file
    and a folder have that name.
    """
    if not NAME.fullmatch(name):
        raise WeightsError(f"{name[:100]!r} is not a valid LoRA name: use letters, digits, . _ - and / between folders")
    path, alone = folder / name, folder / f"{name}{SUFFIX}"
    if path.suffix == SUFFIX and path.is_file():
        return path
    inside = sorted((folder / name).glob(f"*{SUFFIX}"))
    if alone.is_file():
        inside = [alone, *(inside if len(inside) == 1 else [])]  # several files are listed by their own names
    inside = inside or sorted((folder / name).glob(f"**/*{SUFFIX}"))
    if len(inside) > 1:
        verb = "is the name of" if alone in inside else "contains"
        raise WeightsError(f"{name} {verb} several LoRAs; choose one of them: {_some(folder, inside)}")
    return inside[0] if inside else None


def hub_name(address: str) -> str | None:
    """The name for `find` and `pull` of the LoRA at a URL of the Hugging Face Hub: `https://huggingface.co/OWNER/NAME`,
    `…/resolve/REVISION/FILE.safetensors`, and the Hub's other forms of these. None for other URLs.

    Raises WeightsError for a revision that cannot be a folder's name.
    """
    if not (hub := HUB.match(address)):
        return None
    parts = [unquote(part) for part in re.split("[?#]", address[hub.end() :])[0].split("/") if part]
    if hub[0].lower() == "hf://" or len(parts) == 2:
        name = "/".join(parts)
        return name if REPOSITORY.fullmatch(name) else None
    if len(parts) < 4 or parts[2] not in PAGES:
        return None
    owner, repository, page, revision, *inside = parts
    if page != "tree" and not parts[-1].lower().endswith(SUFFIX):
        return None
    if not re.fullmatch(WORD, revision, re.ASCII):
        raise WeightsError(f"{revision[:100]!r} is not a supported revision: use letters, digits, . _ and -")
    at = "" if revision == "main" else f"@{revision}"
    return "/".join((owner, repository + at, *inside))


def unknown(name: str, folder: Path) -> str:
    """The error message for a name that `find` does not know."""
    there = installed(folder)[:LISTED] if folder.is_dir() else []
    how = f"; `cogvideox lora add {name}` fetches it from the hub" if REPOSITORY.fullmatch(name) else ""
    return f"no LoRA {name!r} is installed here; there are: {', '.join(there) or 'none'}{how}"


def add(source: Path, folder: Path, name: str, alpha: float | None = None, origin: str = "") -> Path:
    """Copy a file, and the PEFT configuration next to it, to `folder/name/`; returns its new path.

    Raises WeightsError for an invalid or existing name.
    """
    target = folder / name / f"{PurePosixPath(name).name}{SUFFIX}"
    if not NAME.fullmatch(name):
        raise WeightsError(f"{name[:100]!r} is not a valid name: use letters, digits, . _ - and / between folders")
    if find(name, folder) is not None:
        raise WeightsError(f"{name} already exists; run `cogvideox lora remove {name}` first, or choose another --name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, part)
        if source.with_name(CONFIG).is_file():
            shutil.copyfile(source.with_name(CONFIG), target.with_name(CONFIG))
        note(target, alpha=alpha, origin=origin)
        part.replace(target)
    except OSError as e:
        raise WeightsError(f"{target.parent} cannot be written: {e.strerror}") from e
    return target


def note(file: Path, **said: Any) -> None:
    """Add values to the JSON file next to `file`; values that are None or an empty string are not written."""
    beside = file.with_name(f"{file.name}.json")
    try:
        before = json.loads(beside.read_text("utf-8")) if beside.is_file() else {}
    except (OSError, ValueError):
        before = {}
    found = {**(before if isinstance(before, dict) else {}), **{k: v for k, v in said.items() if v not in (None, "")}}
    if found:
        beside.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


def remove(name: str, folder: Path) -> Path:
    """Remove a file, and its folder if the folder has no other LoRA. Raises WeightsError."""
    path = find(name, folder)
    if path is None:
        raise WeightsError(unknown(name, folder))
    path.unlink()
    path.with_name(f"{path.name}.json").unlink(missing_ok=True)
    home = path.parent
    while home != folder and not any(home.rglob(f"*{SUFFIX}")):
        shutil.rmtree(home)
        home = home.parent
    return path


def pull(
    name: str,
    folder: Path,
    limit: int,
    revision: str | None = None,
    *,
    snapshot_download: Callable[..., Any] | None = None,
) -> Path:
    """Download OWNER/NAME, or OWNER/NAME/FILE.safetensors, from the Hub to `folder`; returns the file or the folder.
    A revision, OWNER/NAME@REVISION, becomes part of the folder's name.

    Downloads only safetensors and the PEFT configuration. Raises WeightsError if the download fails or exceeds `limit`
    bytes.
    """
    asked = REPOSITORY.fullmatch(name)
    if not asked or not NAME.fullmatch(name):
        raise WeightsError(f"{name[:100]!r} is not a repository: expected OWNER/NAME, or OWNER/NAME/FILE{SUFFIX}")
    repository, file = asked[1], asked[3]
    home = folder / (f"{repository}@{asked[2]}" if asked[2] else repository)
    revision = revision or asked[2]
    patterns = [file, str(PurePosixPath(file).with_name(CONFIG))] if file else [f"*{SUFFIX}", f"*{CONFIG}"]
    what = {"repo_id": repository, "revision": revision, "local_dir": home, "allow_patterns": patterns}
    try:
        if snapshot_download is None:
            snapshot_download = hub_download()
        plan = snapshot_download(**what, dry_run=True)
        if not any(str(one.filename).endswith(SUFFIX) for one in plan):
            raise WeightsError(f"{repository} has no {file or f'{SUFFIX} file'}")
        size = sum(one.file_size or 0 for one in plan)
        if size > limit:
            raise WeightsError(
                f"{repository} has {size / 2**20:.0f} MiB of files, the limit is {limit // 2**20} MiB;"
                f" choose one file: {repository}/FILE{SUFFIX}, or raise COGVIDEOX_MAX_LORA_MB"
            )
        snapshot_download(**what)
    except WeightsError:
        raise
    except Exception as error:  # the library has a dozen error classes
        raise WeightsError(plain_words(error, Checkpoint(name, repository, "", 0, (), revision or "main"))) from error
    return home / file if file else home


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same disk, for files that are not checked yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        yield Path(scratch)


def settle(file: Path, scratch: Path, folder: Path, alpha: float | None = None, origin: str = "") -> Path:
    """Move `file`, which `pull` wrote into `scratch`, to the same relative path in `folder`; returns the new path."""
    target = folder / file.relative_to(scratch)
    target.parent.mkdir(parents=True, exist_ok=True)
    if (config := file.with_name(CONFIG)).is_file():  # first, because the PEFT configuration may contain the alpha
        config.replace(target.with_name(CONFIG))
    note(target, alpha=alpha, origin=origin)
    return file.replace(target)


def _some(folder: Path, paths: list[Path]) -> str:
    names = [str(path.relative_to(folder)) for path in paths[:LISTED]]
    return ", ".join(names) + (" …" if len(paths) > LISTED else "")


if __name__ == "__main__":  # NAME FOLDER LIMIT SECONDS
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[4]))  # the signal is not handled, so it ends the process
    try:
        pull(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    except WeightsError as e:
        sys.exit(str(e))
