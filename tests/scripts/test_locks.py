"""For every machine, the lock files contain every required package and nothing else. The test lists the exceptions."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.markers import Environment, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GROUPS = {name: [Requirement(one) for one in group] for name, group in PROJECT["dependency-groups"].items()}
RUNTIME = [
    Requirement(one)
    for one in (
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["postgres"],
        *PROJECT["project"]["optional-dependencies"]["s3"],
    )
]
# (dependent, package) -> why the locks lack a required package or its required version
EXCEPTIONS = {
    ("", "torch"): "installed before the locks, in the build that suits the machine",
    ("spandrel", "torchvision"): "spandrel needs it for parts that we do not use; requirements-cuda.lock has it",
    ("zhipuai", "pyjwt"): "zhipuai requires an old version, but works with the version that zai-sdk needs",
}
CUDA = re.compile(r"nvidia-|cuda-|triton$")  # libraries that are installed with a CUDA build of torch


class Machine(NamedTuple):
    system: str
    platform: str
    processor: str
    python: str

    def environment(self) -> Environment:
        changed = {
            "platform_system": self.system,
            "sys_platform": self.platform,
            "platform_machine": self.processor,
            "python_version": self.python,
            "python_full_version": f"{self.python}.1",
        }
        return {**default_environment(), **changed}  # type: ignore[typeddict-item]


MACHINES = [
    Machine(system, platform, processor, python)
    for system, platform, processor in (
        ("Linux", "linux", "x86_64"),
        ("Linux", "linux", "aarch64"),
        ("Darwin", "darwin", "arm64"),
    )
    for python in ("3.11", "3.12", "3.13")
]


def entries(*locks: str) -> dict[str, Requirement]:
    """Maps each name to its pinned requirement. Two locks that contain the same package must pin the same version."""
    found: dict[str, Requirement] = {}
    for lock in locks:
        text = (ROOT / lock).read_text("utf-8")
        for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]:
            pin = Requirement(entry.splitlines()[0].rstrip(" \\"))
            name = canonicalize_name(pin.name)
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), f"{lock}: {name} has no hash"
            assert found.get(name, pin).specifier == pin.specifier, f"{lock}: {name} is pinned differently elsewhere"
            found[name] = pin
    return found


def needs(name: str, extras: set[str], environment: Environment) -> list[Requirement]:
    found = [Requirement(one) for one in distribution(name).requires or ()]
    return [one for one in found if _applies(one, extras, environment)]


def _applies(one: Requirement, extras: set[str], environment: Environment) -> bool:
    if one.marker is None:
        return True
    return any(one.marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))


def walk(
    roots: list[Requirement], locked: dict[str, Requirement], environment: Environment
) -> tuple[list[str], set[str]]:
    """Returns the requirements missing from the locks, and the names of all packages reached from the roots."""
    missing: list[str] = []
    reached: dict[str, set[str]] = {}
    waiting = [("", one) for one in roots if _applies(one, set(), environment)]
    while waiting:
        asking, one = waiting.pop()
        name = canonicalize_name(one.name)
        if CUDA.match(name) and asking == "torch":
            continue
        pin = locked.get(name)
        there = pin is not None and _applies(pin, set(), environment)
        version = next(iter(pin.specifier)).version if pin else ""
        if not there or not one.specifier.contains(version, prereleases=True):
            if (asking, name) not in EXCEPTIONS and ("", name) not in EXCEPTIONS:
                missing.append(f"{asking or 'the project'} needs {one}, and the lock has {pin or 'none'}")
            if not there and name != "torch":
                continue
        before = reached.get(name)
        if before is None or not one.extras <= before:
            reached[name] = (before or set()) | one.extras
            waiting += [(name, other) for other in needs(name, reached[name], environment)]
    return missing, set(reached)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m.system}-{m.processor}-{m.python}")
def test_everything_that_a_locked_package_needs_is_locked(machine: Machine) -> None:
    environment = machine.environment()
    runtime = entries("requirements.lock")
    missing, _ = walk(RUNTIME, runtime, environment)
    missing += walk(GROUPS["setup"], entries("requirements-setup.lock"), environment)[0]
    missing += walk(GROUPS["dev"], runtime | entries("requirements.lock", "requirements-dev.lock"), environment)[0]
    assert not missing, "\n".join(missing)


def test_the_walk_finds_what_is_missing() -> None:
    """`walk` finds a missing package, a wrong version, a package that only an extra requires, and a package that only
    newer Pythons require."""
    locked = entries("requirements.lock")
    environment = Machine("Linux", "linux", "x86_64", "3.12").environment()
    for gone in ("numpy", "mdurl", "psycopg-binary", "setuptools"):
        missing, _ = walk(RUNTIME, {n: p for n, p in locked.items() if n != gone}, environment)
        assert any(f"needs {gone}" in one for one in missing), gone
    missing, _ = walk(RUNTIME, locked | {"diffusers": Requirement("diffusers==0.1")}, environment)
    assert any("needs diffusers" in one for one in missing)


def test_serving_installs_nothing_that_it_does_not_need() -> None:
    locked = entries("requirements.lock")
    reached: set[str] = set()
    applies: set[str] = set()
    for machine in MACHINES:
        environment = machine.environment()
        reached |= walk(RUNTIME, locked, environment)[1]
        applies |= {name for name, pin in locked.items() if _applies(pin, set(), environment)}
    assert applies - reached == set()


def test_every_exception_is_one() -> None:
    runtime, dev = entries("requirements.lock"), entries("requirements-dev.lock")
    assert "torch" not in runtime | dev
    assert "torchvision" not in runtime | dev
    (wanted,) = [r for r in map(Requirement, distribution("zhipuai").requires or ()) if r.name.lower() == "pyjwt"]
    assert not wanted.specifier.contains(next(iter(dev["pyjwt"].specifier)).version)


def test_the_image_has_torch_with_its_libraries() -> None:
    cuda = entries("requirements.lock", "requirements-cuda.lock")
    assert {"torch", "torchvision", "spandrel", "triton", "nvidia-cudnn-cu13"} <= set(cuda)
    own = entries("requirements.lock")
    assert not [name for name in own if CUDA.match(name)]
    (line,) = re.findall(r"^CUDA_ONLY := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(line.split()) <= set(cuda)


def test_what_is_installed_is_what_is_locked() -> None:
    """`walk` reads the installed packages' metadata, so the installed versions must be the locked versions."""
    for name, pin in entries("requirements.lock", "requirements-dev.lock").items():
        try:
            assert pin.specifier.contains(distribution(name).version, prereleases=True), name
        except PackageNotFoundError:
            assert pin.marker, name  # only another system or Python needs it
