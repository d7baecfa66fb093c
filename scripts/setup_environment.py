"""Creates the virtual environment for serving; with --dev, adds the packages for tests and checks.

It uses only the standard library, because it runs before anything is installed. torch is not in the locks: one version
has many builds (CPU, CUDA, one per Python and platform) on several indexes, each with its own hash, and only the build
knows which CUDA libraries it needs. All other packages come from the locks with --require-hashes and --no-deps.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# pip's settings, and the variables with which uv reads the same settings
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}
TRUE = ("1", "true", "yes", "y", "on", "t")  # pip's true values
# Measured with the locked versions on Linux x86-64: megabytes to download, gigabytes on disk, minutes at 100 Mbit/s
COST = {"cpu": (370, 1.3, 1), "cuda": (2900, 5.1, 5)}
INSPECT = """
import importlib.util, json, sys
try:
    import torch
    found = {"version": torch.__version__, "cuda": torch.version.cuda, "gpu": torch.cuda.is_available(),
             "ours": torch.__file__.startswith(sys.prefix)}
except Exception as error:
    there = importlib.util.find_spec("torch")
    found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]} if there else {}
print(json.dumps(found))
"""


class SetupError(Exception):
    """Setup cannot continue; the message is one line with the reason and the remedy."""


class Environment:
    """A virtual environment, and its installer: uv if it reaches the package index, otherwise pip."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.python = folder / "bin" / "python"
        self.uv: str | None = None
        self.uv_flags: list[str] = []
        self.variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # like pip, take the best version of all indexes

    def create(self) -> None:
        """Raises SetupError."""
        if not self._runs("pass"):
            if self.folder.exists() and not (self.folder / "pyvenv.cfg").is_file():
                raise SetupError(f"{self.folder} exists and is not a virtual environment; move it away and try again")
            if subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.folder)]).returncode:
                raise SetupError(
                    "could not create a virtual environment; on Debian and Ubuntu: apt install python3-venv"
                )
        elif not self._runs("import pip") and subprocess.run([str(self.python), "-m", "ensurepip"]).returncode:
            raise SetupError(f"{self.folder} has no pip; remove it and try again")

    def choose_installer(self) -> None:
        """Install uv and the build backend with pip. Then use uv if it reaches the package index that pip uses."""
        lock = (self.root / "requirements-setup.lock").read_text("utf-8")
        if self._pip_install(lock, check=False):
            self.uv = str(self.python.with_name("uv"))
        else:
            print("  the package index does not offer uv; continuing with pip")
            self._pip_install("".join(s for s in _entries(lock) if not s.startswith("uv==")), check=True)
            self.uv = shutil.which("uv")
        self.variables |= self._pip_settings()
        probe = _pins(self.root / "requirements.lock")[0].partition(";")[0]
        if self.uv and not self.can_install("--reinstall", "--no-deps", probe):
            print("  uv cannot reach the package index that pip uses; installing with pip, which is slower")
            self.uv = None

    def install(self, *arguments: str) -> None:
        """Raises SetupError."""
        if subprocess.run(self._command(*arguments), cwd=self.root, env=os.environ | self.variables).returncode:
            raise SetupError("installation failed, see above; `make setup` continues from here")

    def can_install(self, *arguments: str) -> bool:
        """Whether the indexes offer the package. Unreachable indexes time out quickly."""
        env = os.environ | self.variables | {"UV_HTTP_RETRIES": "1", "PIP_RETRIES": "1"}
        done = subprocess.run(self._command("--dry-run", *arguments), cwd=self.root, env=env, capture_output=True)
        return done.returncode == 0

    def torch(self) -> dict[str, object]:
        """The result of `import torch`: the keys version, cuda (version or None), gpu and ours; only the key error if
        the import failed; empty if torch is not installed."""
        command = [str(self.python), "-W", "ignore", "-c", INSPECT]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        try:
            found = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError):  # the interpreter crashed
            found = {"error": (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]}
        return dict(found)

    def size(self) -> float:
        """Size in gigabytes on disk."""
        return sum(p.lstat().st_size for p in self.folder.rglob("*")) / 1e9

    def _command(self, *arguments: str) -> list[str]:
        if self.uv:
            return [self.uv, "pip", "install", "--python", str(self.python), *self.uv_flags, *arguments]
        return [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]

    def _runs(self, program: str) -> bool:
        try:
            return subprocess.run([str(self.python), "-c", program], capture_output=True).returncode == 0
        except OSError:
            return False

    def _pip_install(self, lock: str, *, check: bool) -> bool:
        with _temporary(lock) as path:
            hashed = ("--quiet", "--no-deps", "--require-hashes", "--requirement", path)
            if check:
                self.install(*hashed)
            return check or subprocess.run(self._command(*hashed), capture_output=True).returncode == 0

    def _pip_settings(self) -> dict[str, str]:
        """pip's configuration as environment variables for uv, except those already set for uv."""
        command = [str(self.python), "-m", "pip", "config", "list"]
        listed = subprocess.run(command, capture_output=True, text=True).stdout
        found: dict[str, str] = {}
        for section in ("global", "install", ":env:"):  # later sections override earlier ones
            for name, value in re.findall(rf"^{section}\.([a-z-]+)=(.*)$", listed, re.MULTILINE):
                if name == "no-index":  # uv has no environment variable for this setting
                    self.uv_flags = ["--no-index"] if ast.literal_eval(value).lower() in TRUE else []
                if name in UV_NAMES and not (name == "index-url" and "UV_INDEX_URL" in os.environ):
                    words = str(ast.literal_eval(value)).split()
                    found[UV_NAMES[name]] = ("," if name == "find-links" else " ").join(words)
        return {name: value for name, value in found.items() if name not in os.environ}


def install_torch(there: Environment, wanted: str, index: str | None) -> None:
    """`wanted` is auto, cpu or cuda; `index` is an index of torch builds in addition to pip's. Raises SetupError."""
    kind = wanted if wanted != "auto" else "cuda" if has_nvidia_driver() else "cpu"
    (version,) = re.findall(r"^torch==(\S+)", (there.root / "requirements-cuda.lock").read_text("utf-8"), re.MULTILINE)
    found = there.torch()
    if _suits(found, version, kind, wanted):
        print(f"torch {found['version']} is already installed")
        return
    from_index = ["--extra-index-url", index] if index else []
    choices = [[f"torch=={version},!={version}+cpu", *from_index]]
    if kind == "cpu":
        cpu = f"torch=={version}+cpu"
        choices = [[cpu], [cpu, "--extra-index-url", index or CPU_INDEX], [f"torch=={version}"]]
    elif wanted == "auto":
        choices.append([f"torch=={version}"])
    if sys.platform != "linux":
        choices = [[f"torch=={version}", *from_index]]
    if len(choices) > 1:
        print(f"Looking for a {'CUDA' if kind == 'cuda' else 'CPU'} build of torch {version} ...", flush=True)
    with _temporary("\n".join(_pins(there.root / "requirements.lock"))) as pins:
        chosen = next((c for c in choices[:-1] if there.can_install(*c, "--constraint", pins)), choices[-1])
        if chosen is choices[-1] and kind == "cpu" and sys.platform == "linux":
            print(f"Neither your package index nor {index or CPU_INDEX} offers a CPU build of torch.")
            print("Installing the index's default build instead. It also runs on the CPU.")
            kind = "cuda"
        megabytes, _, _ = COST[kind]
        with _timed(f"torch {version}, {'CUDA' if kind == 'cuda' else 'CPU'} build: up to {megabytes} MB to download"):
            there.install(*chosen, "--constraint", pins)


def check_torch(there: Environment, wanted: str) -> str:
    """Import torch, which fails if a library is missing; returns its version. Raises SetupError."""
    found = there.torch()
    if "version" not in found:
        reason = found.get("error", "it is not installed")
        raise SetupError(
            f"torch does not start ({reason}); run `make clean`, then `make TORCH=cpu setup` or TORCH=cuda"
        )
    if wanted == "cuda" and not found["cuda"]:
        raise SetupError(
            "the package index offers only a torch without CUDA; choose another index: make TORCH_INDEX=URL setup"
        )
    if found["cuda"] and not found["gpu"] and has_nvidia_driver():
        print(f"Note: torch was built for CUDA {found['cuda']} but finds no GPU. The NVIDIA driver may be too old:")
        print("nvidia-smi shows the newest CUDA it supports. For an older one: make clean, make TORCH_INDEX=URL setup")
    return str(found["version"])


def has_nvidia_driver() -> bool:
    places = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/nvidia-smi")
    return shutil.which("nvidia-smi") is not None or any(Path(place).exists() for place in places)


def _suits(found: dict[str, object], version: str, kind: str, wanted: str) -> bool:
    if "version" not in found:
        return False
    if not found["ours"]:  # the system's torch, in an environment created with --system-site-packages
        return True
    right = str(found["version"]).partition("+")[0] == version
    if sys.platform != "linux":
        return right
    return right and (bool(found["cuda"]) == (kind == "cuda") or (wanted == "auto" and kind == "cpu"))


def _entries(lock: str) -> list[str]:
    return re.split(r"(?m)^(?=[A-Za-z0-9])", lock)[1:]


def _pins(lock: Path) -> list[str]:
    """`name==version ; marker` of each package: the lock without hashes."""
    return [entry.splitlines()[0].rstrip(" \\") for entry in _entries(lock.read_text("utf-8"))]


@contextmanager
def _temporary(content: str) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(content)
        file.flush()
        yield file.name


@contextmanager
def _timed(what: str) -> Iterator[None]:
    print(f"{what} ...", flush=True)
    begun = time.monotonic()
    yield
    print(f"  done in {time.monotonic() - begun:.0f} s", flush=True)


def set_up(there: Environment, torch: str, index: str | None) -> None:
    """Raises SetupError."""
    begun = time.monotonic()
    packages = len(_pins(there.root / "requirements.lock"))
    kind = torch if torch != "auto" else "cuda" if has_nvidia_driver() else "cpu"
    megabytes, gigabytes, minutes = COST[kind]
    print(
        f"Setting up {there.folder} with Python {platform.python_version()}: torch and {packages} packages. About "
        f"{minutes} min, {megabytes} MB to download and {gigabytes} GB on disk where nothing is there yet.",
        flush=True,
    )
    there.folder.parent.mkdir(parents=True, exist_ok=True)
    if not there.folder.exists() and shutil.disk_usage(there.folder.parent).free < gigabytes * 1e9:
        raise SetupError(f"{gigabytes} GB are needed on the disk of {there.folder.resolve().parent}")
    with _timed("Virtual environment and installer"):
        there.create()
        there.choose_installer()
    install_torch(there, torch, index)
    with _timed(f"{packages} packages of requirements.lock, and this project"):
        there.install("--no-deps", "--require-hashes", "--requirement", "requirements.lock")
        there.install("--no-deps", "--no-build-isolation", "--editable", ".")
    version = check_torch(there, torch)
    print(f"Ready in {time.monotonic() - begun:.0f} s: torch {version}, {there.size():.1f} GB in {there.folder}")


def add_development(there: Environment) -> None:
    """Raises SetupError."""
    there.choose_installer()
    if sys.dont_write_bytecode:  # otherwise every test process would compile the packages again
        there.variables["UV_COMPILE_BYTECODE"] = "1"
    packages = len(_pins(there.root / "requirements-dev.lock"))
    with _timed(f"{packages} packages of requirements-dev.lock, for tests and checks: about 1 min"):
        there.install("--no-deps", "--require-hashes", "--requirement", "requirements-dev.lock")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default="auto", help="make TORCH=cpu|cuda")
    parser.add_argument(
        "--torch-index", help="an index of torch builds, such as one of https://download.pytorch.org/whl"
    )
    parser.add_argument("--dev", action="store_true", help="add requirements-dev.lock to an existing environment")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the project's folder"
    )
    given = parser.parse_args(arguments)
    there = Environment(given.venv.absolute(), given.root)
    try:
        if given.dev:
            add_development(there)
        else:
            set_up(there, given.torch, given.torch_index or None)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; `make setup` continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
