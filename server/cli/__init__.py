"""The command line: `cogvideox serve | clients | keys | generate | replay | weights | lora`.

Knows: how commands are put together and which exit code a user's mistake gets (2; a failed run 1; Ctrl-C 130).
Does not know: what the commands do. Whatever is slow to import is imported inside the command that needs it, after
everything that can be checked without it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli import clients, generate, keys, lora, replay, serve, weights
from server.cli.help import Commands, with_examples
from server.cli.settings_page import ServeCommand

app = Commands(
    help="CogVideoX on your own GPU: a server compatible with the APIs that host it, and video generation offline."
)
app.command("serve", cls=ServeCommand)(serve.serve)
app.command("clients")(clients.clients)
app.add_typer(keys.app, name="keys")
app.command("generate", cls=with_examples(*generate.EXAMPLES))(generate.generate)
app.command("replay")(replay.replay)
app.add_typer(weights.app, name="weights")
app.add_typer(lora.app, name="lora")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("cogvideox-server"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    app()
