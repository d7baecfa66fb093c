"""typer's usage errors on one line, like all other errors: the option, the allowed values, the given value.

Knows: typer's errors. Does not know: what any option means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipelines.ranges import flaw

if TYPE_CHECKING:
    from typer._click import Context, Parameter
    from typer._click.exceptions import UsageError

UNWRITABLE = "must be plain text: it is not valid UTF-8"


def complaint(error: UsageError) -> str:
    """The error in one sentence."""
    from typer._click.exceptions import BadParameter, MissingParameter

    if not isinstance(error, BadParameter) or isinstance(error, MissingParameter) or error.param is None:
        command = f" ({error.ctx.command_path} --help)" if error.ctx is not None else ""
        return f"{error.format_message().rstrip('.')}{command}"
    return f"{_name(error.param)}: {_reason(error)}"


def unwritable(ctx: Context) -> str | None:
    """A message about the first value that is not valid Unicode, with the option's name; None if all are valid."""
    for param in ctx.command.get_params(ctx):
        for text in _texts(ctx.params.get(param.name or "")):
            if flaw(text):
                return f"{_name(param)}: {UNWRITABLE}"
    return None


def _texts(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list | tuple) else [value]:
        yield "" if one is None else str(one)


def _name(param: Parameter) -> str:
    """The option's long form, or the argument's name on the help page."""
    from typer.core import TyperArgument

    if isinstance(param, TyperArgument):
        return param.display_name_raw
    return max(param.opts, key=len)


def _reason(error: Any) -> str:
    from pydantic import ValidationError

    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return str(error.message)
    found = cause.errors(include_url=False)[0]
    choices, info = error.param.type_descriptor.choices, error.param.type_descriptor.parameter_info
    if choices:
        return f"must be one of {', '.join(map(str, choices))}, got {found['input']!r}"
    kind = str(found["type"])
    if kind.startswith("string_"):
        return UNWRITABLE
    given = found["input"] if kind.startswith(("greater", "less")) else repr(found["input"])
    if info.min is not None and info.max is not None:
        return f"must be a whole number between {info.min} and {info.max}, got {given}"
    if kind.startswith(("int_", "float_")):
        return f"must be a {'whole ' * kind.startswith('int')}number, got {given}"
    said = str(found["msg"]).removeprefix("Value error, ").replace("Input should be ", "must be ")
    return f"{said}, got {given}"
