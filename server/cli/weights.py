"""`cogvideox weights`: list, pull, import, verify and find models, and RIFE's network.

Knows: messages and exit codes (0 done; 1 a model is broken; 2 the request is invalid or fails, with one line on stderr;
130 Ctrl-C). Does not know: how the work is done (`weights.*`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from server.cli.common import fail
from server.cli.help import Commands
from weights import catalog
from weights.catalog import CATALOG, WeightsError
from weights.interpolation import NETWORKS, RIFE, SMALL, SUFFIXES, place

app = Commands(help="Models, and RIFE's network: list, pull, import, verify.")
HOW_TO_GET_RIFE = "get flownet 4.25 of Practical-RIFE, then: cogvideox weights import FILE"

ModelsDir = Annotated[Path | None, typer.Option("--models-dir", help="Folder with installed models.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A name from `cogvideox weights list`, or a Hugging Face id.")
]
NameOrFolder = Annotated[str, typer.Argument(metavar="NAME|DIR", help="A name from the list, or a folder.")]


@contextmanager
def _plainly() -> Iterator[None]:
    """Turns errors that the user can correct into one line on stderr and exit code 2."""
    from server.errors import StartError

    try:
        yield
    except StartError as error:
        raise fail(error.message) from error
    except WeightsError as error:
        raise fail(str(error)) from error
    except BrokenPipeError:  # `weights list | head`: the reader has closed the pipe
        raise
    except OSError as error:
        raise fail(f"{error.filename or 'the models folder'}: {error.strerror or error}") from error
    except KeyboardInterrupt as error:
        raise fail("stopped; the same command resumes", 130) from error


def _models_dir(given: Path | None) -> Path:
    """The folder from the flag, the environment or `.env`. Raises StartError for invalid settings."""
    from server.served import check_folders
    from server.settings import Settings

    settings = Settings.load(models_dir=given)
    check_folders(settings)
    return settings.models_dir


def _present(name: str, models_dir: Path) -> Path:
    if name in NETWORKS:
        file = place(name, models_dir)
        folder = file.parent if file.is_file() else None
    else:
        name = catalog.name_of(name, models_dir)
        folder = catalog.find(name, models_dir)
    if folder is None:
        packaged = name == SMALL or (name in CATALOG and CATALOG[name].packaged)
        how = "is not in this installation" if packaged else f"try: cogvideox weights pull {name}"
        how = HOW_TO_GET_RIFE if name == RIFE else how
        raise WeightsError(f"{name} is not installed; {how}")
    return folder


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.0f} MB"


@app.command("list")
def list_(models_dir: ModelsDir = None) -> None:
    """List the known models, and the others in the models folder."""
    with _plainly():
        _list(_models_dir(models_dir))


def _list(models_dir: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    here = {i.name: i for i in catalog.installed(models_dir)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "here", "size", "licence", "tasks", "repository"):
        table.add_column(column, no_wrap=column == "name", justify="right" if column == "size" else "left")
    for name in [*CATALOG, *(n for n in here if n not in CATALOG)]:
        known = CATALOG.get(name)
        size = sum(p.stat().st_size for p in here[name].folder.rglob("*") if p.is_file()) / 1e9 if name in here else 0.0
        table.add_row(
            escape(name),
            "yes" if name in here else "-",
            _size(size or (known.size_gb if known else 0.0)),
            (known.licence + (" *" if known.terms else "")) if known else "?",
            ", ".join(known.tasks) if known else "?",
            (known.repository or "ships with this project") if known else "yours",
        )
    for name, licence, source in (
        (RIFE, "MIT", "hzwer/Practical-RIFE (GitHub)"),
        (SMALL, "Apache-2.0", "ships with this project"),
    ):
        file = place(name, models_dir)
        size_or_none = _size(file.stat().st_size / 1e9) if file.is_file() else None
        here_or_not = "yes" if size_or_none else "-"
        table.add_row(name, here_or_not, size_or_none or "?", licence, "frame interpolation", source)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width, so each model gets one line
    console.print(table)
    for terms in sorted({one.terms for one in CATALOG.values() if one.terms}):
        typer.echo(f"* {terms}")
    typer.echo(f"models folder: {models_dir}")


@app.command()
def pull(name: Name, models_dir: ModelsDir = None) -> None:
    """Download a model; resumes or repairs an earlier download. Needs the internet, no account."""
    with _plainly():
        folder = _models_dir(models_dir)
        if name in NETWORKS:
            how = "ships with this project" if name == SMALL else HOW_TO_GET_RIFE
            raise WeightsError(f"{name} cannot be pulled; {how}")
        checkpoint = catalog.get(name)
        if checkpoint.terms:
            typer.echo(f"{checkpoint.name}: {checkpoint.terms}", err=True)
        typer.echo(str(_fetch(name, folder)))


def _fetch(name: str, models_dir: Path) -> Path:
    import logging

    from weights.pull import pull as fetch

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hides its messages about retries
    return fetch(name, models_dir)


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE",
            help="A diffusers folder, one of the Hugging Face cache, a fine-tuned transformer, or RIFE's flownet.",
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name for the model; recognised by default.")] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="NAME|DIR", help="For a transformer alone: the model with the other parts."),
    ] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Install files that are already on this machine: a model, linked where possible; a transformer from a full
    fine-tune (a folder, or one .safetensors file, in the layout of diffusers or the original one) with the other parts
    of --base; or RIFE's weights for frame interpolation (.pkl, .pth, .pt, .safetensors)."""
    from rich.console import Console

    from pipelines.frames.rife_check import convert
    from weights import record
    from weights.finetune import look
    from weights.foreign import folder_step, is_unknown_folder
    from weights.imports import import_folder, import_network, import_transformer
    from weights.verify import verify as inspect

    said: list[str] = []
    asked = catalog.home(source)
    with _plainly(), Console(stderr=True).status("reading every byte once"):
        folder = _models_dir(models_dir)
        if (transformer := look(asked)) is not None:
            target = import_transformer(transformer, folder, base, name)
        elif base is not None:
            whole = f"{source} is or holds no transformer alone, so it takes no --base"
            raise WeightsError(folder_step(asked) if is_unknown_folder(asked) else whole)
        elif not asked.is_file() and (asked.is_dir() or asked.suffix.lower() not in SUFFIXES):
            target = import_folder(source, folder, name)
        elif name is not None:
            raise WeightsError(f"{source}: RIFE's weights take no --name")
        else:
            target, what = import_network(source, folder, convert)
            said = [f"{what}; sha256 {record.sha256(target)}"]
        if target.is_dir():
            said = [f"note: {warning}" for warning in inspect(target).warnings]
    typer.echo(str(target))
    for line in said:
        typer.echo(line, err=True)


@app.command()
def verify(
    checkpoint: NameOrFolder,
    deep: Annotated[bool, typer.Option("--deep", help="Also compare every byte with the recorded SHA-256.")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Check a model; say what is wrong with it and what to do. Exit code 1 if it is broken."""
    from rich.console import Console

    from weights.verify import verify as inspect

    with _plainly(), Console(stderr=True).status("checking"):
        folder = _models_dir(models_dir)
        # `find` does not accept a folder without model_index.json, but its other problems can be reported
        asked = catalog.home(checkpoint)
        name = catalog.name_of(checkpoint, folder)
        by_path = name not in (*CATALOG, *NETWORKS) and asked.is_dir()
        broken_name = folder / name if (folder / name).is_dir() else None
        report = inspect(asked if by_path else broken_name or _present(name, folder), deep=deep)
    for problem in report.problems:
        typer.echo(str(problem))
    for warning in report.warnings:
        typer.echo(f"note: {warning}")
    what = report.checkpoint or "model"
    how = "every byte as recorded" if report.deep else "structure and lengths"
    if report.ok:
        typer.echo(f"{what} in {report.folder}: whole ({how}, {_size(report.size / 1e9)})")
    else:
        typer.echo(f"{what} in {report.folder}: {len(report.problems)} problem(s)", err=True)
        raise typer.Exit(1)


@app.command()
def where(name: NameOrFolder, models_dir: ModelsDir = None) -> None:
    """Print the folder of an installed model."""
    with _plainly():
        typer.echo(str(_present(name, _models_dir(models_dir))))
