"""`cogvideox lora`: the LoRA files a request may name: list, add, inspect, remove.

Knows: messages and exit codes, the sources of files. Does not know: the folder's layout (`weights.loras`), the content
of a file (`pipelines.lora.file`).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from pipelines.lora import file as lora_file
from pipelines.lora import layout as lora_layout
from pipelines.lora import unpickle
from pipelines.lora.layout import LoraError
from server.cli.common import fail
from server.cli.help import Commands
from server.errors import ServerError
from weights import catalog, loras
from weights.catalog import WeightsError

if TYPE_CHECKING:
    from server.settings import Settings

app = Commands(help="LoRA files: list, add, inspect, remove.")
SECONDS = 3600.0  # for a download from a URL
PICKLED = (".pt", ".pth", ".bin", ".ckpt")

LorasDir = Annotated[Path | None, typer.Option("--loras-dir", help="Folder with installed LoRAs.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `cogvideox lora list`.")]


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except (WeightsError, ServerError, LoraError) as e:
        raise fail(str(getattr(e, "message", e))) from None
    except BrokenPipeError:  # `lora list | head`: the reader has closed the pipe
        raise
    except OSError as e:
        raise fail(f"{e.filename or 'the LoRA folder'}: {e.strerror or e}") from None
    except KeyboardInterrupt:
        raise fail("stopped", 130) from None


@contextmanager
def _about(file: Path) -> Iterator[None]:
    """Prefixes a LoraError with the file's name."""
    try:
        yield
    except LoraError as e:
        raise LoraError(f"{file.name}: {e}") from None


def _settings(loras_dir: Path | None) -> Settings:
    """Raises StartError for invalid settings."""
    from server.served import check_folders
    from server.settings import Settings

    settings = Settings.load(loras_dir=loras_dir)
    check_folders(settings)
    return settings


@app.command("list")
def list_(loras_dir: LorasDir = None) -> None:
    """List the installed LoRAs by the names that requests use."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    with _plainly():
        settings = _settings(loras_dir)
        folder = settings.lora_folder
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("name", "made for", "rank", "alpha", "size"):
            table.add_column(column, no_wrap=column == "name", justify="right" if column == "size" else "left")
        for name in loras.installed(folder) if folder.is_dir() else []:
            table.add_row(escape(name), *_row(_installed(name, folder), settings.models_dir))
        console = Console()
        if not console.is_terminal:
            console = Console(width=160)
        console.print(table)
        console.print(f"LoRA folder: {escape(str(folder))}", highlight=False, soft_wrap=True)


@app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A file, a URL, or OWNER/NAME[/FILE] on the Hugging Face Hub."),
    ],
    name: Annotated[str | None, typer.Option(help="Name for the LoRA; the file's own by default.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Alpha, if it is missing or wrong in the file.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the file.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hugging Face Hub.")] = None,
    loras_dir: LorasDir = None,
) -> None:
    """Copy or download a LoRA into the folder. Pickled ones need COGVIDEOX_LORA_PICKLE=true."""
    with _plainly():
        if alpha is not None:
            lora_file.check_alpha(alpha)
        settings = _settings(loras_dir)
        folder, source = settings.lora_folder, loras.hub_name(source) or source
        if re.match(r"https?://", source, re.IGNORECASE):
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / (Path(unquote(urlsplit(source).path)).name or "lora")
                import asyncio

                asyncio.run(_download(source, file, settings))
                added = _add(file, settings, name, alpha, sha256, source)
        elif catalog.home(source).is_file():
            added = _add(catalog.home(source), settings, name, alpha, sha256, "")
        elif source.lower().endswith((loras.SUFFIX, *PICKLED)) and source.count("/") != 2:
            raise WeightsError(f"{source} is not there")
        else:
            files = _pull(source, settings, alpha, sha256, revision)
            for name in loras.installed(folder):
                if _installed(name, folder) in files:
                    typer.echo(name)
                    _warn(_installed(name, folder), settings.models_dir)
            return
        typer.echo(str(added.relative_to(folder).parent))
        _warn(added, settings.models_dir)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A safetensors file, or a name from the list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    loras_dir: LorasDir = None,
) -> None:
    """Show a LoRA's layout, rank, alpha and its source, base model and modules. Exit code 1 if it fits no model."""
    with _plainly():
        settings = _settings(loras_dir)
        path = _path(file, settings.lora_folder)
        with _about(path):
            found = describe(path, settings.models_dir)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for key, value in found.items():
            for line in value if isinstance(value, list) else [value]:
                typer.echo(f"{key + ':':<9} {line}")
    if "problem" in found:
        raise typer.Exit(1)


@app.command()
def remove(name: Name, loras_dir: LorasDir = None) -> None:
    """Delete a LoRA from the folder."""
    with _plainly():
        typer.echo(f"removed {loras.remove(name, _settings(loras_dir).lora_folder)}")


def describe(path: Path, models_dir: Path) -> dict[str, Any]:
    """The output of `inspect`. Raises LoraError for a file that is not a LoRA."""
    file = lora_file.read(path)
    about: dict[str, Any] = {
        "file": str(path),
        "size": f"{file.size / 2**20:.1f} MiB",
        "sha256": lora_file.digest(path),
    }
    fits, reasons = {}, {}
    for name, layers in _models(models_dir).items():
        try:
            fits[name] = lora_file.matched(file, layers)
        except LoraError as e:
            reasons[name] = str(e)
    if not fits:
        by_reason: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            by_reason.setdefault(reason, []).append(name)
        return {**about, "problem": [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]}
    found = next(iter(fits.values()))
    alpha = lora_file.alpha_of(file, found)
    ranks = sorted({part.rank for part in found.parts.values() if not part.is_whole})
    factors = sorted({alpha.values[module] / part.rank for module, part in found.parts.items()})
    kinds = {re.sub(r"^transformer_blocks\.\d+\.", "", module) for module in found.parts}
    blocks = {module.split(".")[1] for module in found.parts if module.startswith("transformer_blocks.")}
    doubts = lora_file.doubts(found, alpha)
    return {
        **about,
        "layout": found.layout,
        "kind": ", ".join(found.kinds),
        "rank": ", ".join(map(str, ranks)) or "none",
        "alpha": f"{_span(sorted(set(alpha.values.values())))} (from {alpha.source})",
        "factor": f"{_span(factors)} (alpha / rank, times a request's scale)",
        "base": ", ".join(fits),
        "modules": f"{len(found.parts)}: {', '.join(sorted(kinds))} of {len(blocks)} blocks",
        **({"note": doubts} if doubts else {}),
    }


def _models(models_dir: Path) -> Mapping[str, lora_layout.Layers]:
    """The layers of every published checkpoint, and of the other checkpoints in the models folder."""
    configs: dict[str, Mapping[str, Any]] = {}
    for name, checkpoint in catalog.CATALOG.items():
        if (config := checkpoint.configs.get("transformer")) is not None:
            configs[name] = {**config, "attention_head_dim": 64}
    for one in catalog.installed(models_dir):
        if one.name not in configs:
            with suppress(OSError, ValueError):
                configs[one.name] = json.loads((one.folder / "transformer" / "config.json").read_text("utf-8"))
    return {name: lora_layout.layers_of(config) for name, config in configs.items()}


def _row(path: Path, models_dir: Path) -> tuple[str, str, str, str]:
    try:
        found = describe(path, models_dir)
    except (LoraError, OSError) as e:
        found = {"problem": [str(e)]}
    from rich.markup import escape

    size = f"{path.stat().st_size / 2**20:.1f} MiB"
    if "problem" in found:
        return "none known: cogvideox lora inspect", "", "", size
    return escape(found["base"]), found["rank"], escape(found["alpha"]), size


def _warn(path: Path, models_dir: Path) -> None:
    """Prints the problems and notes that `inspect` has for a file that was just added."""
    with _about(path):
        found = describe(path, models_dir)
    for said in (*found.get("problem", ())[:1], *found.get("note", ())):
        fits = "it fits no model known here: " if "problem" in found else ""
        typer.echo(f"note: {fits}{said}", err=True)


def _span(values: list[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _path(named: str, folder: Path) -> Path:
    if catalog.home(named).is_file():
        return catalog.home(named)
    return _installed(named, folder)


def _installed(name: str, folder: Path) -> Path:
    if (found := loras.find(name, folder)) is None:
        raise WeightsError(loras.unknown(name, folder))
    return found


def _add(
    file: Path, settings: Settings, name: str | None, alpha: float | None, sha256: str | None, origin: str
) -> Path:
    _check_hash(file, sha256)
    with file.open("rb") as opened:
        kind = lora_file.kind_of(opened.read(lora_file.HEAD))
    wanted = name or re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-.") or "lora"
    with tempfile.TemporaryDirectory() as scratch:
        if kind == lora_file.PICKLE:
            if not settings.lora_pickle:
                raise WeightsError(f"{file.name} is {kind.name}; COGVIDEOX_LORA_PICKLE=true converts it")
            made = Path(scratch) / "made.safetensors"
            with _about(file):
                unpickle.convert(file, made)
            file = made
        elif kind is not None:
            raise WeightsError(f"{file.name} is {kind.name}, no LoRA; {kind.hint}")
        with _about(file):
            lora_file.content(file)
        return loras.add(file, settings.lora_folder, wanted, alpha, origin)


def _pull(source: str, settings: Settings, alpha: float | None, sha256: str | None, revision: str | None) -> list[Path]:
    """Downloads from the hub into a scratch folder and, after all checks, moves the files into place."""
    from rich.console import Console

    folder = settings.lora_folder
    with loras.beside(folder) as scratch:
        with Console(stderr=True).status("fetching"):
            there = loras.pull(source, scratch, max(settings.max_lora_bytes, 2**34), revision)
        found = [there] if there.is_file() else sorted(there.rglob(f"*{loras.SUFFIX}"))
        for one in found:
            _check_hash(one, sha256)
            lora_file.read(one)
        return [loras.settle(one, scratch, folder, alpha, source) for one in found]


def _check_hash(file: Path, sha256: str | None) -> None:
    if sha256 is not None and (found := lora_file.digest(file)) != sha256.lower():
        raise WeightsError(f"{file.name}: its SHA-256 is {found}, asked for was {sha256}")


async def _download(url: str, file: Path, settings: Settings) -> None:
    from server.media.outbound import DownloadFailed, Outbound

    outbound = Outbound()
    if settings.allow_private_urls:
        outbound = Outbound(lambda _: True)
    try:
        with file.open("wb") as opened:
            await outbound.save(url, max(settings.max_lora_bytes, 2**34), opened, SECONDS)
    except DownloadFailed as e:
        raise WeightsError(f"{url[:200]}: {e.message}") from None
    finally:
        await outbound.close()
