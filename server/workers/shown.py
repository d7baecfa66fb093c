"""Error messages for clients, without paths of this machine."""

from __future__ import annotations

import re

PATH = re.compile(r"(?<![\w:/.<])~?/(?:[^\s'\":,;()]+/)*([^\s'\":,;()/]+)/?")


def without_paths(text: str) -> str:
    """`text` with each absolute path shortened to its last part."""
    return PATH.sub(r"\1", text)


def shown(model: str, code: str, message: str) -> str:
    """The message of a failed job for its client; only the operator sees details about a faulty model."""
    if code == "model_error":
        return f"the model {model} does not work on this server; its log says why"
    return without_paths(message)
