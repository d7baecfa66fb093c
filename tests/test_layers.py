"""Imports go one way through the layers, and only the engine imports torch."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("weights", "pipelines", "server", "training", "benchmarks")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

# From the lowest to the highest. A module imports from its own layer and those below; the longest matching name counts.
LAYERS = (
    ("weights",),
    *(
        tuple(f"pipelines.{name}" for name in layer.split())
        for layer in (
            "environment events request",
            "child engine_port errors models progress ranges",
            "extend plan",
            "resolve",
            "video",
            "lora",
            "frames",
            "engine",
        )
    ),
    ("pipelines",),
    *(
        tuple(f"server.{name}" for name in layer.split())
        for layer in (
            "errors private request_state text_file setting_names setting_types settings",
            "auth",
            "limits",
            "datadir signing",
            "served transport",
            "media",
            "jobs",
            "keys webhooks",
            "workers",
            "context",
            "facades",
        )
    ),
    ("server", "training"),
    ("benchmarks",),
)
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft"}
WITHOUT_TORCH = ("weights", "server", *(f"pipelines.{path.stem}" for path in (ROOT / "pipelines").glob("*.py")))
VENDORS = {path.name for path in (ROOT / "server" / "facades").iterdir() if path.is_dir()} - {"kit", "__pycache__"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> int:
    return max((len(name), i) for i, names in enumerate(LAYERS) for name in names if below(module, name))[1]


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@cache
def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_one_way() -> None:
    wrong = []
    for path in FILES:
        module = module_of(path)
        for name in imports(path):
            if below(name, "tests") or (
                name.startswith(tuple(f"{p}." for p in PACKAGES)) and layer(name) > layer(module)
            ):
                wrong.append(f"{module} imports {name} from a higher layer")
            vendor = name.split(".")[2] if name.startswith("server.facades.") else ""
            if (
                vendor in VENDORS
                and not below(module, f"server.facades.{vendor}")
                and module != "server.facades.registry"
            ):
                wrong.append(f"{module} imports {name} of one vendor")
    assert not wrong, "\n".join(sorted(wrong))


def test_only_the_engine_imports_torch() -> None:
    wrong = {}
    for path in FILES:
        module = module_of(path)
        if any(below(module, name) for name in WITHOUT_TORCH if name != "pipelines.__init__"):
            heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
            wrong |= {module: heavy} if heavy else {}
    assert not wrong
