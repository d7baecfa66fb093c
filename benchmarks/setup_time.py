"""How long `make setup` takes in an empty environment, at this commit and at another commit, in alternating order.

    python -m benchmarks.setup_time --against 5e2a3de

Each run has its own clone and environment. Runs with cold caches download everything; runs with warm caches use the
caches that the cold run of the same commit has filled. CPU seconds include all processes of the run.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import machine, ratio, save, seconds, versions

ROOT = Path(__file__).resolve().parent.parent
ORDER = (("against", "cold"), ("this", "cold"), ("this", "warm"), ("against", "warm"))


def measure(commit: str, folder: Path, caches: Path) -> dict[str, Any]:
    """One `make setup` in a new clone, with every cache under `caches`. Raises CalledProcessError."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "--quiet", commit], cwd=folder, check=True)
    env = os.environ | {"PIP_CACHE_DIR": str(caches / "pip"), "UV_CACHE_DIR": str(caches / "uv")}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(["make", "setup"], cwd=folder, env=env, check=True, capture_output=True)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    site = next(folder.glob(".venv/lib/python*/site-packages"))
    return {"seconds": wall, "cpu_seconds": cpu, "packages": len(list(site.glob("*.dist-info")))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, help="the commit to compare with")
    given = parser.parse_args()
    rev = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    commits = {"this": rev.stdout.strip(), "against": given.against}
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "commits": commits, "runs": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for which, cache in ORDER:
            found = measure(commits[which], Path(temporary) / f"{which}-{cache}", Path(temporary) / f"caches-{which}")
            result["runs"][f"{which} {cache}"] = found
            print(which, cache, found, flush=True)
    row: dict[str, str] = {}
    for cache in ("cold", "warm"):
        old, new = result["runs"][f"against {cache}"], result["runs"][f"this {cache}"]
        result[f"ratio_{cache}"] = new["seconds"] / old["seconds"]
        result[f"ratio_cpu_{cache}"] = new["cpu_seconds"] / old["cpu_seconds"]
        row |= {
            f"{cache}: before": f"{seconds(old['seconds'])} ({old['packages']} packages)",
            f"{cache}: now": f"{seconds(new['seconds'])} ({new['packages']} packages)",
            f"{cache}: ratio": f"{ratio(result[f'ratio_{cache}'])} (CPU {ratio(result[f'ratio_cpu_{cache}'])})",
        }
    print(save("make setup", "cpu", result, row))


if __name__ == "__main__":
    main()
