"""Pins the image in a Dockerfile's line `ARG BASE=` to its tag's current digest: `name:tag@sha256:...`.

It queries the registry with docker, crane or skopeo, depending on what is installed. Exit code 1: none of the three
programs returned a digest.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

BASE = re.compile(r"^ARG BASE=(?P<tag>[^@\s]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?$", re.MULTILINE)
# NOTE: each command prints the digest of the list of all platforms, not of one platform's image
ASKING = (
    ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", "{tag}"],
    ["crane", "digest", "{tag}"],
    ["skopeo", "inspect", "--format", "{{.Digest}}", "docker://{tag}"],
)


def digest_of(tag: str) -> str | None:
    for command in ASKING:
        if shutil.which(command[0]):
            done = subprocess.run([part.replace("{tag}", tag) for part in command], capture_output=True, text=True)
            if re.fullmatch(r"sha256:[0-9a-f]{64}", answer := done.stdout.strip()):
                return answer
            print(f"{command[0]}: {(done.stderr or answer or 'no answer').strip().splitlines()[-1]}", file=sys.stderr)
    return None


def main(file: str) -> int:
    path = Path(file)
    text = path.read_text("utf-8")
    if (line := BASE.search(text)) is None:
        print(f"image-digest: {file} has no line `ARG BASE=name:tag`", file=sys.stderr)
        return 1
    if (digest := digest_of(line["tag"])) is None:
        print(
            f"image-digest: none of docker, crane and skopeo could look up {line['tag']}; nothing was changed",
            file=sys.stderr,
        )
        return 1
    path.write_text(BASE.sub(f"ARG BASE={line['tag']}@{digest}", text), encoding="utf-8")
    print(f"{file}: {line['tag']} is {digest}" + ("" if digest != line["digest"] else ", as before"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
