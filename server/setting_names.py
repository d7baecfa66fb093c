"""Finds COGVIDEOX_* variables and `.env` lines that are not settings, so that a misspelt setting is not ignored.

If the variable for the API keys is misspelt, the server would be open to everyone. Therefore a name that resembles a
setting's name or looks like a secret stops the command; other names with our prefix are reported once and ignored.
Variables that Kubernetes sets for a service called `cogvideox` are not reported.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from dotenv.parser import parse_stream

from server.errors import BadSetting
from server.text_file import NotText, read_lines

PREFIX = "COGVIDEOX_"
SIMILAR = 0.75  # the minimum of difflib's ratio between a name and a setting's name; for `PROT` and `PORT` it is 0.75
SAME_PREFIX = 0.85  # the minimum for the whole variable, when the prefix is misspelt too
SECRETS = re.compile(r"KEY|TOKEN|SECRET|PASS(WD|WORD|PHRASE)?|AUTH|CREDENTIAL|INSECURE|TLS|SSL")
KUBERNETES = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|SERVER_PORT)")

_reported: set[str] = set()


def check_names(settings: Collection[str], env_file: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Raises BadSetting for a misspelt setting and an unreadable `.env`. `settings`: names in lower case."""
    known = {f"{PREFIX}{name.upper()}" for name in settings}
    for name, where in (*((name, "") for name in environ), *_lines(env_file)):
        upper = name.upper()
        if upper in known or not _is_ours(upper):
            continue
        if upper.startswith(PREFIX) and KUBERNETES.fullmatch(upper.removeprefix(PREFIX)):
            continue
        shown = f"{name.encode('ascii', 'backslashreplace').decode():.80}{where}"
        if (near := _near(upper, known)) is not None:
            raise BadSetting(f"{shown} is not a setting; did you mean {near}?")
        if not upper.startswith(PREFIX):
            continue
        if SECRETS.search(upper.removeprefix(PREFIX)):
            raise BadSetting(f"{shown} is not a setting; `cogvideox serve --help` lists them (keys: {PREFIX}API_KEYS)")
        if shown not in _reported:
            _reported.add(shown)
            sys.stderr.write(f"cogvideox: {shown} is not a setting and is ignored\n")


def _is_ours(name: str) -> bool:
    return name.startswith("COG") or ("VIDEO" in name and name.endswith("KEYS"))


def _near(name: str, known: Collection[str]) -> str | None:
    if name.startswith(PREFIX):
        short = {one.removeprefix(PREFIX): one for one in known}
        rest = name.removeprefix(PREFIX).replace("-", "_").strip("_ ")
        same = [one for one in short if one.replace("_", "") == rest.replace("_", "")]
        found = same or get_close_matches(rest, short, 1, SIMILAR)
        return short[found[0]] if found else None
    return next(iter(get_close_matches(name, known, 1, SAME_PREFIX)), None)


def _lines(env_file: Path) -> Iterator[tuple[str, str]]:
    """The names in the file, each with its line. Raises BadSetting for a line that has a name with our prefix, but no
    value."""
    if not env_file.exists():
        return
    try:
        lines = list(parse_stream(io.StringIO("\n".join(read_lines(env_file)))))
    except NotText as e:
        raise BadSetting(str(e)) from None
    except OSError as e:
        raise BadSetting(f"{env_file} cannot be read: {e.strerror}") from None
    for line in lines:
        where = f" ({env_file}, line {line.original.line})"
        if line.error or (line.key is not None and line.value is None):
            text = line.original.string.strip()
            if _is_ours(re.sub(r"^\s*(export\s+)?", "", text).upper()):
                name = re.split(r"[\s:=]", text.removeprefix("export "))[0]
                raise BadSetting(f"{name:.80}{where} sets nothing: write NAME=VALUE")
        elif line.key is not None:
            yield line.key, where
