"""Look up every package of the given locks, and torch, in the database of known vulnerabilities, with pip-audit.

Exit codes: 0 none known, 1 some, 3 the database cannot be reached, so nothing is known.
"""

from __future__ import annotations

import json
import subprocess
import sys

UNREACHABLE = 3


def report(output: str) -> list[str]:
    """One line for each vulnerability in pip-audit's JSON. Raises ValueError when that is no complete answer."""
    packages = json.loads(output)["dependencies"]
    if skipped := [p["name"] for p in packages if "skip_reason" in p]:
        raise ValueError(f"not looked up: {', '.join(skipped)}")
    return sorted(
        f"{p['name']} {p['version']}: {v['id']}, repaired in {', '.join(v['fix_versions']) or 'no version yet'}"
        for p in packages
        for v in p["vulns"]
    )


def main(locks: list[str]) -> int:
    found: set[str] = set()
    for lock in locks:  # one by one: pip-audit refuses a package that two files name
        command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--disable-pip"]
        done = subprocess.run([*command, "--require-hashes", "--requirement", lock], capture_output=True, text=True)
        try:
            found |= set(report(done.stdout))
        except (ValueError, KeyError):
            reason = (done.stderr.strip() or done.stdout.strip() or "no answer").splitlines()[-1]
            print(f"audit: {lock} could not be looked up; the database is out of reach or gave no answer: {reason}")
            return UNREACHABLE
    print("\n".join(sorted(found)) or f"No known vulnerability in {', '.join(locks)}.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
