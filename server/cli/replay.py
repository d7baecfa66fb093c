"""`cogvideox replay`: makes a video again from the manifest in its file.

Knows: options, the paths of a video's inputs, possible differences. Does not know: how a video is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.request import GenerationRequest, RequestError
from server.cli import arguments
from server.cli.arguments import Job, Usage
from server.cli.common import fail
from server.cli.generate import DEVICE, MEMORY, OVERWRITE, run_all
from weights.catalog import WeightsError


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A video that this project made.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="File or folder. [default: FILE with .replay before the suffix]"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
    image: Annotated[
        Path | None, typer.Option(help="The image that the video was made from, if the image was moved.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="The clip that the video was made from, if the clip was moved.")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="LoRA files, in the original order.")] = None,
    upscaler: Annotated[Path | None, typer.Option(help="The upscaler's file, if one was used.")] = None,
    model: Annotated[str | None, typer.Option(help="Use another model than the manifest names.")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE)] = None,
    memory: Annotated[str | None, typer.Option(help=MEMORY)] = None,
) -> None:
    """Make the same video again from the manifest inside FILE."""
    from pipelines.models import ModelError
    from pipelines.video import ManifestError, check_format, read_manifest
    from server.errors import ServerError
    from server.settings import Settings

    try:
        target = _target(file, output)
        if not file.is_file():
            raise Usage(f"{file} is {'not a file' if file.exists() else 'not there'}")
        manifest = read_manifest(file)
        check_format(manifest)
        wanted = dict(manifest["request"])
        lay = arguments.beside(file)
        for name, path in (("image", image), ("video", video)):
            if wanted.get(name) is not None:
                wanted[name] = arguments.same_media(name, wanted[name]["sha256"], path or lay.get(name))
        paths = lora or lay.get("loras") or []
        if len(paths) < len(wanted["loras"]):
            raise Usage("this video was made with a LoRA; give its file with --lora")
        wanted["loras"] = [
            {"path": arguments.to_lora(str(p)).path, "scale": one["scale"], "alpha": one.get("alpha")}
            for one, p in zip(wanted["loras"], paths, strict=False)
        ]
        request = GenerationRequest.from_dict(wanted)
        if target.resolve() == file.resolve():
            raise Usage(f"--output: {target} is the video itself")
        settings = Settings.load(
            model=model or _models(manifest),
            device=device,
            memory=memory,
            upscaler=upscaler,
            names={} if model else {"model": "the video's model"},
        )
        run_all([Job(request, target)], settings, resume=False, overwrite=overwrite)
    except ManifestError as e:
        raise fail(f"{file}: {str(e).removeprefix(f'{file.name} ')}") from None
    except (KeyError, TypeError):
        raise fail(f"{file}: its manifest was not written by this project") from None
    except RequestError as e:
        raise fail(f"{arguments.flag(e.field)}: {e.message}") from None
    except (Usage, ServerError, WeightsError, ModelError) as e:
        raise fail(str(e)) from None
    except KeyboardInterrupt:
        raise fail("stopped", 130) from None
    same = target.read_bytes() == file.read_bytes()
    typer.echo("byte for byte the same file" if same else "not the same bytes: " + _difference(manifest, target))


def _target(file: Path, output: str | None) -> Path:
    again = file.with_name(f"{file.stem}.replay{file.suffix}")
    if output is None:
        return again
    given = arguments.Target.of(output)
    if given.is_folder:
        return given.path / again.name
    if given.path.suffix.lower() != file.suffix.lower():
        raise Usage(
            f"--output: {given.path.name} must end in {file.suffix} as the video does, or in / if it is a folder"
        )
    return given.path


def _models(manifest: dict[str, Any]) -> str:
    """The models that made the video, as a value of COGVIDEOX_MODEL."""
    return ",".join(dict.fromkeys(manifest[k]["name"] for k in ("model", "extender") if k in manifest))


def _difference(manifest: dict[str, Any], target: Path) -> str:
    from pipelines.video import read_manifest

    now = read_manifest(target)
    changed = [
        f"{name} was {json.dumps(manifest.get(name))}, is {json.dumps(now.get(name))}"
        for name in ("model", "extender", "interpolator", "upscaler", "device", "dtype", "vae_tiling", "versions")
        if manifest.get(name) != now.get(name)
    ]
    return "; ".join(changed) or "the machine differs, or the file was edited"
