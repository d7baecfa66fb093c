"""`cogvideox keys`: keys for clients, kept as hashes in the job table's database.

Knows: the commands, the server's data folder, the output. Does not know: how keys are checked. The commands also work
while the server is running; the server notices a change within a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.common import fail
from server.cli.help import Commands

if TYPE_CHECKING:
    from server.keys import IssuedKey, KeyStore
    from server.settings import Settings

app = Commands(help="API keys: create, list, revoke, delete.")
DataFolder = Annotated[Path | None, typer.Option("--data-dir", help="The server's data folder.")]
Limit = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Replaces the server's own limit for this key.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id from `cogvideox keys list`.")]
LONGEST_NAME = 100


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Label for the key, shown by `keys list`.")],
    jobs_per_key: Limit = None,
    daily_jobs_per_key: Limit = None,
    data_dir: DataFolder = None,
    new: Annotated[
        bool, typer.Option("--new", help="Create the data folder of a server that has never been started.")
    ] = False,
) -> None:
    """Create a key; it is shown only once. After the first key, the server refuses requests without a key."""
    from server.jobs.store import Quota

    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise fail(f"NAME: must be 1 to {LONGEST_NAME} printable characters")
    settings = _settings(data_dir)
    made = _is_new(settings)
    named = "data_dir" in settings.model_fields_set and not _holds_something(settings.data_dir)
    if made and not new and not named:
        raise fail(
            f"no server has used the data folder {settings.data_dir.absolute()}; run this where the server runs, give"
            " its folder with --data-dir, or add --new for a server that has not been started yet"
        )
    with _store(settings) as store:
        was_open = not any(counted(store.all(), settings))
        key, issued = store.create(name, Quota(jobs_per_key, daily_jobs_per_key))
    typer.echo(key)
    _say(f"Key {issued.id} for {name}. It cannot be shown again.")
    if made:
        _say(f"Created {settings.data_dir.absolute()}: start the server with this data folder.")
    elif was_open:
        _say(f"The server of {_where(settings)} was open; from now on every request needs a key.")
    else:
        _say(f"The key is valid for the server of {_where(settings)}.")


@app.command("list")
def list_(data_dir: DataFolder = None) -> None:
    """List all keys by id, and say whether the server is open or closed."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    settings = _settings(data_dir)
    with _existing(settings) as store:
        keys = store.all()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "name", "created", "jobs at once", "jobs a day", "revoked"):
        table.add_column(column, no_wrap=column in ("id", "name"))
    for key in keys:
        limits = (str(limit) if limit else "" for limit in (key.quota.at_once, key.quota.daily))
        table.add_row(key.id, escape(key.name), _day(key.created_at), *limits, _day(key.revoked_at))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width, so each key gets one line
    console.print(table)
    typer.echo(_state(keys, settings))


@app.command()
def revoke(id_: Id, data_dir: DataFolder = None) -> None:
    """Reject a key from now on. Jobs that were sent with it continue."""
    settings, name = _settings(data_dir), _id(id_)
    with _existing(settings) as store:
        done, keys = store.revoke(name), store.all()
    if not done:
        raise fail(f"there is no valid key {name} in {_where(settings)}")
    _say(f"Key {name} is revoked. {_state(keys, settings)}")


@app.command()
def delete(id_: Id, data_dir: DataFolder = None) -> None:
    """Remove a revoked key from the list. A server on a loopback address is open again when its last key is deleted."""
    settings, name = _settings(data_dir), _id(id_)
    with _existing(settings) as store:
        outcome, keys = store.delete(name), store.all()
    if outcome == "unknown":
        raise fail(f"there is no key {name} in {_where(settings)}")
    if outcome == "valid":
        raise fail(f"key {name} is still valid; revoke it first: cogvideox keys revoke {name}")
    _say(f"Key {name} is deleted. {_state(keys, settings)}")


def issued(settings: Settings) -> list[IssuedKey]:
    """All keys that were issued for the server with these settings and not deleted."""
    with _store(settings) as store:
        return store.all()


def counted(keys: Sequence[IssuedKey], settings: Settings) -> tuple[int, int]:
    """The number of valid keys, including the keys of COGVIDEOX_API_KEYS, and the number of revoked keys."""
    revoked = sum(key.revoked_at is not None for key in keys)
    return len(settings.keys) + len(keys) - revoked, revoked


def _state(keys: Sequence[IssuedKey], settings: Settings) -> str:
    valid, revoked = counted(keys, settings)
    if not valid and not revoked:
        return "Server: open on a loopback address, no key."
    said = f"Server: closed, {valid} valid key{'s' * (valid != 1)}, {revoked} revoked"
    if settings.keys:
        said += f" ({len(settings.keys)} of COGVIDEOX_API_KEYS)"
    if valid:
        return f"{said}."
    return (
        f"{said}: every request is rejected. `cogvideox keys create NAME` makes a key; deleting the revoked keys"
        " (`cogvideox keys delete ID`) opens the server to everybody on this machine."
    )


def _id(given: str) -> str:
    """The id in `given`, which may also be a whole key."""
    return given.replace(":", ".").partition(".")[0]


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _day(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _settings(data_dir: Path | None) -> Settings:
    from server.errors import StartError
    from server.settings import Settings

    try:
        return Settings.load(data_dir=data_dir)
    except StartError as e:
        raise fail(e.message) from None


def _is_new(settings: Settings) -> bool:
    """Whether no server has ever used the data folder. False with a database URL, because the keys are then not in the
    folder."""
    return settings.database_url is None and not (settings.data_dir / "jobs.db").is_file()


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _where(settings: Settings) -> str:
    return "COGVIDEOX_DATABASE_URL" if settings.database_url is not None else str(settings.data_dir.absolute())


@contextmanager
def _existing(settings: Settings) -> Iterator[KeyStore]:
    """Like `_store`, but fails instead of creating a database if no server has used the data folder."""
    if _is_new(settings):
        raise fail(
            f"no server has used the data folder {settings.data_dir.absolute()}; run this where the server runs, or"
            " give its folder with --data-dir"
        )
    with _store(settings) as store:
        yield store


@contextmanager
def _store(settings: Settings) -> Iterator[KeyStore]:
    from server.errors import StartError
    from server.jobs.database import open_database
    from server.jobs.tables import SCHEMA, metadata
    from server.keys import KeyStore
    from server.private import data_folder

    try:
        if settings.database_url is None:
            data_folder(settings.data_dir.absolute(), lambda warning: _say(f"note: {warning}"))
        database = open_database(settings.database, metadata, SCHEMA, alone=False)
    except StartError as e:
        raise fail(e.message) from None
    except OSError as e:
        raise fail(f"the data folder {settings.data_dir.absolute()} cannot be used: {e.strerror or e}") from None
    try:
        yield KeyStore(database)
    finally:
        database.close()
