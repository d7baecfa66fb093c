"""Tests setup with a package index on loopback. As on PyPI, the torch on this index requires CUDA's libraries."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import setup_environment
from scripts.setup_environment import Environment, main
from tests.rigs.package_index import Index, served

UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
TORCH = """
import types
{imports}
__version__ = "{version}"
version = types.SimpleNamespace(cuda={cuda})
cuda = types.SimpleNamespace(is_available=lambda: False)
"""
PLAIN = TORCH.format(imports="import nvidia_fake", version="2.13.0", cuda="'13.0'")
CPU = TORCH.format(imports="", version="2.13.0+cpu", cuda=None)
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/project-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("project-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: project\\nVersion: 1\\n")
        wheel.writestr("project-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("project-1.dist-info/RECORD", "")
    return "project-1-py3-none-any.whl"
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "project"
version = "1"
"""


@dataclass
class World:
    root: Path
    venv: Path
    public: Index
    cpu: Index
    address: str

    def setup(self, *arguments: str, torch: str = "auto", cpu_index: bool = True) -> int:
        index = f"{self.address}/{'cpu' if cpu_index else 'nowhere'}"
        given = ["--root", str(self.root), "--venv", str(self.venv), "--torch", torch, "--torch-index", index]
        return main([*given, *arguments])

    def python(self, program: str) -> str:
        command = [str(self.venv / "bin" / "python"), "-c", program]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with only pip, for tests to copy."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


@pytest.fixture(params=["uv" if UV else "pip"])
def world(
    request: pytest.FixtureRequest, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """Provides two package indexes, a project whose lock has two packages, and a machine without an NVIDIA driver."""
    if request.param == "uv" and UV is None:
        pytest.skip("uv is not installed")
    public, cpu = Index(tmp_path / "served" / "simple"), Index(tmp_path / "served" / "cpu")
    public.add("torch", "2.13.0", PLAIN, "nvidia-fake==1", "alpha")
    public.add("nvidia_fake", "1", "")
    public.add("alpha", "2", "")  # newer than the locked version
    cpu.add("torch", "2.13.0+cpu", CPU, "alpha")
    hashes = {name: public.add(name, "1", "") for name in ("alpha", "beta", "tool", "extra")}
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(fresh, tmp_path / "venv", symlinks=True)
    locks = {"requirements": "alpha beta", "requirements-setup": "tool", "requirements-dev": "extra"}
    for lock, names in locks.items():
        pinned = "".join(f"{name}==1 \\\n    --hash=sha256:{hashes[name]}\n" for name in names.split())
        (root / f"{lock}.lock").write_text(f"# made by a tool\n{pinned}")
    with (root / "requirements-setup.lock").open("a") as lock:
        lock.write(f"uv==0 \\\n    --hash=sha256:{'0' * 64}\n")  # not in this index
    (root / "requirements-cuda.lock").write_text("torch==2.13.0 \\\n    --hash=sha256:0\n")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    monkeypatch.setattr(setup_environment, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(shutil, "which", {"uv": UV if request.param == "uv" else None}.get)
    with served(tmp_path / "served") as address:
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "HOME": str(tmp_path / "home"),
            "XDG_CONFIG_HOME": str(tmp_path / "home"),
            "XDG_CONFIG_DIRS": str(tmp_path / "home"),
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": f"{address}/simple",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_COMPILE": "1",
            "UV_NO_CACHE": "1",
            "NO_PROXY": "*",
        }.items():
            monkeypatch.setenv(name, value)
        yield World(root, tmp_path / "venv", public, cpu, address)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", ["pip", "uv"], indirect=True)
def test_the_public_build_is_installed_with_its_libraries(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Setup installs the public build when no CPU build is available."""
    assert world.setup(cpu_index=False) == 0
    said = capfd.readouterr().out
    assert "offers a CPU build of torch" in said
    assert "torch and 2 packages" in said
    assert "Ready in" in said
    assert world.python("import torch, nvidia_fake, beta; print(torch.__version__)") == "2.13.0"
    assert world.python("from importlib.metadata import version as v; print(v('alpha'), v('project'))") == "1 1"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_environment_is_completed_and_changed_and_kept(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    there = Environment(world.venv, world.root)
    there.install("--no-deps", "torch==2.13.0")
    assert "nvidia_fake" in str(there.torch()["error"]), "--no-deps installs no dependencies"
    assert world.setup(torch="cuda") == 0
    assert world.python("import torch; print(torch.version.cuda)") == "13.0"

    assert world.setup(torch="cpu") == 0
    assert world.python("import torch; print(torch.__version__)") == "2.13.0+cpu"

    for index in (world.public, world.cpu):
        shutil.rmtree(index.folder / "torch")
    capfd.readouterr()
    assert world.setup() == 0
    assert "torch 2.13.0+cpu is already installed" in capfd.readouterr().out

    assert world.setup("--dev") == 0
    assert world.python("import extra") == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_fails_is_one_plain_line(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.cpu.add("torch", "2.13.0+cpu", "raise ImportError('libcudnn.so.9: cannot open shared object file')")
    assert world.setup() == 1
    said = capfd.readouterr()
    assert "setup: torch does not start (ImportError: libcudnn.so.9" in said.err
    assert "Traceback" not in said.out + said.err

    world.public.add("beta", "1", "import os  # changed since the lock was made")
    shutil.rmtree(world.venv)  # setup creates a new one
    assert world.setup() == 1
    assert "setup: installation failed" in capfd.readouterr().err

    shutil.rmtree(world.public.folder / "torch")
    assert world.setup(torch="cuda") == 1
    assert "setup: installation failed" in capfd.readouterr().err


def test_a_driver_decides_what_auto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert setup_environment.has_nvidia_driver()


@pytest.mark.parametrize(
    ("found", "wanted", "driver", "suits"),
    [
        ({"version": "2.13.0+cpu", "cuda": None, "ours": True}, "auto", False, True),
        ({"version": "2.13.0+cpu", "cuda": None, "ours": True}, "auto", True, False),
        ({"version": "2.13.0+cpu", "cuda": None, "ours": True}, "cuda", False, False),
        ({"version": "2.13.0+cu130", "cuda": "13.0", "ours": True}, "auto", True, True),
        ({"version": "2.13.0", "cuda": "13.0", "ours": True}, "auto", False, True),
        ({"version": "2.13.0", "cuda": "13.0", "ours": True}, "cpu", False, False),
        ({"version": "2.12.1", "cuda": None, "ours": True}, "auto", False, False),
        ({"version": "2.9.0", "cuda": "12.8", "ours": False}, "auto", True, True),
        ({"error": "ImportError: libcudnn.so.9"}, "auto", False, False),
        ({}, "auto", False, False),
    ],
)
def test_an_installed_torch_is_kept_where_it_suits(
    found: dict[str, object], wanted: str, driver: bool, suits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    kind = wanted if wanted != "auto" else "cuda" if driver else "cpu"
    assert setup_environment._suits(found, "2.13.0", kind, wanted) is suits


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.txt").write_text("mine")
    assert main(["--root", str(tmp_path), "--venv", str(tmp_path / "venv")]) == 1
    assert "is not a virtual environment" in capsys.readouterr().err
    assert (tmp_path / "venv" / "thesis.txt").read_text() == "mine"


def test_uv_gets_the_index_that_pip_is_configured_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://one/simple\nextra-index-url = https://two https://three\n")
    for name in (
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "UV_FIND_LINKS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    there = Environment(tmp_path, tmp_path)
    there.python = Path(sys.executable)
    found = there._pip_settings()
    assert found["UV_DEFAULT_INDEX"] == "https://one/simple"
    assert found["UV_INDEX"] == "https://two https://three"
    assert found["UV_FIND_LINKS"] == "/wheels,/more"
    assert there.uv_flags == []
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own/simple")
    assert "UV_DEFAULT_INDEX" not in there._pip_settings()
    assert there.uv_flags == ["--no-index"], "uv stays offline if pip does"


PIN, CPU_BUILD, OTHERS = "torch==2.13.0", "torch==2.13.0+cpu", "torch==2.13.0,!=2.13.0+cpu"


@pytest.mark.parametrize(
    ("system", "wanted", "driver", "offered", "installed"),
    [
        ("linux", "auto", False, {CPU_BUILD}, (CPU_BUILD,)),
        ("linux", "auto", False, {(CPU_BUILD, setup_environment.CPU_INDEX)}, (CPU_BUILD, setup_environment.CPU_INDEX)),
        ("linux", "auto", False, set(), (PIN,)),
        ("linux", "cpu", True, {CPU_BUILD}, (CPU_BUILD,)),
        ("linux", "auto", True, {OTHERS, CPU_BUILD}, (OTHERS,)),
        ("linux", "auto", True, {CPU_BUILD}, (PIN,)),  # only a CPU build is available, and it may be installed
        ("linux", "cuda", False, {CPU_BUILD}, (OTHERS,)),  # no such build is available: the installation must fail
        ("darwin", "auto", False, set(), (PIN,)),
    ],
)
def test_which_build_is_installed(
    system: str,
    wanted: str,
    driver: bool,
    offered: set[str | tuple[str, str]],
    installed: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "requirements.lock").write_text("alpha==1 \\\n    --hash=sha256:0\n")
    (tmp_path / "requirements-cuda.lock").write_text("torch==2.13.0 \\\n    --hash=sha256:0\n")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(setup_environment, "has_nvidia_driver", lambda: driver)
    there = Environment(tmp_path, tmp_path)
    done: list[tuple[str, ...]] = []

    def request(arguments: tuple[str, ...]) -> tuple[str, ...]:
        assert arguments[-2] == "--constraint"
        assert Path(arguments[-1]).read_text() == "alpha==1"
        return tuple(one for one in arguments[:-2] if one != "--extra-index-url")

    def can_install(*arguments: str) -> bool:
        asked = request(arguments)
        return (asked[0] if len(asked) == 1 else asked) in offered

    monkeypatch.setattr(there, "torch", dict)
    monkeypatch.setattr(there, "can_install", can_install)
    monkeypatch.setattr(there, "install", lambda *arguments: done.append(request(arguments)))
    setup_environment.install_torch(there, wanted, None)
    assert done == [installed]


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="uv is not installed")
def test_uv_is_not_used_where_it_does_not_reach_the_index(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Environment(world.venv, world.root)
    there.choose_installer()
    assert there.uv == UV
    there.install("--no-deps", "alpha==1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    there = Environment(world.venv, world.root)
    there.choose_installer()
    assert there.uv is None
    there.install("--no-deps", "--require-hashes", "--requirement", "requirements.lock")
    assert world.python("import beta") == ""
