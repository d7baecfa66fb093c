"""docs/structure.md is up to date: its diagram and the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

from scripts import structure


def test_the_picture_shows_the_real_imports() -> None:
    page = structure.PAGE.read_text("utf-8")
    drawn = structure.redraw(page, structure.picture(structure.modules(structure.ROOT)))
    assert page == drawn, "the packages' imports have changed: run `make structure`"


def test_every_file_on_the_map_exists() -> None:
    named = set(re.findall(r"`((?:\w+/)+\w*\.py|(?:\w+/)+)`", structure.PAGE.read_text("utf-8")))
    assert len(named) > 30
    assert not [name for name in sorted(named) if not (structure.ROOT / name).exists()]


def test_circles_are_found_through_other_modules() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}
    assert structure.circles(graph) == [["a", "b", "c"]]


def test_arrows_that_others_imply_are_left_out() -> None:
    graph = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}
    assert structure.direct(graph) == {"top": {"middle"}, "middle": {"bottom"}, "bottom": set()}


def test_imports_inside_functions_count(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "one.py").write_text("def f():\n    from server.two import g\n    return g\n")
    (tmp_path / "server" / "two.py").write_text("import os\nimport server.one\n")
    graph = structure.module_graph(structure.modules(tmp_path))
    assert graph == {"server.one": {"server.two"}, "server.two": {"server.one"}}
    assert structure.figures(tmp_path)["import circles"] == "1\n    server.one <-> server.two"
