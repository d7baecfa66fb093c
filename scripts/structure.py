"""How the packages depend on each other: `make structure` prints figures and redraws the picture in docs/structure.md.

python scripts/structure.py --root FOLDER prints the figures of another checkout and draws nothing.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("weights", "pipelines", "server", "training")
PAGE = ROOT / "docs" / "structure.md"
BEGIN, END = "<!-- picture: `make structure` -->\n", "<!-- /picture -->\n"

# From the lowest to the highest. A module imports only from its own layer and lower layers. The longest matching name
# counts. tests/test_layers.py enforces it.
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
            "datadir devices signing",
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

# The layers of files directly in server/ are below, between and above the layers of these packages.
STEPS = ("server.limits", "server.media", "server.facades")

Graph = dict[str, set[str]]


def modules(root: Path, packages: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    files = (path for package in packages for path in sorted((root / package).rglob("*.py")))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> int:
    return max((len(name), i) for i, names in enumerate(LAYERS) for name in names if below(module, name))[1]


def imports(path: Path) -> set[str]:
    """The full name of everything that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_graph(files: dict[str, Path]) -> Graph:
    return {module: {_module(name, files) for name in imports(path)} - {"", module} for module, path in files.items()}


def _module(name: str, files: dict[str, Path]) -> str:
    """The module that defines an imported name; "" if it is not one of `files`."""
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    reached = {start: _reachable(graph, start) for start in graph}
    groups = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]}
    return [list(group) for group in sorted(groups)]


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        found = waiting.pop()
        if found not in seen:
            seen.add(found)
            waiting += graph[found]
    return seen


def upwards(graph: Graph) -> list[tuple[str, str]]:
    return sorted((a, b) for a, used in graph.items() for b in used if layer(b) > layer(a))


def box_of(module: str, path: Path) -> str:
    """The box of the picture that a module belongs to: its package, with all clouds in one box.

    Files directly in server/ form several boxes: each file's box depends on which packages of server/ are in lower
    layers than the file.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if below(package, "server.facades") and not below(package, "server.facades.kit"):
        return "server.facades"
    if package == "server":
        return f"server.{sum(layer(module) > layer(below_it) for below_it in STEPS)}"
    return package


def package_graph(files: dict[str, Path]) -> Graph:
    found: Graph = {}
    for module, used in module_graph(files).items():
        box = found.setdefault(box_of(module, files[module]), set())
        box |= {box_of(other, files[other]) for other in used}
    return {box: used - {box} for box, used in found.items()}


def direct(graph: Graph) -> Graph:
    """The graph without the arrows that a longer path through other arrows implies."""
    return {a: {b for b in used if not any(b in _reachable(graph, c) for c in used - {b})} for a, used in graph.items()}


def picture(files: dict[str, Path]) -> str:
    """A Mermaid flow chart of the packages' imports."""
    contents: dict[str, list[str]] = {}
    for module, path in files.items():
        box = contents.setdefault(box_of(module, path), [])
        if path.stem not in ("__init__", "__main__"):
            box.append(path.stem)
    lines = ["```mermaid", "flowchart TD"]
    for box, names in contents.items():
        label = _label(box, names)
        lines.append(f'    {_id(box)}["{label}"]')
    for box, used in direct(package_graph(files)).items():
        lines += [f"    {_id(box)} --> {_id(other)}" for other in sorted(used)]
    return "\n".join([*lines, "```", ""])


def _label(box: str, names: list[str]) -> str:
    """The text of a box: the folder. A box of files directly in pipelines/ or server/ also shows the files' names, five
    in a line."""
    package = box.rstrip("0123456789.")
    if package not in ("server", "pipelines"):
        return f"<b>{box.replace('.', '/')}</b>"
    rows = [", ".join(names[i : i + 5]) for i in range(0, len(names), 5)]
    return "<br/>".join([f"<b>{package}/*.py</b>", *rows])


def _id(box: str) -> str:
    return box.replace(".", "_")


def figures(root: Path) -> dict[str, str]:
    files = modules(root)
    found = circles(module_graph(files))
    folders = Counter(path.parent.relative_to(root).as_posix() for path in files.values())
    lines = {path.relative_to(root).as_posix(): path.read_text("utf-8").count("\n") for path in files.values()}
    (largest, most), longest = folders.most_common(1)[0], max(lines, key=lines.__getitem__)
    return {
        "files, lines": f"{len(files)}, {sum(lines.values())}",
        "import circles": f"{len(found)}" + "".join(f"\n    {' <-> '.join(group)}" for group in found),
        "files in the largest folder": f"{most} ({largest})",
        "median, longest file": f"{statistics.median(lines.values()):.0f}, {lines[longest]} lines ({longest})",
        "server/facades": f"{sum(n for name, n in lines.items() if name.startswith('server/facades/'))} lines",
    }


def redraw(page: str, drawn: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{drawn}{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    root = parser.parse_args().root.resolve()
    for name, value in figures(root).items():
        print(f"{name}: {value}")
    if root == ROOT:
        files = modules(ROOT)
        print(f"imports upwards: {len(upwards(module_graph(files)))}")
        PAGE.write_text(redraw(PAGE.read_text("utf-8"), picture(files)), "utf-8")
        print(f"the picture is in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
