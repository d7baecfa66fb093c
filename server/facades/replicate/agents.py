"""What Replicate's clients need that their requests do not say; the user agent tells the clients apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from server.facades.ai_sdk import refuses

# what `run()` of these returns has `read()` only for https: and data:. Before 1.0 it gave back the text itself.
# _ModuleClient is the beta's `replicate.run()` without a client of one's own
FILES = re.compile(r"(?:replicate-(?:python|javascript)/|(?:Replicate|AsyncReplicate|_ModuleClient)/Python )(\d{1,9})")

# seconds that a call may block: short enough that the client does not give up and send the request again
LONGEST_WAIT = 54.0  # the answer must arrive within 55
LONGEST_WAIT_OF_0 = 25.0  # replicate-python before 1.0, which gives up after 30
OF_0 = "replicate-python/0."
OWN_TIMEOUT = "x-stainless-read-timeout"  # the beta says when it gives up: after 60 unless its user says otherwise
SECONDS = re.compile(r"\d{1,9}(?:\.\d{0,9})?", re.ASCII)


def longest_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a call with these headers may block."""
    longest = LONGEST_WAIT_OF_0 if headers.get("user-agent", "").startswith(OF_0) else LONGEST_WAIT
    given = headers.get(OWN_TIMEOUT, "")
    if SECONDS.fullmatch(given) and float(given) > 0:
        longest = min(longest, float(given) * LONGEST_WAIT / 60)
    return longest


def reads_files(agent: str) -> bool:
    """Whether the client with this user agent turns an output into a file, which works only with an https address or
    data."""
    found = FILES.match(agent)
    return found is not None and int(found[1]) >= 1


def is_data(setting: Literal["auto", "url", "data"], agent: str, base: str, waited_for: bool) -> bool:
    """Whether to answer with the video's data. `waited_for`: a client that reads files created the prediction, with
    `Prefer: wait`. `base`: our address."""
    if setting != "auto":
        return setting == "data"
    if reads_files(agent):
        return waited_for and base.startswith("http:")
    return refuses(agent, base)
