"""Our own programs in processes of their own: how they are started, limited and ended.

Knows: command line, environment, limits of a process. Does not know: what the programs do.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SECRETS = ("COGVIDEOX_", "AWS_")  # settings and credentials that no such program needs
_PR_SET_PDEATHSIG = 1
REFUSED = 3  # exit status of a program that read a file and found it to be of no use; its output says why


def command(module: str, *args: str) -> list[str]:
    """`python -m module args`. -P: a folder `pipelines` in the current directory is never run instead of ours."""
    return [sys.executable, "-P", "-m", module, *args]


def environment() -> dict[str, str]:
    """This process's, without its secrets and without any GPU."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}


def run(module: str, *args: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; its output is text. Raises subprocess.TimeoutExpired, and nothing of it is left then."""
    with subprocess.Popen(
        command(module, *args),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            end(process.pid)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def verdict(module: str, *files: Path, seconds: float) -> tuple[str | None, str]:
    """Why the program has no use for the first of `files`, in a line, None when it has; and its output."""
    try:
        done = run(module, *map(str, files), seconds=seconds)
    except subprocess.TimeoutExpired:
        return f"could not be read within {seconds:g} seconds", ""
    if done.returncode == 0:
        return None, done.stdout.strip()
    if done.returncode != REFUSED:
        return "cannot be read: the process that tried has died", ""
    return done.stdout.strip().removeprefix(f"{files[0].name} "), ""


def refuse(error: OSError | ValueError) -> int:
    """For the program itself: says what is wrong with its file; returns the status to exit with."""
    unread = f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
    sys.stdout.write(unread if isinstance(error, OSError) else " ".join(str(error).split())[:400])
    return REFUSED


def end(pid: int) -> None:
    """Kills a process that leads its own session, and all that it started."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def confine(memory_bytes: int, cpu_seconds: int | None = None, address_space: int | None = None) -> None:
    """For the program itself, before it reads anything: limits that its children inherit, and it ends with its parent.

    Beyond the memory an allocation fails (MemoryError), beyond the CPU time the kernel ends the process.
    `address_space` in bytes where it must be larger than the memory: libraries of several GiB are mapped, not read.
    """
    limits = {
        resource.RLIMIT_DATA: memory_bytes,
        resource.RLIMIT_AS: address_space or memory_bytes,
        resource.RLIMIT_CORE: 0,
    }
    if cpu_seconds is not None:
        limits[resource.RLIMIT_CPU] = cpu_seconds
    for kind, limit in limits.items():
        with suppress(ValueError, OSError):  # a lower limit is set already; macOS has no limit of the address space
            resource.setrlimit(kind, (limit, limit))
    die_with_parent()


def die_with_parent() -> None:
    # NOTE: the signal comes when the *thread* that started this process ends
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
