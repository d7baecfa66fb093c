"""The command line: `cogvideox serve | clients | keys | generate | replay | weights | lora`.

Knows: how commands are put together and which exit code a person's mistake gets (2; a failed run 1; Ctrl-C 130).
Does not know: what the commands do. Nothing heavy is imported here, so `--help` is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli import clients, generate, keys, lora, serve, weights

app = typer.Typer(
    help="CogVideoX on your own GPU: a server that answers the clouds' requests, and the same engine offline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve", help=serve.HELP)(serve.serve)
app.command("clients")(clients.clients)
app.add_typer(keys.app, name="keys")
app.command("generate")(generate.generate)
app.command("replay")(generate.replay)
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
