"""`cogvideox keys`: keys for clients, kept as hashes in the job table's database.

Knows: commands and how their answers look. Does not know: how keys are checked. Works beside a running server, which
notices within a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.errors import StartError
from server.settings import Settings

if TYPE_CHECKING:
    from server.jobs.keys import KeyStore

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)
DataFolder = Annotated[Path | None, typer.Option(help="The server's data folder.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Instead of the server's own limit.", show_default=False)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom it is for; shown by `keys list`.")],
    jobs_per_key: Limit = None,
    daily_jobs_per_key: Limit = None,
    data_dir: DataFolder = None,
) -> None:
    """Make a key and print it, this once."""
    from server.jobs.store import Quota

    with _store(data_dir) as store:
        key, issued = store.create(name, Quota(jobs_per_key, daily_jobs_per_key))
    typer.echo(key)
    typer.echo(f"Key {issued.id} for {name}. It is not kept and cannot be shown again.", err=True)


@app.command("list")
def list_(data_dir: DataFolder = None) -> None:
    """Show the keys there are, by their ids."""
    with _store(data_dir) as store:
        keys = store.all()
    table = Table("id", "name", "created", "jobs at once", "jobs a day", "revoked")
    for key in keys:
        limits = (str(limit) if limit else "" for limit in (key.quota.at_once, key.quota.daily))
        table.add_row(key.id, key.name, _day(key.created_at), *limits, _day(key.revoked_at))
    Console().print(table)


@app.command()
def revoke(id_: Annotated[str, typer.Argument(metavar="ID")], data_dir: DataFolder = None) -> None:
    """Refuse a key from now on. Jobs it has sent go on."""
    with _store(data_dir) as store:
        done = store.revoke(id_.partition(".")[0])
    if not done:
        typer.echo(f"cogvideox: there is no key {id_.partition('.')[0]}, or it is revoked already", err=True)
        raise typer.Exit(2)


def issued(settings: Settings) -> bool:
    """Whether a key was ever made for the server of these settings."""
    with _store(settings.data_dir, settings) as store:
        return bool(store.all())


def _day(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


@contextmanager
def _store(data_dir: Path | None, settings: Settings | None = None) -> Iterator[KeyStore]:
    from server.jobs.database import open_database
    from server.jobs.keys import KeyStore
    from server.jobs.tables import SCHEMA, metadata

    try:
        settings = settings or Settings.load(data_dir=data_dir)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = open_database(settings.database, metadata, SCHEMA, alone=False)
    except (StartError, OSError) as e:
        typer.echo(f"cogvideox: {getattr(e, 'message', e)}", err=True)
        raise typer.Exit(2) from None
    try:
        yield KeyStore(database)
    finally:
        database.close()
