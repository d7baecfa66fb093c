"""Whether a prediction's `output` is the video itself, as a data URI, or its address.

Knows: which clients make nothing of an address over plain http or on a private network. Does not know: jobs, files.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from server.media.addresses import is_public

# what `run()` of these gives back has `read()` only for https: and data:. Before 1.0 it gave back the text itself.
# _ModuleClient is the beta's `replicate.run()` without a client of one's own
FILES = re.compile(r"(?:replicate-(?:python|javascript)/|(?:Replicate|AsyncReplicate|_ModuleClient)/Python )(\d{1,9})")
AI_SDK = "ai-sdk/"  # fetches nothing from localhost and private addresses
LOCAL = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def reads_files(agent: str) -> bool:
    """Whether the client of this user agent turns an output into a file, and only an https address or data."""
    found = FILES.match(agent)
    return found is not None and int(found[1]) >= 1


def is_data(setting: Literal["auto", "url", "data"], agent: str, base: str, waited_for: bool) -> bool:
    """`waited_for`: a client that reads files created the prediction, with `Prefer: wait`. `base`: our address."""
    if setting != "auto":
        return setting == "data"
    if reads_files(agent):
        return waited_for and base.startswith("http:")
    return AI_SDK in agent and is_private(base)


def is_private(base: str) -> bool:
    """Whether that address is one of this machine or of a private network, as far as its name tells."""
    try:
        host = (urlsplit(base).hostname or "").rstrip(".").lower()
    except ValueError:  # brackets around what is no address
        return False
    try:
        ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(LOCAL)
    return not is_public(host)
