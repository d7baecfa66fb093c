"""Kills the server's processes at random moments while it works, and checks the results.

The real server and its real worker make videos with the demo model; the worker, the API process or both are killed with
SIGKILL. At the end every job must have succeeded with exactly one video, which must be identical bit for bit to an
undisturbed server's video for the same request.

`python -m tests.rigs.soak --jobs 100` (`make soak`) also saves its findings with the benchmarks' results;
`test_faults.py` does the same with a few jobs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks import report
from tests.rigs import pace
from tests.rigs.clients.running import KEY, environment, free_port

VICTIMS = ("worker", "worker", "api", "both")
READY_SECONDS = 90
REFERENCE_SECONDS = 900
SPARED = 2  # how many times a worker may be killed during the same job; a third death would fail the job
KINDS: tuple[dict[str, Any], ...] = (
    {"prompt": "a red circle moves left", "seed": 1, "num_frames": 9, "num_inference_steps": 60, "size": "96x64"},
    {"prompt": "a blue square moves up", "seed": 2, "num_frames": 17, "num_inference_steps": 50, "size": "96x64"},
    {"prompt": "a green star turns", "seed": 3, "num_frames": 9, "num_inference_steps": 90, "size": "192x128"},
)


@dataclass
class Outcome:
    jobs: int = 0
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    surplus_films: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    continued: int = 0  # attempts that resumed from a snapshot
    attempts: int = 0
    seconds: float = 0.0


class Server:
    """The server's processes, which can be killed separately and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {"port": str(self.port), "data_dir": str(self.folder / "data"), "device": "cpu", "api_keys": KEY}
        settings |= {"models_dir": str(self.folder / "none"), "max_queue": "10000", "log_level": "info"}
        settings["keep_latents_mb"] = "0"  # if latents were saved, equal jobs would reuse them and not sample
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.cli", "serve"], env=environment(settings), stdout=log, stderr=log
            )
        until = time.monotonic() + pace.seconds(READY_SECONDS)
        while time.monotonic() < until:
            try:
                if self.ask("GET", "/health/live").status_code == 200:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text(errors="replace")[-3000:])

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            headers = {"authorization": f"Bearer {KEY}"}
            return session.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=60, **more)

    def workers(self) -> list[psutil.Process]:
        """The worker processes, without multiprocessing's resource tracker."""
        if self.process is None:
            return []
        try:
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        except psutil.Error:
            return []

    def kill(self, victim: str) -> None:
        workers = self.workers()
        if victim in ("api", "both") and self.process is not None:
            self.process.kill()
            self.process.wait()
        if victim in ("worker", "both"):
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
        if victim in ("api", "both"):
            self.start()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(pace.seconds(60))


def submitted(server: Server, count: int) -> dict[str, dict[str, Any]]:
    """Submits `count` jobs; returns video id -> request."""
    asked = {}
    for n in range(count):
        kind = KINDS[n % len(KINDS)]
        asked[server.ask("POST", "/v1/videos", json=kind).json()["id"]] = kind
    return asked


def statuses(server: Server) -> dict[str, str]:
    found: dict[str, str] = {}
    after = ""
    while True:
        page = server.ask("GET", f"/v1/videos?limit=100{after}").json()
        found |= {video["id"]: video["status"] for video in page["data"]}
        if not page["has_more"]:
            return found
        after = f"&after={page['last_id']}"


def film(server: Server, video_id: str) -> str:
    return hashlib.sha256(server.ask("GET", f"/v1/videos/{video_id}/content").content).hexdigest()


def ending(server: Server, video_id: str) -> str:
    video = server.ask("GET", f"/v1/videos/{video_id}").json()
    return f"{video_id} {video.get('status')}: {video.get('error')}"


def wait_until_at_work(server: Server) -> None:
    """Waits until a video is in progress or none is queued."""
    while True:
        found = statuses(server).values()
        if "in_progress" in found or "queued" not in found:
            return
        time.sleep(0.1)


def finish(server: Server, seconds: float) -> dict[str, str]:
    until = time.monotonic() + pace.seconds(seconds)
    while time.monotonic() < until:
        found = statuses(server)
        if all(status in ("completed", "failed") for status in found.values()):
            return found
        time.sleep(0.3)
    return statuses(server)


def references(folder: Path) -> dict[int, str]:
    """Maps each seed to the SHA-256 of its video from an undisturbed server."""
    folder.mkdir()
    server = Server(folder)
    server.start()
    try:
        asked = submitted(server, len(KINDS))
        found = finish(server, REFERENCE_SECONDS)
        if set(found.values()) != {"completed"}:
            raise RuntimeError(f"the undisturbed server did not make all videos for the comparison: {found}")
        return {kind["seed"]: film(server, video_id) for video_id, kind in asked.items()}
    finally:
        server.stop()


def run(folder: Path, jobs: int, victims: Sequence[str], gap: tuple[float, float], seed: int = 0) -> Outcome:
    """Kills `victims` one after the other, then lets the server finish. Before each kill, waits until a video is in
    progress, and then for a random time within `gap` (shortest and longest seconds, scaled to the machine)."""
    begin, chance, outcome, deaths = time.monotonic(), random.Random(seed), Outcome(jobs), Counter[str]()
    wanted = references(folder / "undisturbed")
    disturbed = folder / "disturbed"
    disturbed.mkdir()
    server = Server(disturbed)
    server.start()
    try:
        asked = submitted(server, jobs)
        for given in victims:
            wait_until_at_work(server)
            time.sleep(pace.seconds(chance.uniform(*gap)))
            hit = [one for one, status in statuses(server).items() if status == "in_progress"]
            victim = "api" if given == "worker" and max(map(deaths.__getitem__, hit), default=0) >= SPARED else given
            if victim == "worker":
                deaths.update(hit)
            server.kill(victim)
            outcome.kills[victim] = outcome.kills.get(victim, 0) + 1
        found = finish(server, 60 + 20 * jobs)
        outcome.lost = [ending(server, video_id) for video_id in asked if found.get(video_id) != "completed"]
        done = [video_id for video_id in asked if found.get(video_id) == "completed"]
        outcome.differing = [one for one in done if film(server, one) != wanted[asked[one]["seed"]]]
    finally:
        server.stop()
    outcome.surplus_films = len(list((disturbed / "data" / "artifacts").glob("*/video.mp4"))) - len(done)
    log = (disturbed / "log").read_text(errors="replace")
    outcome.attempts = log.count("job started")
    outcome.continued = log.count('"continued": true')
    outcome.seconds = time.monotonic() - begin
    return outcome


def saved(outcome: Outcome) -> Path:
    machine, kills = report.machine(), sum(outcome.kills.values())
    result = {
        "what": "processes of the server killed with SIGKILL at random moments, on the demo model and the CPU",
        "date": report.today(),
        "machine": machine,
        "versions": report.versions(),
        "found": asdict(outcome),
    }
    row = {
        "date": report.today(),
        "device": f"CPU: {machine['cpu']}, {machine['cores']} cores",
        "jobs": str(outcome.jobs),
        "kills": f"{kills} ({', '.join(f'{name} {count}' for name, count in sorted(outcome.kills.items()))})",
        "attempts": f"{outcome.attempts}, {outcome.continued} of them from a checkpoint",
        "lost": str(len(outcome.lost)),
        "duplicated": str(outcome.surplus_films),
        "equal to the bit": f"{outcome.jobs - len(outcome.lost) - len(outcome.differing)} of {outcome.jobs}",
        "duration": report.seconds(outcome.seconds),
    }
    return report.save("soak-demo", "cpu", result, row)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    victims = random.Random(given.seed).choices(VICTIMS, k=given.kills)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(Path(folder), given.jobs, victims, (0.0, 4.0), given.seed)
    print(outcome)  # noqa: T201
    print(f"written to {saved(outcome)}")  # noqa: T201
    if outcome.lost or outcome.differing or outcome.surplus_films:
        sys.exit(1)


if __name__ == "__main__":
    main()
