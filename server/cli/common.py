"""Error reporting for all commands."""

from __future__ import annotations

import typer


def fail(message: str, code: int = 2) -> typer.Exit:
    """Prints the message on one line of stderr, and returns an exception for the caller to raise. `code`: 2 usage
    error, 1 failure."""
    typer.echo(f"cogvideox: {' '.join(message.split())}", err=True)
    return typer.Exit(code)
