"""A client with a key of its own, in a separate process. It polls /health/live and sends small jobs until stdin closes.

`python -m tests.rigs.attacks.bystander HOST:PORT KEY [images]`; with `images` it also sends small images. Prints
one JSON object: the longest health check, job and image in seconds, the number of each, and the errors.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
from typing import Any

import requests
from PIL import Image

HEALTH_EVERY = 0.05  # seconds
LOOK_EVERY = 0.05  # seconds between two status calls for a job
GIVE_UP = 120.0  # seconds after which a call or a job counts as failed


def main(address: str, key: str, *more: str) -> None:
    stop = threading.Event()
    results: dict[str, Any] = {"errors": []}
    works = [_watch_health, _work, *([_send_images] if "images" in more else [])]
    threads = [threading.Thread(target=_guarded, args=(work, address, key, stop, results)) for work in works]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(results), flush=True)


def _guarded(work: Any, address: str, key: str, stop: threading.Event, results: dict[str, Any]) -> None:
    while not stop.is_set():
        try:
            work(address, key, stop, results)
        except Exception as e:
            results["errors"].append(f"{work.__name__}: {type(e).__name__}: {e}"[:300])
            time.sleep(0.2)


def _watch_health(address: str, key: str, stop: threading.Event, results: dict[str, Any]) -> None:
    while True:  # the last check comes after the end, to notice lasting effects of the attack
        begun = time.monotonic()
        with _session("") as session:  # a new connection each time
            session.get(f"http://{address}/health/live", timeout=GIVE_UP).raise_for_status()
        _note(results, "health", time.monotonic() - begun)
        if stop.is_set():
            return
        time.sleep(HEALTH_EVERY)


def _work(address: str, key: str, stop: threading.Event, results: dict[str, Any]) -> None:
    while not stop.is_set():
        begun = time.monotonic()
        with _session(key) as session:
            made = session.post(f"http://{address}/v1/videos", json={"prompt": "steps=1 sleep=0"}, timeout=GIVE_UP)
            made.raise_for_status()
            _await_end(session, f"http://{address}/v1/videos/{made.json()['id']}", begun)
        _note(results, "job", time.monotonic() - begun)
        time.sleep(LOOK_EVERY)


def _send_images(address: str, key: str, stop: threading.Event, results: dict[str, Any]) -> None:
    made = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(made, "PNG")
    image = f"data:image/png;base64,{base64.b64encode(made.getvalue()).decode()}"
    while not stop.is_set():
        begun = time.monotonic()
        with _session(key) as session:
            body = {"prompt": "steps=1 sleep=0", "input_reference": image}
            made_job = session.post(f"http://{address}/v1/videos", json=body, timeout=GIVE_UP)
            made_job.raise_for_status()
            _note(results, "image", time.monotonic() - begun)
            _await_end(session, f"http://{address}/v1/videos/{made_job.json()['id']}", begun)  # jobs must not pile up


def _await_end(session: requests.Session, url: str, begun: float) -> None:
    while (status := session.get(url, timeout=GIVE_UP).json()["status"]) in ("queued", "in_progress"):
        if time.monotonic() - begun > GIVE_UP:
            raise TimeoutError("the job did not end")
        time.sleep(LOOK_EVERY)
    if status != "completed":
        raise RuntimeError(f"the job ended as {status}")


def _session(key: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    if key:
        session.headers["authorization"] = f"Bearer {key}"
    return session


def _note(results: dict[str, Any], what: str, seconds: float) -> None:
    results[what] = max(results.get(what, 0.0), seconds)
    results[f"{what}s"] = results.get(f"{what}s", 0) + 1


if __name__ == "__main__":
    main(*sys.argv[1:])
