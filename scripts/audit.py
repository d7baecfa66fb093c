"""Checks every package of the given locks, and torch, for known vulnerabilities, with pip-audit.

Exit codes: 0 no vulnerability is known, 1 some are known, 3 the database cannot be reached or has no result for a
package.
"""

from __future__ import annotations

import json
import subprocess
import sys

UNREACHABLE = 3


def report(output: str) -> tuple[list[str], list[str]]:
    """One line for each vulnerability in pip-audit's JSON, and the packages that were not checked.

    Raises ValueError if the output is not a valid result.
    """
    packages = json.loads(output)["dependencies"]
    if not packages:
        raise ValueError
    found = [
        f"{p['name']} {p['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'no version yet'}"
        for p in packages
        for v in p.get("vulns", ())
    ]
    # NOTE: pip-audit calls these skipped, and says "No known vulnerabilities found" with exit code 0
    return found, [p["name"] for p in packages if "skip_reason" in p]


def main(locks: list[str]) -> int:
    found: set[str] = set()
    unknown: set[str] = set()
    for lock in locks:  # one by one, because pip-audit refuses a package that is in two files
        command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--disable-pip"]
        done = subprocess.run([*command, "--require-hashes", "--requirement", lock], capture_output=True, text=True)
        try:
            vulnerabilities, skipped = report(done.stdout)
        except (ValueError, KeyError):
            reason = (done.stderr.strip() or "no answer").splitlines()[-1]
            print(f"audit: the vulnerability database cannot be reached: {reason}")
            return UNREACHABLE
        found |= set(vulnerabilities)
        unknown |= set(skipped)
    print(*sorted(found), sep="\n", end="\n" if found else "")
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        print(f"audit: the vulnerability database has no result for {', '.join(sorted(unknown)[:5])}{more}")
    elif not found:
        print(f"No known vulnerability in {', '.join(locks)}.")
    return 1 if found else UNREACHABLE if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
