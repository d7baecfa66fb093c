"""The arrows of the house: weights <- pipelines <- server, and inside the server façades know only what they need."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    p for top in ("weights", "pipelines", "server") for p in (ROOT / top).rglob("*.py") if "training" not in p.parts
]
# a module may import from the layers up to and including its own; the longest matching name counts
LAYERS = (
    ("weights",),
    (
        "pipelines.environment",
        "pipelines.request",
        "pipelines.events",
        "pipelines.models",
        "pipelines.extend",
        "pipelines.plan",
        "pipelines.ranges",
        "pipelines.upscale",
    ),
    ("pipelines",),
    (
        *("server.errors", "server.settings", "server.setting_names", "server.setting_types", "server.text_file"),
        *("server.auth", "server.bodies", "server.datadir", "server.private", "server.room", "server.shares"),
        *("server.signing", "server.steps", "server.calls"),
    ),
    ("server.media", "server.jobs"),
    ("server.context",),
    ("server.facades",),
    ("server",),
)
PURE = (
    "pipelines/request.py",
    "pipelines/events.py",
    "pipelines/models.py",
    "pipelines/extend.py",
    "pipelines/plan.py",
    "pipelines/ranges.py",
    "weights/",
    "server/",
)
TORCH_USERS = ("server/jobs/worker.py",)
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> int:
    matches = [(len(name), i) for i, names in enumerate(LAYERS) for name in names
               if module == name or module.startswith(name + ".")]  # fmt: skip
    return max(matches)[1]


@cache
def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module or ""}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_go_one_way() -> None:
    wrong = []
    for path in FILES:
        own = layer(module_of(path))
        for name in imports(path):
            top = name.split(".")[0]
            if top == "tests" or (top in ("weights", "pipelines", "server") and layer(name) > own):
                wrong.append(f"{module_of(path)} imports {name} from a higher layer")
    assert not wrong, "\n".join(wrong)


def test_only_the_engine_imports_torch() -> None:
    wrong = {}
    for path in FILES:
        where = path.relative_to(ROOT).as_posix()
        if where.startswith(PURE) and where not in TORCH_USERS:
            heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
            wrong |= {where: heavy} if heavy else {}
    assert not wrong


def test_facades_share_nothing_but_the_job() -> None:
    facades = ROOT / "server" / "facades"
    common = (
        "__init__",
        "wire",
        "json_bodies",
        "facade",
        "registry",
        "v1",
        "streams",
        "forms",
        "cors",
        "ai_sdk",
        "__pycache__",
    )
    vendors = {p.stem for p in facades.iterdir() if p.stem not in common}
    for path in facades.rglob("*.py"):
        own = path.relative_to(facades).parts[0].removesuffix(".py")
        if own == "registry":  # the list of them all
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["server", "facades"] and len(parts) > 2 and parts[2] in vendors:
                assert parts[2] == own, f"{path}: the façade {own} knows the façade {parts[2]}"
