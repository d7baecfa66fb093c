"""Segmind's sample request on the CPU: our server over HTTP against a plain diffusers script on the same checkpoint.

    python -m benchmarks.http_vs_plain                           49 frames, 45 steps, guidance 6, on the demo model
    python -m benchmarks.http_vs_plain --steps 25 --frames 17    about the minimum of Segmind's schema

Two processes run all the time: `cogvideox serve`, which gets requests like those of Segmind's clients, and
`benchmarks.plain_process`. The first request to each process loads the model and is not counted. Then the two processes
take turns: ours, plain, plain, ours. Meanwhile the other process is idle. Segmind's videos are 720x480. If the model's
videos are smaller, both sides enlarge them: our server by itself, and the plain script with `PIL.ImageOps.fit`.
Afterwards, while a generation runs, jobs are submitted through fal's queue and polled, to measure how soon the server
reports them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.export import how_encoded
from pipelines.video import VideoWriter, read_video
from weights import catalog

ROOT = Path(__file__).resolve().parent.parent
ENDPOINT = "/v1/cog-video-5b-t2v?response=binary"
QUEUE = "/queue/fal-ai/cogvideox-5b"
PROMPT = "a red circle moves left"
NEGATIVE = "low quality, blurry"
SEED = 806286757407563
FPS = 8
POLLS = 50
SAMPLING = 0.1  # seconds between two readings of the memory
IDLE = 2.0  # seconds after which a kept connection may have been closed by the server
PATIENCE = 3600.0  # seconds for one video


class Failed(RuntimeError):
    """One of the two processes failed."""


class Tree:
    """A process and its descendants: their resident bytes, the peak, and CPU seconds. Shared pages count once for
    each process."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.peak = 0
        self._stop = threading.Event()

    def now(self) -> int:
        total = 0
        for one in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        return total

    def cpu_seconds(self) -> float:
        total = 0.0
        for one in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def __enter__(self) -> Tree:
        self.peak = self.now()
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLING):
            self.peak = max(self.peak, self.now())


class Server:
    """`cogvideox serve` with its own data folder, and one connection to it."""

    def __init__(self, model: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.log = folder / "server.log"
        self._output = self.log.open("wb")
        command = [sys.executable, "-m", "server.cli", "serve", "--port", str(port), "--device", "cpu"]
        command += ["--model", model, "--data-dir", str(folder / "data")]
        begin = time.perf_counter()
        self.process = _start(command, folder, stdout=self._output, stderr=self._output)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._asked = time.monotonic()
        self._until_ready()
        self.ready_seconds = time.perf_counter() - begin

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        if time.monotonic() - self._asked > IDLE:
            self.connection.close()  # the next request opens it again
        sent = None if body is None else json.dumps(body)
        self.connection.request(method, path, sent, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        code, content = answer.status, answer.read()
        self._asked = time.monotonic()
        return code, content

    def video(self, request: dict[str, Any]) -> bytes:
        """A Segmind request, whose response is the file."""
        body = {
            "prompt": request["prompt"],
            "negative_prompt": request["negative_prompt"],
            "input_frames": request["frames"],
            "steps": request["steps"],
            "guidance_scale": request["guidance_scale"],
            "frame_rate": request["fps"],
            "seed": request["seed"],
        }
        code, answer = self.ask("POST", ENDPOINT, body)
        if code != 200:
            raise Failed(f"the server answered {code}: {answer[:500].decode(errors='replace')}")
        return answer

    def close(self) -> None:
        self.connection.close()
        _end(self.process)
        self._output.close()

    def _until_ready(self) -> None:
        end = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health/ready")[0] == 200:
                    return
            self.connection.close()
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise Failed(f"the server did not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)


class Plain:
    """`benchmarks.plain_process`, with one line per request and response."""

    def __init__(self, model: str, folder: Path) -> None:
        self.log = folder / "plain.log"
        self._errors = self.log.open("wb")
        begin = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.plain_process", model]
        self.process = _start(command, folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        self.load_seconds = float(self._read()["load_seconds"])
        self.ready_seconds = time.perf_counter() - begin

    def video(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.process.stdin is None:
            raise Failed("the plain process has no input")
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        _end(self.process)
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout is not None else b""
        if not line:
            self.close()
            raise Failed(f"the plain process ended: {self.log.read_text(errors='replace')[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        return said


def _start(command: list[str], folder: Path, **streams: Any) -> subprocess.Popen[bytes]:
    """Start a process that sees neither the `.env` of the current folder nor any COGVIDEOX_* variable."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COGVIDEOX_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def polls(server: Server, steps: int, count: int) -> dict[str, Any]:
    """Seconds from submitting a job to fal's queue to its first status response, while a generation runs."""
    both: list[float] = []
    status: list[float] = []
    codes: set[int] = set()
    spoilt = 0
    running = None
    while len(both) < count and spoilt < count:
        if running is None:
            running = _submit(server, steps)
            _until_working(server, running)
        begin = time.perf_counter()
        job = _submit(server, steps)
        asked = time.perf_counter()
        code, _ = server.ask("GET", f"{QUEUE}/requests/{job}/status")
        done = time.perf_counter()
        server.ask("PUT", f"{QUEUE}/requests/{job}/cancel")
        if _state(server, running) != "IN_PROGRESS":
            running, spoilt = None, spoilt + 1  # that generation has ended, so the server was not busy
            continue
        both.append(done - begin)
        status.append(done - asked)
        codes.add(code)
    if running is not None:
        server.ask("PUT", f"{QUEUE}/requests/{running}/cancel")
    return {
        "polls": len(both),
        "codes": sorted(codes),
        "submit_to_status_seconds": _spread(both),
        "status_seconds": _spread(status),
        "left_out": spoilt,
    }


def _submit(server: Server, steps: int) -> str:
    body = {"prompt": PROMPT, "num_inference_steps": steps, "seed": SEED, "use_rife": False, "export_fps": FPS}
    code, answer = server.ask("POST", QUEUE, body)
    if code != 200:
        raise Failed(f"fal's queue answered {code}: {answer[:500].decode(errors='replace')}")
    return str(json.loads(answer)["request_id"])


def _state(server: Server, job: str) -> str:
    return str(json.loads(server.ask("GET", f"{QUEUE}/requests/{job}/status")[1])["status"])


def _until_working(server: Server, job: str) -> None:
    end = time.monotonic() + 60
    while _state(server, job) == "IN_QUEUE" and time.monotonic() < end:
        time.sleep(0.02)


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)
    return {
        "p50": statistics.median(ordered),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "max": ordered[-1],
    }


def frames_of(file: Path) -> NDArray[np.uint8]:
    return read_video(file, max_frames=1000, max_pixels=1920 * 1088, max_seconds=300).frames


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float | None:
    """PSNR in dB; None for clips of different shapes, infinite for equal clips."""
    if a.shape != b.shape:
        return None
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def same_frames(mine: Path, theirs: Path, raw: Path, folder: Path) -> dict[str, Any]:
    """Compare the two files, which have different encoders; and check whether the plain pipeline's frames, after our
    resize and our encoder, equal those of our file bit for bit."""
    import torch

    from pipelines.frames.fit import fit

    a, b, made = frames_of(mine), frames_of(theirs), np.load(raw)
    height, width = a.shape[1:3]
    fitted = fit(torch.from_numpy(made).permute(0, 3, 1, 2), width, height, "crop")
    through = folder / "through-our-encoder.mp4"
    with VideoWriter(through, width, height, FPS, "mp4", {}) as writer:
        writer.write(fitted.permute(0, 2, 3, 1).contiguous().numpy())
    found = psnr(a, b)
    return {
        "ours": list(a.shape),
        "plain": list(b.shape),
        "the_model_s_own": list(made.shape),
        "psnr_db": "infinite" if found == math.inf else found,
        "equal_through_one_encoder": bool(np.array_equal(frames_of(through), a)),
        "frames_std": float(made.std()),
        "bytes": {"ours": mine.stat().st_size, "plain": theirs.stat().st_size},
    }


@contextlib.contextmanager
def both_sides(model: str, folder: Path) -> Iterator[tuple[Server, Plain]]:
    with contextlib.ExitStack() as ends:
        server = Server(model, folder)
        ends.callback(server.close)
        plain = Plain(model, folder)
        ends.callback(plain.close)
        yield server, plain


def measure(model: str, steps: int, frames: int, guidance: float) -> dict[str, Any]:
    request: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "steps": steps,
        "frames": frames,
        "guidance_scale": guidance,
        "seed": SEED,
        "fps": FPS,
    }
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    with tempfile.TemporaryDirectory(prefix="first-light-") as scratch:
        folder = Path(scratch)
        mine, theirs, raw = folder / "ours.mp4", folder / "plain.mp4", folder / "plain.npy"
        with both_sides(model, folder) as (server, plain):
            trees = {"ours": Tree(server.process.pid), "plain": Tree(plain.process.pid)}

            def go(side: str, given: dict[str, Any]) -> dict[str, float]:
                before = trees[side].cpu_seconds()
                begin = time.perf_counter()
                with trees[side]:
                    if side == "ours":
                        mine.write_bytes(server.video(given))
                    else:
                        plain.video(given | {"file": str(theirs)})
                    seconds = time.perf_counter() - begin
                spent = trees[side].cpu_seconds() - before
                return {"seconds": seconds, "cpu_seconds": spent, "peak_rss_bytes": trees[side].peak}

            first = {"ours": go("ours", request | {"steps": 25})}
            request["size"] = [int(side) for side in frames_of(mine).shape[2:0:-1]]
            first["plain"] = go("plain", request | {"steps": 25})
            idle = {side: one.now() for side, one in trees.items()}
            for side in ("ours", "plain", "plain", "ours"):
                runs[side].append(go(side, request))
                print(f"{side}: {runs[side][-1]['seconds']:.2f} s", flush=True)
            plain.video(request | {"file": str(theirs), "raw": str(raw)})
            same = same_frames(mine, theirs, raw, folder)
            waiting = polls(server, steps, POLLS)
            load = {
                "ours": {"ready_seconds": server.ready_seconds, "first_request": first["ours"]},
                "plain": {
                    "ready_seconds": plain.ready_seconds,
                    "of_it_from_pretrained": plain.load_seconds,
                    "first_request": first["plain"],
                },
            }
    seconds = {side: statistics.median(one["seconds"] for one in done) for side, done in runs.items()}
    spent = {side: statistics.median(one["cpu_seconds"] for one in done) for side, done in runs.items()}
    peak = {side: max(one["peak_rss_bytes"] for one in done) for side, done in runs.items()}
    return {
        "request": request,
        "order": ["ours", "plain", "plain", "ours"],
        "runs": runs,
        "seconds": seconds,
        "ratio_seconds": seconds["plain"] / seconds["ours"],
        "cpu_seconds": spent,
        "ratio_cpu_seconds": spent["plain"] / spent["ours"],
        "peak_rss_bytes": peak,
        "ratio_peak_rss": peak["plain"] / peak["ours"],
        "rss_bytes_after_loading": idle,
        "load": load,
        "same": same,
        "queue": waiting,
    }


def row(result: dict[str, Any]) -> dict[str, str]:
    found = result["found"]
    asked, queue, same = found["request"], found["queue"]["submit_to_status_seconds"], found["same"]
    quality, size = same["psnr_db"], "x".join(map(str, asked["size"]))
    return {
        "date": result["date"],
        "device": f"CPU: {result['machine']['cpu']}, {result['machine']['cores']} cores",
        "request": f"{result['model']}, {asked['frames']} frames {size}, {asked['steps']} steps",
        "seconds plain / ours": f"{found['seconds']['plain']:.2f} / {found['seconds']['ours']:.2f}",
        "ratio": report.ratio(found["ratio_seconds"]),
        "CPU seconds plain / ours": f"{found['cpu_seconds']['plain']:.1f} / {found['cpu_seconds']['ours']:.1f}",
        "peak RSS plain / ours": " / ".join(report.gib(found["peak_rss_bytes"][side]) for side in ("plain", "ours")),
        "PSNR of the files": f"{quality:.1f} dB" if isinstance(quality, float) else str(quality or "not comparable"),
        "same frames": "yes" if same["equal_through_one_encoder"] else "no",
        f"submit to first status, p50 of {found['queue']['polls']}": report.seconds(queue["p50"] if queue else None),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if both sides made the same frames."""
    parser = argparse.ArgumentParser(prog="benchmarks.http_vs_plain", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="demo", help="a checkpoint's name or folder")
    parser.add_argument("--steps", type=int, default=45, choices=range(25, 51), metavar="25..50")
    parser.add_argument("--frames", type=int, default=49, choices=range(16, 61), metavar="16..60")
    parser.add_argument("--guidance", type=float, default=6.0)
    given = parser.parse_args(arguments)
    folder = catalog.find(given.model, catalog.default_models_dir())
    if folder is None:
        print(f"the checkpoint {given.model} is not installed", file=sys.stderr)
        return 2
    machine, begin = report.machine(), time.monotonic()
    name = given.model if given.model in catalog.CATALOG else folder.name
    try:
        found = measure(str(folder.resolve()), given.steps, given.frames, given.guidance)
    except Failed as e:
        print(e, file=sys.stderr)
        return 1
    result = {
        "what": "Segmind's sample request: our server over HTTP against a plain diffusers script, on the CPU",
        "date": report.today(),
        "model": name,
        "machine": machine,
        "versions": report.versions(),
        "encoding": how_encoded(),
        "found": found,
        "seconds": time.monotonic() - begin,
    }
    path = report.save(f"first-light-{name}", "cpu", result, row(result))
    print(report.table(row(result)), end="")
    print(f"written to {path}")
    same = found["same"]
    return 0 if same["equal_through_one_encoder"] and same["ours"] == same["plain"] else 1


if __name__ == "__main__":
    sys.exit(main())
