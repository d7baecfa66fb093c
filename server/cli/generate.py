"""`cogvideox generate`: the engine without a server.

Knows: options, batch files, output files. Does not know: how a video is made.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.engine_port import EngineSpec
from pipelines.events import Finished, Log, Progress, Stage
from pipelines.request import Fit, GenerationRequest, RequestError, Task, draw_seed
from server.cli import arguments, checks
from server.cli.arguments import Job, Usage
from server.cli.common import fail
from server.cli.progress import Display
from weights.catalog import WeightsError, default_models_dir

if TYPE_CHECKING:
    from pipelines.engine.generate import Engine
    from server.served import Served
    from server.settings import Settings

EXAMPLES = (
    'cogvideox generate "a red circle moves left on a blue background" -o circle.mp4',
    'cogvideox generate "it moves right" --image first.png --seed 7 -o from-image.mp4',
    'cogvideox generate "a yellow circle" --video circle.mp4 --strength 0.7 -o remade.mp4',
    "cogvideox generate --batch prompts.jsonl -o videos",
)
MODEL = "Name from `cogvideox weights list`, Hugging Face id, or folder."
DEVICE = "auto, cpu, cuda or cuda:N."
MEMORY = "auto, none, model, group or sequential."
UPSCALER = "Real-ESRGAN file for sizes above the model's own."
OVERWRITE = "Replace a file that exists."
# groups of options in the help
INPUT, VIDEO, SAMPLING, OUTPUT, MACHINE = "Input", "Video", "Sampling", "Output", "Machine"


def generate(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="What to show; not with --batch.")] = None,
    image: Annotated[Path | None, typer.Option(help="First frame (image-to-video).", rich_help_panel=INPUT)] = None,
    video: Annotated[Path | None, typer.Option(help="Clip to change (video-to-video).", rich_help_panel=INPUT)] = None,
    batch: Annotated[
        Path | None, typer.Option(help="JSONL file, one request per line; resumes.", rich_help_panel=INPUT)
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="What not to show.", rich_help_panel=INPUT)] = "",
    prompt_help: Annotated[
        bool,
        typer.Option(
            "--prompt-help", help="Rewrite the prompt first, at COGVIDEOX_PROMPT_HELP_URL.", rich_help_panel=INPUT
        ),
    ] = False,
    frames: Annotated[
        int | None, typer.Option(help="Frames in the file. [default: the model's]", rich_help_panel=VIDEO)
    ] = None,
    fps: Annotated[
        int | None, typer.Option(help="Frame rate of the file. [default: the model's]", rich_help_panel=VIDEO)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="WIDTHxHEIGHT, such as 720x480. [default: the model's]", rich_help_panel=VIDEO),
    ] = None,
    fit: Annotated[
        Fit, typer.Option(help="How a source or size of another shape is fitted.", rich_help_panel=VIDEO)
    ] = "auto",
    extend: Annotated[
        bool,
        typer.Option(
            "--extend",
            help="Make more frames than the model can at once: continue from the last frame.",
            rich_help_panel=VIDEO,
        ),
    ] = False,
    interpolate: Annotated[
        int | None,
        typer.Option(help="Raise the frame rate to this, same duration (RIFE).", rich_help_panel=VIDEO),
    ] = None,
    upscaler: Annotated[Path | None, typer.Option(help=UPSCALER, rich_help_panel=VIDEO)] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps, 1 to 1000. [default: 50]", rich_help_panel=SAMPLING)
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(help="How closely to follow the prompt, 0 to 100. [default: 6]", rich_help_panel=SAMPLING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed gives the same video. [default: random]", rich_help_panel=SAMPLING),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Video-to-video: 0 keeps the clip, 1 replaces it. [default: 0.8]", rich_help_panel=SAMPLING),
    ] = None,
    scheduler: Annotated[
        Literal["ddim", "dpm"] | None, typer.Option(help="[default: the model's]", rich_help_panel=SAMPLING)
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="FILE.safetensors[:SCALE] or an installed NAME[:SCALE]; can be repeated.", rich_help_panel=SAMPLING
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="File (.mp4, .gif, .webm) or folder.", rich_help_panel=OUTPUT
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE, rich_help_panel=OUTPUT)] = False,
    count: Annotated[
        int, typer.Option(min=1, max=10_000, help="Videos to make, with seed, seed+1, ...", rich_help_panel=OUTPUT)
    ] = 1,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse requests that would have to be adapted.", rich_help_panel=OUTPUT),
    ] = False,
    model: Annotated[str | None, typer.Option(help=MODEL, rich_help_panel=MACHINE)] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE, rich_help_panel=MACHINE)] = None,
    memory: Annotated[str | None, typer.Option(help=MEMORY, rich_help_panel=MACHINE)] = None,
) -> None:
    """Generate videos without a server. Works offline, except for --prompt-help."""
    from pipelines.models import ModelError
    from server.errors import ServerError
    from server.settings import Settings

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
        if batch is not None and prompt is not None:
            raise Usage("PROMPT: not with --batch, whose lines have their own")
        target = None if output is None else arguments.Target.of(output)
        if batch is not None:
            jobs = list(arguments.batch(batch, given, target))
        elif prompt is None:
            raise Usage("a prompt is needed, or --batch FILE")
        else:
            jobs = list(arguments.several(prompt, given, target, count))
        run_all(jobs, settings, resume=batch is not None, overwrite=overwrite)
    except RequestError as e:
        raise fail(f"{arguments.flag(e.field)}: {e.message}") from None
    except (Usage, ServerError, WeightsError, ModelError) as e:
        raise fail(str(e)) from None
    except KeyboardInterrupt:
        raise fail("stopped" + ("; the same command resumes" if batch else ""), 130) from None


def _say(message: str, style: str | None = None) -> None:
    """Prints one line to stderr without wrapping it, because stderr may be a log file."""
    from rich.console import Console

    Console(stderr=True).print(message, style=style, highlight=False, markup=False, soft_wrap=True)


def run_all(jobs: list[Job], settings: Settings, *, resume: bool, overwrite: bool) -> None:
    from server.served import check_rife, check_upscaler, choose
    from server.workers.prompt_help import helper_of

    served = choose(settings)
    jobs = checks.check_requests(jobs, served)
    waiting = [
        job
        for job in jobs
        if not (resume and arguments.is_done(job.request, job.path, served.model_for(job.request.task).name))
    ]
    if len(waiting) < len(jobs):
        _say(f"{len(jobs) - len(waiting)} of {len(jobs)} are done already")
    if not waiting:
        return
    helper = helper_of(settings)
    if helper is None:
        checks.prompt_help_is_set(waiting)
    checks.check_outputs(waiting, overwrite=overwrite, resume=resume)
    check_rife(settings)
    check_upscaler(settings)
    for problem in served.problems:
        _say(problem, "yellow")
    if served.is_demo and settings.model is None:
        _introduce_demo()
    engine = _engine(served, settings)
    failed = 0
    better: dict[tuple[str, str], GenerationRequest] = {}  # each prompt is rewritten once, also for several videos
    for job in waiting:
        request = job.request
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
        request = replace(request, seed=draw_seed() if request.seed is None else request.seed)
        try:
            _run(engine, request, served, job.path, overwrite or resume)
        except RequestError as e:
            if len(jobs) == 1:
                raise job.mistake(e.field, e.message) from None
            typer.echo(f"cogvideox: {job.mistake(e.field, e.message)}", err=True)
            failed += 1
    if failed:
        raise typer.Exit(1)


def _engine(served: Served, settings: Settings) -> Engine:
    from pipelines import environment

    environment.prepare()
    try:
        from pipelines.engine.generate import Engine  # slow: imports torch
        from pipelines.errors import GenerationError
    except (ImportError, OSError) as e:  # a library that torch needs is missing or has another version
        raise Usage(f"PyTorch cannot be imported: {' '.join(str(e).split())}; run `make setup`") from None
    spec = EngineSpec(served.folders, served.devices[0], settings.memory, served.rife_weights, settings.upscaler)
    try:
        return Engine(spec)
    except GenerationError as e:
        raise Usage(str(e)) from None


def _introduce_demo() -> None:
    """Tells each user once what the demo model is; later, only the line about the finished video mentions it."""
    seen = default_models_dir().parent / "demo-introduced"
    if seen.exists():
        return
    _say("This is the demo model: moving shapes only. For CogVideoX: cogvideox weights pull cogvideox-5b", "yellow")
    try:
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
    except OSError:
        pass  # the message appears again next time


def _run(engine: Engine, request: GenerationRequest, served: Served, path: Path, overwrite: bool) -> None:
    from rich.console import Console

    from pipelines.errors import GenerationError
    from pipelines.video import EncodeError

    console = Console(stderr=True)
    began = time.time()
    model = served.model_for(request.task)
    finished: Finished | None = None
    with Display(console) as display:
        try:
            for event in engine.run(request, model.name, progress=display.progress):
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
            field = getattr(e, "field", None)
            about = arguments.flag(field) if field else path.name
            raise fail(f"{about}: {e}", 2 if mine else 1) from None
    if finished is None:
        raise fail(f"{path.name}: the engine ended without a video", 1)
    if not overwrite and path.exists():
        path = checks.free_name(path)
    _write(path, finished, request, began)
    seconds = sum(finished.timings.values())
    typer.echo(
        f"{path}  {finished.frames} frames {finished.width}x{finished.height} at {finished.fps} fps,"
        f" seed {request.seed}, {seconds:.1f} s{', demo model' if model.is_demo else ''}"
    )


def _write(path: Path, finished: Finished, request: GenerationRequest, began: float) -> None:
    """Writes the poster (.jpg), the manifest with times (.json) and, last and atomically, the video."""
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
        part = checks.part_of(path)
        part.write_bytes(finished.video)
        part.replace(path)
    except OSError as e:
        raise Usage(f"--output: {path} cannot be written: {e.strerror}") from None
