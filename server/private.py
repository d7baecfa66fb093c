"""Files and folders that other users of this machine may not read: modes 0600 and 0700, whatever the umask, also for
existing files and folders.

Knows: file permissions. Does not know: the content of files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

# the entries of a data folder; a folder with other entries may be a home folder or /tmp
OURS = frozenset(
    {"lock", "keys", "tls", "tmp", "inputs", "artifacts", "uploads", "checkpoints", "fetched-loras"}
    | {"openai", "replicate"}
)


def private_folder(path: Path) -> None:
    """Creates the folder and its parents. Restricts the permissions of an existing folder, unless it belongs to another
    user. Raises OSError."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    _tighten(path, 0o700)


def private_file(path: Path) -> None:
    """Creates an empty file, or restricts the permissions of an existing one. Raises OSError."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    _tighten(path, 0o600)


def data_folder(path: Path, warn: Callable[[str], object] = lambda _: None) -> None:
    """Like `private_folder`, for the data folder itself. A folder that also holds files of other programs keeps its
    permissions, and `warn` is called if other users can open the folder; the server's own files in it are private
    anyway. Raises OSError."""
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
    """The name of an entry that this server did not create; None when there is none."""
    for entry in path.iterdir():
        known = entry.name in OURS or entry.name.startswith((".", "jobs.db"))
        if not known:
            return entry.name
    return None


def _tighten(path: Path, mode: int) -> None:
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & ~mode & 0o777 and found.st_uid == os.geteuid():
        path.chmod(mode)
