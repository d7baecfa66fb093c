"""The format of `--help`: plain usage and types, the settings' defaults beside their flags, examples. A usage error is
printed on one line, without the help page.

Knows: typer's help pages. Does not know: what any command does. The settings are imported only to print a page.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer._click.exceptions import NoArgsIsHelpError, UsageError
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from server.cli.common import fail
from server.cli.usage import complaint, unwritable

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter, Parameter

TYPES = {"<str>": "TEXT", "<list[str]>": "TEXT", "<int>": "N", "<int range>": "N", "<float>": "N", "<bool>": ""}


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except NoArgsIsHelpError:
        raise
    except UsageError as e:
        raise fail(complaint(e)) from None


def _written(ctx: Context) -> Context:
    if (wrong := unwritable(ctx)) is not None:
        raise fail(wrong)
    return ctx


class Command(TyperCommand):
    """`examples`: command lines shown below the options."""

    examples: tuple[str, ...] = ()

    def make_context(self, *args: Any, **how: Any) -> Context:
        with _in_one_line():
            return _written(super().make_context(*args, **how))

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as e:
            if e.errno != errno.ENAMETOOLONG:
                raise
            raise fail(f"{str(e.filename)[:80]}…: this name is too long for a file or folder") from None

    def get_params(self, ctx: Context) -> list[Parameter]:
        return _plain(super().get_params(ctx), ctx)

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        pieces = [self.options_metavar or ""]
        for param in self.get_params(ctx):
            if isinstance(param, TyperArgument):
                name = param.display_name_raw
                pieces.append((name if param.required else f"[{name}]") + ("..." if param.nargs != 1 else ""))
        return pieces

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        params = self.get_params(ctx)
        _add_defaults(params)
        _escape(params)
        super().format_help(ctx, formatter)
        if self.examples:
            typer.echo("Examples:\n" + "".join(f"  {line}\n" for line in self.examples))


class Group(TyperGroup):
    def make_context(self, *args: Any, **how: Any) -> Context:
        with _in_one_line():
            return super().make_context(*args, **how)

    def resolve_command(self, *args: Any, **how: Any) -> Any:
        with _in_one_line():
            return super().resolve_command(*args, **how)

    def get_params(self, ctx: Context) -> list[Parameter]:
        return _plain(super().get_params(ctx), ctx)

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        _escape(self.get_params(ctx))
        super().format_help(ctx, formatter)


class Commands(typer.Typer):
    """A group whose commands have help pages in this format."""

    def __init__(self, help: str) -> None:
        super().__init__(cls=Group, help=help, no_args_is_help=True, pretty_exceptions_enable=False)

    def command(self, name: str | None = None, **how: Any) -> Callable[[Any], Any]:
        how.setdefault("cls", Command)
        return super().command(name, **how)


def with_examples(*lines: str) -> type[Command]:
    return type("Command", (Command,), {"examples": lines})


def _plain(params: list[Parameter], ctx: Context) -> list[Parameter]:
    """Shows types as TEXT and N instead of `<str>`, and no type for a switch."""
    for param in params:
        if isinstance(param, TyperArgument):
            setattr(param, "display_type_rich", lambda ctx: None)  # noqa: B010  its name is enough
        elif isinstance(param, TyperOption) and param.metavar is None:
            shown = param.display_type_rich(ctx) or ""
            param.metavar = TYPES.get(shown, "PATH" if shown == "<path>" else shown.strip("<>"))
    return params


def _add_defaults(params: list[Parameter]) -> None:
    """For each flag that overrides a setting, shows the setting's default; the flag itself has no default."""
    from server.settings import Settings

    for param in params:
        field = Settings.model_fields.get(param.name or "") if isinstance(param, TyperOption) else None
        if isinstance(param, TyperOption) and field is not None and param.default is None:
            default = field.get_default(call_default_factory=True)
            if default not in (None, False) and "default:" not in (param.help or ""):
                param.help = f"{param.help} [default: {default}]"


def _escape(params: list[Parameter]) -> None:
    """Escapes help texts: rich would interpret `[default: 8000]` as a style and omit it."""
    from rich.markup import escape

    for param in params:
        if isinstance(param, TyperOption | TyperArgument) and not getattr(param, "escaped", False):
            param.help = escape(param.help or "")
            setattr(param, "escaped", True)  # noqa: B010  the page may be printed twice
