"""Files (0600) and folders (0700) that nobody else on this machine may read, whatever the umask. Existing ones are
changed too.

Knows: rights of files. Does not know: what is in them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

# what lies at the top of a data folder; a folder that holds something else may be somebody's home or /tmp
OURS = frozenset(
    {"lock", "keys", "tls", "tmp", "inputs", "artifacts", "uploads", "checkpoints", "fetched-loras"}
    | {"openai", "replicate"}
)


def private_folder(path: Path) -> None:
    """Makes the folder with its parents, or makes an existing one private. One of another owner keeps its mode. Raises
    OSError."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    _tighten(path, 0o700)


def private_file(path: Path) -> None:
    """Made empty, or tightened. Raises OSError."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    _tighten(path, 0o600)


def data_folder(path: Path, warn: Callable[[str], object] = lambda _: None) -> None:
    """Like `private_folder`, for the data folder itself. If it holds other things too, its mode is left as it is and
    `warn` is called; the files made in it are private all the same. Raises OSError."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(path))
    if path.is_dir() and (other := _other_things(path)):
        if path.stat().st_mode & 0o077:
            warn(f"the data folder {path} can be opened by other users; it also holds {other}, so it is left as it is")
        return
    private_folder(path)
    if path.stat().st_mode & 0o077:
        warn(f"the data folder {path} belongs to another user and can be opened by others")


def _other_things(path: Path) -> str | None:
    """The name of something in the folder that this server does not make, if any."""
    for entry in path.iterdir():
        known = entry.name in OURS or entry.name.startswith((".", "jobs.db"))
        if not known:
            return entry.name
    return None


def _tighten(path: Path, mode: int) -> None:
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & ~mode & 0o777 and found.st_uid == os.geteuid():
        path.chmod(mode)
