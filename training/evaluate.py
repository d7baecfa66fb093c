"""Measure the shipped demo model like a client: send held-out prompts to a server and judge the videos.

    python -m training.evaluate                 200 prompts and 50 unseen ones, with and without an image:
                                                        about an hour on two cores
    python -m training.evaluate --count 20      20 and 5

The requests are Segmind's two calls with their defaults: 49 frames, 45 steps, guidance 6, 720x480. The prompts are
sentences that training never uses; "unseen" prompts also name a combination of shape, colours and motion that training
never draws.
"""

import argparse
import base64
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from pipelines.video import read_video
from training.dataset import held_out
from training.judge import look
from training.shapes import Frames, Scene, render, sample_scene
from training.words import caption, reserved

SEED = 4
FRAMES, HEIGHT, WIDTH = 49, 64, 96
ROOT = Path(__file__).parent.parent
START_SECONDS, ANSWER_SECONDS = 120, 600


def asked(count: int, frames: int = FRAMES, *, unseen: bool = False) -> list[tuple[Scene, str]]:
    """Held-out prompts, all different, with their scenes."""
    rng = np.random.default_rng((SEED, unseen))
    chosen: dict[str, Scene] = {}
    while len(chosen) < count:
        scene = sample_scene(rng, frames)
        text = caption(scene, rng)
        if held_out(scene) is unseen and reserved(text):
            chosen.setdefault(text, scene)
    return [(scene, text) for text, scene in chosen.items()]


@dataclass
class Score:
    """The share of correct attributes; `overlap`: the overlap of each object with its ideal shape, 0..1 (see `Seen`).
    `psnr`: for image to video, the PSNR of each first frame against the given image, in dB.
    """

    right: list[tuple[bool, ...]] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, scene: Scene, clip: Frames) -> None:
        seen = look(clip)
        wanted = (scene.color, scene.background, scene.shape, scene.motion)
        found = (seen.color, seen.background, seen.shape, seen.motion)
        self.right.append(tuple(a == b for a, b in zip(wanted, found, strict=True)))
        self.overlap.append(seen.overlap)

    def __str__(self) -> str:
        parts = [100 * part for part in (*np.mean(self.right, axis=0), np.mean([all(r) for r in self.right]))]
        line = "colour {:.1f} %, background {:.1f} %, shape {:.1f} %, motion {:.1f} %, all four {:.1f} %".format(*parts)
        line += f" of {len(self.right)}, overlap {np.mean(self.overlap):.2f}, {np.median(self.seconds):.1f} s a video"
        return line + (f", first frame {np.mean(self.psnr):.1f} dB" if self.psnr else "")


def native(video: bytes, folder: Path) -> Frames:
    """The frames of an MP4 of any size, scaled down to the model's own size by averaging: uint8 [T, 64, 96, 3]."""
    (folder / "clip.mp4").write_bytes(video)
    frames = read_video(folder / "clip.mp4", max_frames=200, max_pixels=10**7, max_seconds=60).frames
    return np.stack([np.asarray(Image.fromarray(f).resize((WIDTH, HEIGHT), Image.Resampling.BOX)) for f in frames])


def measure(client: httpx.Client, prompts: list[tuple[Scene, str]], with_picture: bool, folder: Path) -> Score:
    score = Score()
    for seed, (scene, text) in enumerate(prompts):
        body: dict[str, object] = {"prompt": text, "seed": seed}
        truth = render(scene, HEIGHT, WIDTH)[0]
        if with_picture:
            file = io.BytesIO()
            Image.fromarray(truth).save(file, "PNG")
            body["image"] = base64.b64encode(file.getvalue()).decode()
        began = time.monotonic()
        answer = client.post(f"/v1/cog-video-5b-{'i2v' if with_picture else 't2v'}?response=binary", json=body)
        answer.raise_for_status()
        score.seconds.append(time.monotonic() - began)
        clip = native(answer.content, folder)
        score.add(scene, clip)
        if with_picture:
            error = np.square(clip[0].astype(float) - truth).mean()
            score.psnr.append(float(10 * np.log10(255**2 / max(error, 1e-3))))
    return score


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of a new server with the demo model. The server ignores settings in the environment and in a `.env` file
    in the working directory. Raises RuntimeError with the end of its log if it does not become ready.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-P", "-m", "server.cli", "serve", "--port", str(port), "--model", "demo,demo-i2v"]
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("COGVIDEOX_")}
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), clean.get("PYTHONPATH"))))
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, "--data-dir", "data"], stdout=log, stderr=log, cwd=folder, env=clean)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while not _ready(address):
            if process.poll() is not None or time.monotonic() > end:
                tail = (folder / "server.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the server did not start: {tail}")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate")
    count_help = "number of prompts; a quarter as many have unseen combinations; each runs with and without an image"
    parser.add_argument("--count", type=int, default=200, help=count_help)
    count = parser.parse_args(arguments).count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            server(folder) as address,
            httpx.Client(base_url=address, timeout=ANSWER_SECONDS, trust_env=False) as client,
        ):
            for with_picture in (False, True):
                for unseen in (False, True):
                    prompts = asked(max(1, count // 4) if unseen else count, unseen=unseen)
                    what = f"{'image' if with_picture else 'text'} to video{', unseen combinations' * unseen}"
                    print(f"{what}: {measure(client, prompts, with_picture, folder)}", flush=True)


if __name__ == "__main__":
    main()
