"""The common parts of all results (machine, versions), and writing a result as a JSON file and a Markdown table row.

A value that was not measured is None in the JSON and `not measured` in the table.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("cogvideox-server", "torch", "diffusers", "transformers", "accelerate", "imageio", "imageio-ffmpeg")
NOT_MEASURED = "not measured"
GIB = 2**30


def today() -> str:
    return datetime.date.today().isoformat()


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / GIB, 1),
        "load_average": [round(one, 2) for one in psutil.getloadavg()],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "gpus": gpus(),
    }


def gpus() -> list[dict[str, str]]:
    """Name, driver, current clocks (MHz) and power limit (W) of each GPU, from nvidia-smi."""
    names = ("name", "driver_version", "clocks.sm", "clocks.mem", "power.limit", "memory.total")
    if (command := shutil.which("nvidia-smi")) is None:
        return []
    ask = [command, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [dict(zip(names, map(str.strip, line.split(",")), strict=False)) for line in said.splitlines() if line]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def save(name: str, device: str, result: Mapping[str, Any], row: Mapping[str, str]) -> Path:
    """Write `<date>-<name>-<device>.json` and `.md` into $OUT or benchmarks/results; returns the JSON file's path."""
    folder = Path(os.environ.get("OUT") or RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{today()}-{slug(name)}-{slug(device)}"
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    (folder / f"{stem}.md").write_text(table(row), encoding="utf-8")
    return path


def table(row: Mapping[str, str]) -> str:
    """A Markdown table of one row."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (row.keys(), ["---"] * len(row), row.values()))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def seconds(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def ratio(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f}x"


def gib(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value / GIB:.1f} GiB"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()
