"""Start our own programs in separate processes, limit them and end them.

Knows: command line, environment and limits of a process. Does not know: what the programs do.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SECRETS = ("COGVIDEOX_", "AWS_")  # prefixes of settings and credentials that these programs do not need
_PR_SET_PDEATHSIG = 1
REFUSED = 3  # exit status of a program that could not use its file; the program's output says why


def command(module: str, *args: str) -> list[str]:
    """The command `python -P -m module args`. Because of -P, Python never imports from the current directory, which may
    hold another package `pipelines`."""
    return [sys.executable, "-P", "-m", module, *args]


def environment() -> dict[str, str]:
    """This process's environment, without its secrets and without any GPU."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}


@contextmanager
def safe_path() -> Iterator[None]:
    """Python processes started inside the block do not import from the current directory, as with -P. This includes the
    processes that multiprocessing starts."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def run(module: str, *args: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises subprocess.TimeoutExpired after killing the program and its children."""
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
    """Run a program on `files`. Returns two values: the reason (in one line) why the program cannot use the first file,
    or None if it can; and the program's output."""
    try:
        done = run(module, *map(str, files), seconds=seconds)
    except subprocess.TimeoutExpired:
        return f"could not be read within {seconds:g} seconds", ""
    if done.returncode == 0:
        return None, done.stdout.strip()
    if done.returncode != REFUSED:
        return "cannot be read: the process that read it has died", ""
    return done.stdout.strip().removeprefix(f"{files[0].name} "), ""


def refuse(error: OSError | ValueError) -> int:
    """Called in the program: print the reason why its file cannot be used. Returns the exit status."""
    unread = f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
    sys.stdout.write(unread if isinstance(error, OSError) else " ".join(str(error).split())[:400])
    return REFUSED


def end(pid: int) -> None:
    """Kill a process that leads its own session, and its children."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(pid, signal.SIGKILL)


def confine(memory_bytes: int, cpu_seconds: int | None = None, address_space: int | None = None) -> None:
    """Called in the program before it reads anything: limit this process and its children, and end this process when
    its parent ends.

    Beyond `memory_bytes` an allocation fails (MemoryError), beyond `cpu_seconds` the kernel ends the process.
    `address_space` (bytes) is the limit of mapped memory. It must be larger than `memory_bytes` in a program that maps
    libraries of several GiB without reading them.
    """
    limits = {
        resource.RLIMIT_DATA: memory_bytes,
        resource.RLIMIT_AS: address_space or memory_bytes,
        resource.RLIMIT_CORE: 0,
    }
    if cpu_seconds is not None:
        limits[resource.RLIMIT_CPU] = cpu_seconds
    for kind, limit in limits.items():
        with suppress(ValueError, OSError):  # a lower limit is already set, or macOS does not limit the address space
            resource.setrlimit(kind, (limit, limit))
    die_with_parent()


def die_with_parent() -> None:
    # NOTE: the signal comes when the *thread* that started this process ends
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
