"""Imports follow the layers of `scripts/structure.py`, without circles, and only the engine imports torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from scripts import structure
from scripts.structure import below, layer

FILES = structure.modules(structure.ROOT, (*structure.PACKAGES, "benchmarks"))
FACADES = structure.ROOT / "server" / "facades"
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft"}
WORDS = {f"pipelines.{path.stem}" for path in (structure.ROOT / "pipelines").glob("*.py")} - {"pipelines.__init__"}
WITHOUT_TORCH = ("weights", "server", *WORDS)
VENDORS = {path.name for path in FACADES.iterdir() if path.is_dir()} - {"kit", "__pycache__"}

# (importing module, imported module) -> reason, for imports inside functions that close a circle; keep it empty
ALLOWED_CIRCLES: dict[tuple[str, str], str] = {}


@cache
def imports(path: Path) -> set[str]:
    return structure.imports(path)


def test_imports_go_one_way() -> None:
    wrong = []
    for module, path in FILES.items():
        for name in imports(path):
            ours = name.split(".")[0] in (*structure.PACKAGES, "benchmarks")
            if below(name, "tests") or (ours and layer(name) > layer(module)):
                wrong.append(f"{module} imports {name} from a higher layer")
    assert not wrong, "\n".join(sorted(wrong))


def test_only_the_registry_imports_another_vendors_facade() -> None:
    wrong = []
    for module, path in FILES.items():
        for name in imports(path):
            vendor = name.split(".")[2] if name.startswith("server.facades.") else ""
            home = below(module, f"server.facades.{vendor}") or module == "server.facades.registry"
            if vendor in VENDORS and not home:
                wrong.append(f"{module} imports {name} of one vendor")
    assert not wrong, "\n".join(sorted(wrong))


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count too."""
    graph = {
        module: {other for other in used if (module, other) not in ALLOWED_CIRCLES}
        for module, used in structure.module_graph(FILES).items()
    }
    assert structure.circles(graph) == []


def test_only_the_engine_imports_torch() -> None:
    wrong = {}
    for module, path in FILES.items():
        if any(below(module, name) for name in WITHOUT_TORCH):
            heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
            wrong |= {module: heavy} if heavy else {}
    assert not wrong
