"""`cogvideox generate` and `cogvideox replay`: the engine without a server.

Knows: options, batch files, where files go. Does not know: how a video is made.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from pipelines import environment
from pipelines.events import Finished, Log, Progress, Stage
from pipelines.models import ModelError
from pipelines.request import Fit, GenerationRequest, RequestError, Task, draw_seed
from server.cli import asked
from server.cli.asked import Job, Usage
from server.cli.progress import Display
from server.errors import ServerError
from server.jobs.prompts import helper_of
from server.jobs.served import REAL_WEIGHTS, Served, check_rife, check_upscaler, choose
from server.settings import Settings
from weights.catalog import WeightsError

if TYPE_CHECKING:
    from pipelines.generate import Engine

console = Console(stderr=True)


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
    fit: Annotated[Fit, typer.Option(help="How another shape is filled.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same video. Drawn when left out.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What not to show.")] = "",
    strength: Annotated[float | None, typer.Option(help="Video-to-video: 0 keeps the clip, 1 remakes it.")] = None,
    scheduler: Annotated[Literal["ddim", "dpm"] | None, typer.Option(help="The model's own by default.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="FILE.safetensors[:SCALE] or an installed NAME[:SCALE]; may be given again."),
    ] = None,
    extend: Annotated[bool, typer.Option(help="Longer than the model makes: go on from the last frame.")] = False,
    interpolate: Annotated[int | None, typer.Option(help="RIFE up to this frame rate, duration kept.")] = None,
    prompt_help: Annotated[
        bool, typer.Option("--prompt-help", help="Have the model at COGVIDEOX_PROMPT_HELP_URL reword the prompt first.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File (.mp4 .gif .webm), or a folder.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Videos to make, with seed, seed+1, ...")] = 1,
    batch: Annotated[Path | None, typer.Option(help="JSONL: one request a line; goes on where it stopped.")] = None,
    upscaler: Annotated[Path | None, typer.Option(help="Real-ESRGAN file for sizes above the model's.")] = None,
    strict: Annotated[bool, typer.Option(help="Refuse what would have to be changed, instead of changing it.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.")] = None,
    memory: Annotated[str | None, typer.Option(help="auto, none, model, group, sequential.")] = None,
) -> None:
    """Make videos offline; nothing is contacted but, with --prompt-help, the endpoint that you have set."""
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
        "extend": extend,
        "prompt_help": prompt_help,
        "strict": strict,
    }
    try:
        settings = Settings.load(model=model, device=device, memory=memory, upscaler=upscaler)
        if batch is not None:
            jobs = list(asked.batch(batch, given, output))
        elif prompt is None:
            raise Usage("a prompt is needed, or --batch FILE")
        else:
            jobs = list(asked.several(asked.to_request(prompt, given, output), output, count))
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
    upscaler: Annotated[Path | None, typer.Option(help="The upscaler's file, if one was used.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the one in the manifest.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.")] = None,
    memory: Annotated[str | None, typer.Option(help="auto, none, model, group, sequential.")] = None,
) -> None:
    """Make the same video again from the manifest inside FILE."""
    from pipelines.video import ManifestError, read_manifest

    try:
        manifest = read_manifest(file)
        wanted = dict(manifest["request"])
        lay = asked.beside(file)
        for name, path in (("image", image), ("video", video)):
            if wanted.get(name) is not None:
                wanted[name] = asked.same_media(name, wanted[name]["sha256"], path or lay.get(name))
        paths = lora or lay.get("loras") or []
        if len(paths) < len(wanted["loras"]):
            raise Usage("this video was made with a LoRA; give its file with --lora")
        wanted["loras"] = [
            {"path": asked.to_lora(str(p)).path, "scale": one["scale"], "alpha": one.get("alpha")}
            for one, p in zip(wanted["loras"], paths, strict=False)
        ]
        request = GenerationRequest.from_dict(wanted)
        settings = Settings.load(model=model or _models(manifest), device=device, memory=memory, upscaler=upscaler)
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


def _models(manifest: dict[str, Any]) -> str:
    """What made it, as COGVIDEOX_MODEL names it."""
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


def _run_all(jobs: list[Job], settings: Settings, *, resume: bool) -> None:
    served = choose(settings)
    for request, path in jobs:
        served.model_for(request.task)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise Usage(f"output: {path.parent} cannot be made: {e.strerror}") from None
    waiting = [(r, p) for r, p in jobs if not (resume and asked.is_done(r, p, served.model_for(r.task).name))]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} are done already")
    if not waiting:
        return
    helper = helper_of(settings)
    if helper is None and any(request.prompt_help for request, _ in waiting):
        raise Usage("prompt_help: set COGVIDEOX_PROMPT_HELP_URL and COGVIDEOX_PROMPT_HELP_MODEL")
    check_rife(settings)
    check_upscaler(settings)
    environment.prepare()
    try:
        from pipelines.errors import GenerationError
        from pipelines.generate import Engine  # torch comes with it: only now
    except (ImportError, OSError) as e:  # a library that torch needs is missing, or is another version
        raise Usage(f"PyTorch cannot be imported: {' '.join(str(e).split())}; run `make setup`") from None

    try:
        engine = Engine(served.folders, served.devices[0], settings.memory, served.rife_weights, settings.upscaler)
    except GenerationError as e:
        raise Usage(str(e)) from None
    for problem in served.problems:
        console.print(problem, style="yellow", highlight=False)
    if served.is_demo and settings.model is None:
        console.print(REAL_WEIGHTS, style="yellow", highlight=False)
    failed = 0
    better: dict[tuple[str, str], GenerationRequest] = {}  # several videos of one prompt ask once
    for request, path in waiting:
        if helper is not None and request.prompt_help and request.task is not Task.V2V:
            which = request.task, request.prompt
            if which not in better and (found := helper.better(request)) is not None:
                better[which] = found
            request = replace(
                request,
                prompt=better[which].prompt,
                asked_prompt=better[which].asked_prompt,
                prompt_note=better[which].prompt_note,
                prompt_help=False,
            )
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
    from pipelines.errors import GenerationError
    from pipelines.video import EncodeError

    began = time.time()
    finished: Finished | None = None
    with Display(console) as display:
        try:
            name = served.model_for(request.task).name
            for event in engine.run(request, name, progress=display.progress):
                match event:
                    case Stage(stage):
                        display.stage(stage)
                    case Progress():
                        display.progress(event)
                    case Log(message, level):
                        display.line(message, "yellow" if level == "WARN" else "dim")
                    case Finished():
                        finished = event
        except (GenerationError, EncodeError) as e:
            mine = isinstance(e, GenerationError) and e.code in ("model_error", "media_error")
            about = getattr(e, "field", None) or path.name
            raise fail(f"{about}: {e}", 2 if mine else 1) from None
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
