"""What Replicate's clients require but do not state in a request. The user agent identifies the client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from server.facades.ai_sdk import refuses

# In these clients, `run()` returns a file whose `read()` works only for https: and data: URLs. Before 1.0, `run()`
# returned the text itself. _ModuleClient: `replicate.run()` of the beta, called without creating a client
FILES = re.compile(r"(?:replicate-(?:python|javascript)/|(?:Replicate|AsyncReplicate|_ModuleClient)/Python )(\d{1,9})")

# seconds that a call may block, so that the response arrives before the client times out and maybe repeats the request
LONGEST_WAIT = 54.0  # then the response arrives within 55 seconds
LONGEST_WAIT_OF_0 = 25.0  # replicate-python before 1.0 times out after 30 seconds
OF_0 = "replicate-python/0."
OWN_TIMEOUT = "x-stainless-read-timeout"  # the beta sends its timeout, by default 60 seconds
SECONDS = re.compile(r"\d{1,9}(?:\.\d{0,9})?", re.ASCII)


def longest_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a call with these headers may block."""
    longest = LONGEST_WAIT_OF_0 if headers.get("user-agent", "").startswith(OF_0) else LONGEST_WAIT
    given = headers.get(OWN_TIMEOUT, "")
    if SECONDS.fullmatch(given) and float(given) > 0:
        longest = min(longest, float(given) * LONGEST_WAIT / 60)
    return longest


def reads_files(agent: str) -> bool:
    """Whether the client with this user agent converts outputs to files. This conversion works only for https: and
    data: URLs."""
    found = FILES.match(agent)
    return found is not None and int(found[1]) >= 1


def is_data(setting: Literal["auto", "url", "data"], agent: str, base: str, waited_for: bool) -> bool:
    """Whether to send the video as a data: URI. `waited_for`: whether the prediction was created with `Prefer: wait` by
    a client for which `reads_files` is true. `base`: our URL."""
    if setting != "auto":
        return setting == "data"
    if reads_files(agent):
        return waited_for and base.startswith("http:")
    return refuses(agent, base)
