"""Does a large file need much memory? Makes ten seconds at 60 frames per second, at 3840x2160 and at 720x480.

For each size, a separate process runs the engine on the demo model, and the memory of that process and of its ffmpeg is
measured. Frames are only resampled and repeated, so neither RIFE nor an upscaler is needed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report

SIZES = ((720, 480), (3840, 2160))
FRAME_BYTES = 3  # per pixel


def peak(pid: int | str) -> int:
    """The process's peak resident bytes so far; 0 if it has ended."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


class Encoder(threading.Thread):
    """Watches the child processes of this process; `peak` is the peak resident memory, in bytes, of the child that used
    most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.2):
            for child in psutil.Process().children(recursive=True):
                self.peak = max(self.peak, peak(child.pid))


def one(width: int, height: int, seconds: float, fps: int, steps: int) -> dict[str, Any]:
    """Make the clip in this process."""
    from pipelines import environment

    environment.prepare()
    from pipelines.engine.generate import Engine
    from pipelines.engine_port import EngineSpec
    from pipelines.events import Finished, Stage
    from pipelines.request import GenerationRequest
    from weights import catalog

    folder = catalog.find("demo", Path("nowhere"))
    if folder is None:
        raise FileNotFoundError("the demo model")
    request = GenerationRequest(
        "a red circle moves left",
        width=width,
        height=height,
        duration=seconds,
        fps=fps,
        num_inference_steps=steps,
        seed=1,
    )
    engine, encoder, sampled, finished = Engine(EngineSpec({"demo": folder}, "cpu")), Encoder(), 0, None
    encoder.start()
    begin = time.perf_counter()
    for event in engine.run(request, "demo"):
        if event == Stage("decode"):
            sampled, begin = peak("self"), time.perf_counter()
        if isinstance(event, Finished):
            finished = event
    encoder.done.set()
    if finished is None:
        raise RuntimeError("no video")
    return {
        "frames": finished.frames,
        "file_bytes": len(finished.video),
        "peak_before_decoding": sampled,
        "peak": peak("self"),
        "encoder_peak": encoder.peak,
        "seconds_after_sampling": round(time.perf_counter() - begin, 1),
        "all_frames_bytes": finished.frames * width * height * FRAME_BYTES,
    }


def mib(value: int) -> str:
    return f"{value / 2**20:.0f} MiB"


def row(result: dict[str, Any]) -> dict[str, str]:
    small, large = (result[f"{w}x{h}"] for w, h in SIZES)
    return {
        "clip": f"{result['seconds']:g} s at {result['fps']} fps",
        "engine's peak at 720x480": mib(small["peak"]),
        "at 3840x2160": mib(large["peak"]),
        "more": mib(large["peak"] - small["peak"]),
        "of it the file": mib(large["file_bytes"]),
        "all frames at once would be": mib(large["all_frames_bytes"]),
        "encoder's peak": f"{mib(small['encoder_peak'])} / {mib(large['encoder_peak'])}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--fps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="print the result and write no file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        width, height = map(int, given.one.split("x"))
        print(json.dumps(one(width, height, given.seconds, given.fps, given.steps)))
        return 0
    result: dict[str, Any] = {"seconds": given.seconds, "fps": given.fps, "steps": given.steps}
    for width, height in SIZES:
        size = f"{width}x{height}"
        options = ["--seconds", str(given.seconds), "--fps", str(given.fps), "--steps", str(given.steps)]
        command = [sys.executable, "-m", "benchmarks.stream_4k", "--one", size, *options]
        result[size] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        print(f"{size}: {result[size]}", flush=True)
    print(report.table(row(result)))
    if not given.dry:
        print(
            report.save(
                "stream-4k-demo",
                "cpu",
                {"machine": report.machine(), "versions": report.versions(), **result},
                row(result),
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
