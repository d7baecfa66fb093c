"""What a client may see of an error: no folder of this machine."""

from __future__ import annotations

import re

PATH = re.compile(r"(?<![\w:/.<])~?/(?:[^\s'\":,;()]+/)*([^\s'\":,;()/]+)/?")


def without_paths(text: str) -> str:
    """`text` with each absolute path in it cut to its last part."""
    return PATH.sub(r"\1", text)


def shown(model: str, code: str, message: str) -> str:
    """The message of a failed job; a faulty model is the operator's business alone."""
    if code == "model_error":
        return f"the model {model} does not work on this server; its log says why"
    return without_paths(message)
