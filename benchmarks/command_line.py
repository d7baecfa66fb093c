"""How long the command line takes to print help pages and to report invalid requests.

`python -m benchmarks.command_line [--against CHECKOUT [--label COMMIT]] [--runs N]`

It measures wall and CPU seconds of each command, the median of N runs. With --against, the commands of this checkout
and of the other one alternate in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report

ROOT = Path(__file__).resolve().parent.parent
COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "help of serve": ("serve", "--help"),
    "help of generate": ("generate", "--help"),
    "unknown option": ("generate", "x", "--stepz", "3"),
    "steps of 0": ("generate", "x", "--steps", "0"),
    "strength without a clip": ("generate", "x", "--strength", "0.5"),
    "an odd size, strict": ("generate", "x", "--size", "721x481", "--strict"),
    "not an image": ("generate", "x", "--image", "text.png"),
    "unknown model": ("generate", "x", "--model", "cogvideox-5bb"),
}


def measure(checkout: Path, arguments: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one call, including the start of the interpreter."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COGVIDEOX_")}
    environ |= {"PYTHONPATH": str(checkout), "COGVIDEOX_DEVICE": "cpu"}
    command = [sys.executable, "-c", "from server.cli import main; main()", *arguments]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = 0  # os.wait4 has already waited for it
    return seconds, used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.command_line")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--label", help="name of the other checkout in the result, such as its commit")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args(arguments)
    sides = {"here": ROOT} | ({"against": given.against.resolve()} if given.against else {})
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.png").write_text("text")
        for name, command in COMMANDS.items():
            taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for turn in range(given.runs + 1):
                for side, checkout in sides.items():
                    one = measure(checkout, command, Path(folder))
                    if turn:  # the first call fills the caches of the disk and of compiled modules
                        taken[side].append(one)
            found[name] = {
                side: {
                    "wall_seconds": round(statistics.median(wall for wall, _ in runs), 3),
                    "cpu_seconds": round(statistics.median(cpu for _, cpu in runs), 3),
                }
                for side, runs in taken.items()
            }
            print(f"{name}: {found[name]}", flush=True)
    result = {
        "date": report.today(),
        "machine": report.machine(),
        "versions": report.versions(),
        "runs": given.runs,
        "against": given.label or (None if given.against is None else str(given.against.name)),
        "commands": found,
    }
    print(report.save("command-line", "cpu", result, _row(found)))
    return 0


def _row(found: dict[str, Any]) -> dict[str, str]:
    """The row shows only CPU seconds, because wall seconds would include the time of other programs on the machine."""
    row = {"date": report.today()}
    for name, one in found.items():
        cells = [report.seconds(one[side]["cpu_seconds"]) for side in ("here", "against") if side in one]
        row[name] = f"{cells[0]} (before: {cells[1]})" if cells[1:] else cells[0]
    return row


if __name__ == "__main__":
    sys.exit(main())
