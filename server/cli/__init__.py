"""The command line: `cogvideox serve | clients | keys | generate | replay | weights | lora`.

Knows: the list of commands. Does not know: what the commands do. Exit codes: 2 for a usage error, 1 for a failed run,
130 for Ctrl-C. Slow modules are imported inside the command that needs them, after all checks that work without these
modules.
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
