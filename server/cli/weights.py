"""`cogvideox weights`: list, pull, import, verify and find checkpoints, and RIFE's network.

Knows: words and exit codes for people and scripts (0 done, 1 a checkpoint is broken, 2 the request makes no sense or
cannot be carried out: one line on stderr; 130 stopped by hand). Does not know: how any of it is done (`weights.*`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.rife_check import convert
from weights import catalog, record
from weights.catalog import CATALOG, WeightsError
from weights.imports import import_folder, import_network
from weights.interpolation import NETWORKS, RIFE, SMALL, SUFFIXES, place
from weights.pull import pull as fetch
from weights.verify import verify as inspect

app = typer.Typer(help="Checkpoints, and RIFE's network: list, pull, import, verify.", no_args_is_help=True)
HOW_TO_GET_RIFE = "get flownet 4.25 of Practical-RIFE, then: cogvideox weights import FILE"

ModelsDir = Annotated[
    Path,
    typer.Option(
        "--models-dir", envvar="COGVIDEOX_MODELS_DIR", help="Where checkpoints lie.", show_default="the user's cache"
    ),
]
Name = Annotated[str, typer.Argument(help="A name from `cogvideox weights list`.")]
NameOrFolder = Annotated[str, typer.Argument(metavar="NAME|DIR", help="A name from the list, or a folder.")]


@contextmanager
def _plainly() -> Iterator[None]:
    """What the person can mend becomes one line on stderr and exit code 2."""
    try:
        yield
    except WeightsError as error:
        typer.echo(f"cogvideox: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("cogvideox: stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from error


def _present(name: str, models_dir: Path) -> Path:
    if name in NETWORKS:
        file = place(name, models_dir)
        folder = file.parent if file.is_file() else None
    else:
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
def list_(models_dir: ModelsDir = catalog.default_models_dir()) -> None:
    """Every checkpoint known by name, and what lies in the models folder besides."""
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
            known.licence if known else "?",
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
        table.add_row(name, here_or_not, size_or_none or "?", licence, "frames between frames", source)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a pipe has no width: one line a checkpoint, for grep
    console.print(table)
    console.print(f"models folder: {escape(str(models_dir))}", highlight=False, soft_wrap=True)


@app.command()
def pull(name: Name, models_dir: ModelsDir = catalog.default_models_dir()) -> None:
    """Download a checkpoint, or go on with or mend an earlier download. Needs the internet, no account."""
    with _plainly():
        if name in NETWORKS:
            how = "ships with this project" if name == SMALL else HOW_TO_GET_RIFE
            raise WeightsError(f"{name} cannot be pulled; {how}")
        typer.echo(str(fetch(name, models_dir)))


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="A diffusers folder, a Hugging Face cache's, or RIFE's flownet.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name to give it; default: recognised.")] = None,
    models_dir: ModelsDir = catalog.default_models_dir(),
) -> None:
    """Bring in what is on this machine already, without the internet: a checkpoint, linked where possible, or a file of
    RIFE's (.pkl, .pth, .pt, .safetensors), which then draws frames between frames."""
    said = ""
    asked = source.expanduser()
    with _plainly(), Console(stderr=True).status("reading every byte once"):
        if not asked.is_file() and (asked.is_dir() or asked.suffix.lower() not in SUFFIXES):
            target = import_folder(source, models_dir, name)
        elif name is not None:
            raise WeightsError(f"{source}: a file of RIFE's takes no --name")
        else:
            target, said = import_network(source, models_dir, convert)
            said = f"{said}; sha256 {record.sha256(target)}"
    typer.echo(str(target))
    if said:
        typer.echo(said, err=True)


@app.command()
def verify(
    checkpoint: NameOrFolder,
    deep: Annotated[bool, typer.Option("--deep", help="Also compare every byte with the recorded SHA-256.")] = False,
    models_dir: ModelsDir = catalog.default_models_dir(),
) -> None:
    """Say whether a checkpoint is whole, and if not, what is wrong and what to do. Exit code 1 if it is broken."""
    with _plainly(), Console(stderr=True).status("checking"):
        # a folder that lost its model_index.json is no checkpoint to `find`, yet there is much to say about it
        asked = Path(checkpoint).expanduser()
        by_path = checkpoint not in (*CATALOG, *NETWORKS) and asked.is_dir()
        broken_name = models_dir / checkpoint if (models_dir / checkpoint).is_dir() else None
        report = inspect(asked if by_path else broken_name or _present(checkpoint, models_dir), deep=deep)
    for problem in report.problems:
        typer.echo(str(problem))
    for warning in report.warnings:
        typer.echo(f"note: {warning}")
    what = report.checkpoint or "checkpoint"
    how = "every byte as recorded" if report.deep else "structure and lengths"
    if report.ok:
        typer.echo(f"{what} in {report.folder}: whole ({how}, {_size(report.size / 1e9)})")
    else:
        typer.echo(f"{what} in {report.folder}: {len(report.problems)} problem(s)", err=True)
        raise typer.Exit(1)


@app.command()
def where(name: NameOrFolder, models_dir: ModelsDir = catalog.default_models_dir()) -> None:
    """Print the folder of an installed checkpoint."""
    with _plainly():
        typer.echo(str(_present(name, models_dir)))
