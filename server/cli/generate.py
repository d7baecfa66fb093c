"""`cogvideox generate` and `cogvideox replay`: the engine without a server.

Knows: options, batch files, the progress bar, where files go. Does not know: how a video is made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from pipelines.events import Finished, Log, Stage, Started, Step
from pipelines.models import ModelError
from pipelines.request import GenerationRequest, Lora, Media, RequestError, draw_seed
from server.errors import ServerError
from server.jobs.served import REAL_WEIGHTS, Served, choose
from server.settings import Settings
from weights.catalog import WeightsError

if TYPE_CHECKING:
    from pipelines.generate import Engine

console = Console(stderr=True)
WORDS = {"load": "loading", "encode": "reading the prompt", "denoise": "sampling", "decode": "decoding", "finish": ""}
# names in a batch file and on the command line -> GenerationRequest's
ALIASES = {"frames": "num_frames", "steps": "num_inference_steps", "interpolate": "interpolate_fps"}


class Usage(Exception):
    """A mistake of the person at the keyboard: one line, exit code 2."""


def fail(message: str, code: int = 2) -> typer.Exit:
    typer.echo(f"cogvideox: {message}", err=True)
    return typer.Exit(code)


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to show. Left out with --batch.")] = None,
    image: Annotated[Path | None, typer.Option(help="First frame (image-to-video).")] = None,
    video: Annotated[Path | None, typer.Option(help="Clip to remake (video-to-video).")] = None,
    model: Annotated[str | None, typer.Option(help="A name from `cogvideox weights list`, or a folder.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames in the file; the model's own count by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps (default 50).")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the prompt (default 6).")] = None,
    fps: Annotated[int | None, typer.Option(help="Frame rate stamped on the file.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT, e.g. 720x480.")] = None,
    fit: Annotated[Literal["auto", "crop", "pad"], typer.Option(help="How another shape is filled.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same video. Drawn when left out.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What not to show.")] = "",
    strength: Annotated[float | None, typer.Option(help="Video-to-video: 0 keeps the clip, 1 remakes it.")] = None,
    scheduler: Annotated[Literal["ddim", "dpm"] | None, typer.Option(help="The model's own by default.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="FILE.safetensors[:SCALE]; may be given again.")] = None,
    interpolate: Annotated[int | None, typer.Option(help="RIFE up to this frame rate, duration kept.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File (.mp4 .gif .webm), or a folder.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Videos to make, with seed, seed+1, ...")] = 1,
    batch: Annotated[Path | None, typer.Option(help="JSONL: one request a line; goes on where it stopped.")] = None,
    strict: Annotated[bool, typer.Option(help="Refuse what would have to be changed, instead of changing it.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.")] = None,
    memory: Annotated[str | None, typer.Option(help="auto, none, model, group, sequential.")] = None,
) -> None:
    """Make videos offline; nothing is contacted."""
    given: dict[str, Any] = {
        "image": image,
        "video": video,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "fps": fps,
        "size": size,
        "fit": fit,
        "seed": seed,
        "negative_prompt": negative_prompt,
        "strength": strength,
        "scheduler": scheduler,
        "loras": lora or [],
        "interpolate_fps": interpolate,
        "strict": strict,
    }
    try:
        settings = Settings.load(model=model, device=device, memory=memory)
        if batch is not None:
            jobs = list(_batch(batch, given, output))
        elif prompt is None:
            raise Usage("a prompt is needed, or --batch FILE")
        else:
            jobs = list(_several(_request(prompt, given, output), output, count))
        _run_all(jobs, settings, resume=batch is not None)
    except (Usage, RequestError, ServerError, WeightsError, ModelError) as e:
        raise fail(str(e)) from None
    except KeyboardInterrupt:
        raise fail("stopped" + ("; the same command goes on from here" if batch else ""), 130) from None


def replay(
    file: Annotated[Path, typer.Argument(help="A video that this project made.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: FILE with .replay before the suffix")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="The picture it was made from, if it has moved.")] = None,
    video: Annotated[Path | None, typer.Option(help="The clip it was made from, if it has moved.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="LoRA files, in the order they were given.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the one in the manifest.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.")] = None,
    memory: Annotated[str | None, typer.Option(help="auto, none, model, group, sequential.")] = None,
) -> None:
    """Make the same video again from the manifest inside FILE."""
    from pipelines.video import ManifestError, read_manifest

    try:
        manifest = read_manifest(file)
        asked = dict(manifest["request"])
        beside = _beside(file)
        for name, path in (("image", image), ("video", video)):
            if asked.get(name) is not None:
                asked[name] = _same_media(name, asked[name]["sha256"], path or beside.get(name))
        paths = lora or beside.get("loras") or []
        if len(paths) < len(asked.get("loras") or []):
            raise Usage("this video was made with a LoRA; give its file with --lora")
        asked["loras"] = [
            {"path": _lora(str(p)).path, "scale": one["scale"]} for one, p in zip(asked["loras"], paths, strict=False)
        ]
        request = GenerationRequest.from_dict(asked)
        settings = Settings.load(model=model or manifest["model"]["name"], device=device, memory=memory)
        target = output or file.with_name(f"{file.stem}.replay{file.suffix}")
        _run_all([(request, target)], settings, resume=False)
    except (ManifestError, KeyError, TypeError) as e:
        raise fail(f"{file}: {e if isinstance(e, ManifestError) else 'its manifest is not one of ours'}") from None
    except (Usage, RequestError, ServerError, WeightsError, ModelError) as e:
        raise fail(str(e)) from None
    except KeyboardInterrupt:
        raise fail("stopped", 130) from None
    same = target.read_bytes() == file.read_bytes()
    typer.echo("byte for byte the same file" if same else "not the same bytes: " + _difference(manifest, target))


def _difference(manifest: dict[str, Any], target: Path) -> str:
    from pipelines.video import read_manifest

    now = read_manifest(target)
    changed = [
        f"{name} was {json.dumps(manifest.get(name))}, is {json.dumps(now.get(name))}"
        for name in ("model", "device", "dtype", "vae_tiling", "versions")
        if manifest.get(name) != now.get(name)
    ]
    return "; ".join(changed) or "the machine differs, or the file was edited"


def _same_media(name: str, sha256: str, path: str | Path | None) -> dict[str, str]:
    if path is None or not Path(path).is_file():
        raise Usage(f"this video was made from a{'n' if name == 'image' else ''} {name}; give it with --{name}")
    media = Media.of(Path(path))
    if media.sha256 != sha256:
        raise Usage(f"{path} is not the {name} this video was made from (its SHA-256 differs)")
    return {"path": media.path, "sha256": media.sha256}


def _beside(file: Path) -> dict[str, Any]:
    """Where the inputs lay when FILE was made, by the JSON beside it; nothing if there is none."""
    try:
        found = json.loads(file.with_suffix(file.suffix + ".json").read_text("utf-8"))["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _request(prompt: str, given: dict[str, Any], output: Path | None) -> GenerationRequest:
    """A request from options or a batch line. Raises Usage naming the field."""
    values = {k: v for k, v in given.items() if k != "size"}
    if given.get("size") is not None:
        try:
            width, height = str(given["size"]).lower().split("x")
            values |= {"width": int(width), "height": int(height)}
        except ValueError:
            raise Usage(f"size: must be WIDTHxHEIGHT in pixels, e.g. 720x480, got {given['size']!r}") from None
    for name in ("image", "video"):
        if values.get(name) is not None:
            path = Path(str(values[name])).expanduser()
            if not path.is_file():
                raise Usage(f"{name}: {path} is not a file")
            values[name] = Media.of(path)
    values["loras"] = tuple(_lora(str(one)) for one in values.get("loras") or ())
    if output is not None and output.suffix:
        values["output_format"] = _format_of(output)
    try:
        return GenerationRequest(prompt=prompt, **values)
    except TypeError as e:
        raise Usage(str(e)) from None


def _lora(text: str) -> Lora:
    path, scale = text, 1.0
    head, _, tail = text.rpartition(":")
    if head and not Path(text).exists():
        try:
            path, scale = head, float(tail)
        except ValueError:
            raise Usage(f"lora: must be FILE.safetensors[:SCALE], got {text!r}") from None
    if not Path(path).expanduser().is_file():
        raise Usage(f"lora: {path} is not a file")
    return Lora(str(Path(path).expanduser()), scale)


def _format_of(path: Path) -> Any:
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in ("mp4", "gif", "webm"):
        raise Usage(f"output: {path.name} must end in .mp4, .gif or .webm")
    return suffix


def _several(request: GenerationRequest, output: Path | None, count: int) -> Iterator[tuple[GenerationRequest, Path]]:
    """`count` requests with seed, seed+1, ... and a file each."""
    seed = draw_seed() if request.seed is None else request.seed
    folder = output if output is not None and not output.suffix else Path("outputs")
    for i in range(count):
        if output is not None and output.suffix:
            path = output if count == 1 else output.with_name(f"{output.stem}-{i + 1}{output.suffix}")
        else:
            path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{seed + i}.{request.output_format}"
        yield replace(request, seed=seed + i), path


def _batch(file: Path, given: dict[str, Any], output: Path | None) -> Iterator[tuple[GenerationRequest, Path]]:
    """The requests of a JSONL file; a line's own values win over options. Files are named by line number."""
    if output is not None and output.suffix:
        raise Usage("output: with --batch it must be a folder")
    folder = output or file.with_suffix("")
    known = {f.name for f in fields(GenerationRequest)} | {"size", "output"} | set(ALIASES)
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise Usage(f"batch: {file} cannot be read: {e}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as e:
            raise Usage(f"{file}:{number}: not JSON: {e}") from None
        if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
            raise Usage(f'{file}:{number}: must be an object with a "prompt"')
        unknown = sorted(set(values) - known)
        if unknown:
            raise Usage(f"{file}:{number}: unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")
        values = {ALIASES.get(k, k): v for k, v in values.items()}
        path = folder / str(values.pop("output", f"{number:04}.mp4"))
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise Usage(f"output: must stay inside the folder {folder}")
            if not isinstance(values.get("loras", []), list):
                raise Usage("loras: must be a list of FILE.safetensors[:SCALE]")
            request = _request(values.pop("prompt"), given | values, path)
            _check_types(request)
        except (Usage, RequestError) as e:
            raise Usage(f"{file}:{number}: {e}") from None
        yield request, path


def _check_types(request: GenerationRequest) -> None:
    """A JSON line may hold anything; the command line's own parser has checked options already."""
    numbers = ("num_frames", "width", "height", "fps", "interpolate_fps", "num_inference_steps", "seed")
    for name in numbers:
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise RequestError(name, f"must be an integer, got {value!r}")
    for name in ("guidance_scale", "strength"):
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RequestError(name, f"must be a number, got {value!r}")
    for name, allowed in (("fit", ("auto", "crop", "pad")), ("scheduler", (None, "ddim", "dpm"))):
        if getattr(request, name) not in allowed:
            raise RequestError(name, f"must be one of {', '.join(str(a) for a in allowed if a)}")
    if not isinstance(request.negative_prompt, str):
        raise RequestError("negative_prompt", "must be text")


def _done(request: GenerationRequest, path: Path) -> bool:
    """Whether `path` already holds this request's video (of whatever seed, if none was asked for)."""
    from pipelines.video import ManifestError, read_manifest

    if not path.is_file():
        return False
    try:
        made = dict(read_manifest(path)["request"])
    except (ManifestError, KeyError, TypeError):
        return False
    asked = request.to_dict()
    for name in ("image", "video"):
        if asked[name] is not None:
            asked[name] = {"sha256": asked[name]["sha256"]}
    asked["loras"] = [{"file": Path(one.path).name, "scale": one.scale} for one in request.loras]
    if asked["seed"] is None:
        asked["seed"] = made.get("seed")
    return bool(json.loads(json.dumps(asked)) == made)


def _run_all(jobs: list[tuple[GenerationRequest, Path]], settings: Settings, *, resume: bool) -> None:
    served = choose(settings)
    for request, path in jobs:
        served.model_for(request.task)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise Usage(f"output: {path.parent} cannot be made: {e.strerror}") from None
    waiting = [(r, p) for r, p in jobs if not (resume and _done(r, p))]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} are done already")
    if not waiting:
        return
    from pipelines.generate import Engine, GenerationError  # torch comes with it: only now

    try:
        engine = Engine(served.folders, served.devices[0], settings.memory, settings.rife_weights)
    except GenerationError as e:
        raise Usage(str(e)) from None
    if served.is_demo and settings.model is None:
        console.print(REAL_WEIGHTS, style="yellow", highlight=False)
    failed = 0
    for request, path in waiting:
        try:
            _run(engine, replace(request, seed=draw_seed() if request.seed is None else request.seed), served, path)
        except RequestError as e:
            if len(jobs) == 1:
                raise
            typer.echo(f"cogvideox: {path.name}: {e}", err=True)
            failed += 1
    if failed:
        raise typer.Exit(1)


def _run(engine: Engine, request: GenerationRequest, served: Served, path: Path) -> None:
    from pipelines.generate import GenerationError
    from pipelines.video import EncodeError

    began = time.time()
    finished: Finished | None = None
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"), console=console, transient=True,
    ) as bar:  # fmt: skip
        row = bar.add_task("loading", total=None, eta="")
        try:
            for event in engine.run(request, served.model_for(request.task).name):
                match event:
                    case Stage(name):
                        bar.update(row, description=WORDS[name], eta="")
                    case Step(step, steps, eta):
                        bar.update(row, total=steps, completed=step, eta=f"{eta:.0f} s left")
                    case Log(message, level):
                        bar.console.print(message, style="yellow" if level == "WARN" else "dim", highlight=False)
                    case Finished():
                        finished = event
                    case Started():
                        pass
        except (GenerationError, EncodeError) as e:
            mine = isinstance(e, GenerationError) and e.code in ("model_error", "media_error")
            raise fail(f"{path.name}: {e}", 2 if mine else 1) from None
    if finished is None:
        raise fail(f"{path.name}: the engine ended without a video", 1)
    _write(path, finished, request, began)
    seconds = sum(finished.timings.values())
    typer.echo(
        f"{path}  {finished.frames} frames {finished.width}x{finished.height} at {finished.fps} fps,"
        f" seed {request.seed}, {seconds:.1f} s"
    )


def _write(path: Path, finished: Finished, request: GenerationRequest, began: float) -> None:
    """The video, its poster (.jpg) and the manifest with times (.json) beside it; the video last and at once."""
    beside = {
        **finished.manifest,
        "file": path.name,
        "inputs": {
            "image": request.image and request.image.path,
            "video": request.video and request.video.path,
            "loras": [one.path for one in request.loras],
        },
        "started_at": round(began, 3),
        "finished_at": round(time.time(), 3),
        "timings": finished.timings,
        "memory": finished.memory,
    }
    try:
        path.with_suffix(path.suffix + ".jpg").write_bytes(finished.poster)
        path.with_suffix(path.suffix + ".json").write_text(json.dumps(beside, indent=2) + "\n", "utf-8")
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(finished.video)
        part.replace(path)
    except OSError as e:
        raise Usage(f"output: {path} cannot be written: {e.strerror}") from None
