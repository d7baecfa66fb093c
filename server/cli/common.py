"""What the commands share: how a mistake is reported."""

from __future__ import annotations

import typer


def fail(message: str, code: int = 2) -> typer.Exit:
    """Prints the message on one line of stderr; to be raised. `code`: 2 for a mistake of the user, 1 for a failure."""
    typer.echo(f"cogvideox: {' '.join(message.split())}", err=True)
    return typer.Exit(code)
