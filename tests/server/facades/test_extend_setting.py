"""If a cloud's API has no field for further clips, the setting COGVIDEOX_EXTEND decides whether the server adds
them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.request import GenerationRequest, Task
from server.app import create_app
from server.facades.kit.samples import RED
from server.jobs.job import Job, Status
from server.jobs.jobs import Jobs
from server.jobs.order import Order
from server.served import Served
from tests.rigs import checkpoints
from tests.rigs.facade_rig import Rig, facade
from tests.rigs.house import ended, house_of, plain
from tests.rigs.stand_ins import model_for

ZHIPU = ("zhipu", "/api/paas/v4/videos/generations", {"model": "cogvideox-2", "prompt": "a red circle"})
OPENAI = ("openai", "/v1/videos", {"prompt": "a red circle"})


def sent(rig: Rig, path: str, **body: Any) -> Job:
    rig.begin()
    answer = rig.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    (job,) = rig.jobs()
    return job


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (ZHIPU, {"duration": 10}),
        (ZHIPU, {"duration": 10, "image_url": RED}),
        (OPENAI, {"seconds": 12}),
        (OPENAI, {"num_frames": 80}),
    ],
)
def test_ten_seconds_are_ten_seconds_of_motion(call: tuple[str, str, dict[str, Any]], asked: dict[str, Any]) -> None:
    name, path, usual = call
    seconds = asked.get("seconds") or asked.get("duration") or 10
    with facade(name, extend=True) as rig:
        job = sent(rig, path, **usual, **asked)
        assert job.request.extend is True and job.plan is not None
        assert job.plan["extender"]["model"] == "cogvideox-5b-i2v"
        made = job.plan["model_frames"] + sum(n - 1 for n in job.plan["extension"])
        assert made >= seconds * 8 - 2
        assert "slowed" not in str(job.plan["notes"]) and "clips of" in str(job.plan["notes"])
        short = sent(rig, path, **usual)
        assert short.request.extend is None and short.plan is not None and not short.plan["extension"]
    with facade(name) as rig:
        job = sent(rig, path, **usual, **asked)
        assert job.request.extend is None and job.plan is not None and not job.plan["extension"]
        assert "at most 49" in str(job.plan["notes"])


def test_openais_own_fields_say_otherwise() -> None:
    with facade("openai", extend=True) as rig:
        assert sent(rig, "/v1/videos", prompt="a", seconds=12, extend=False).request.extend is False
    with facade("openai") as rig:
        job = sent(rig, "/v1/videos", prompt="a", seconds=12, extra_params={"extend": True, "fit": "stretch"})
        assert job.request.extend is True and job.plan is not None and job.plan["extension"]
        assert job.request.fit == job.plan["fit"] == "stretch"
        client = TestClient(rig.app)
        for wrong in ({"extend": "perhaps"}, {"fit": "auto"}, {"fit": 3}):
            answer = client.post("/v1/videos", json={"prompt": "a", **wrong})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, *wrong), answer.text


def test_asking_for_what_cannot_be_is_refused() -> None:
    with facade("openai", tasks=[Task.T2V, Task.V2V]) as rig:  # no model can continue a clip
        answer = rig.client.post("/v1/videos", json={"prompt": "a", "seconds": 12, "extend": True})
        assert (answer.status_code, answer.json()["error"]["param"], rig.jobs()) == (400, "extend", []), answer.text


def test_what_cannot_be_extended_is_slowed_down_as_ever() -> None:
    submitted: list[Job] = []

    class Store:
        def submit(self, job: Job, *_: Any) -> Job:
            submitted.append(job)
            return job

    store: Any = Store()
    served = Served({task: model_for(task) for task in (Task.T2V, Task.V2V)}, ("cpu",))
    jobs = Jobs(store, served, max_queue=1, check_room=lambda: None, wake=lambda: None, extend=True)
    long = GenerationRequest(prompt="a", duration=10, seed=1)
    assert replace(jobs.submit(long, Order("test", "test", "")).request, seed=1) == long
    assert "slowed down" in str((submitted[-1].plan or {})["notes"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_from_zhipus_request_to_the_film(tmp_path: Path) -> None:
    models = ",".join(str(checkpoints.cached(kind)) for kind in ("5b", "5b-i2v"))
    app = create_app(plain(data_dir=tmp_path, model=models, device="cpu", min_free_mb=0, extend=True))
    with TestClient(app, base_url="http://here:8000") as client:
        body = {"model": "cogvideox-2", "prompt": "a", "size": "720x480", "duration": 5}
        answer = client.post("/api/paas/v4/videos/generations", json=body)
        house = house_of(app)
        (job,) = house.context.jobs.page("zhipu", "", 1)
        done = ended(house, job, 200)
        assert done.status is Status.SUCCEEDED, done.error
        said = client.get(f"/api/paas/v4/async-result/{answer.json()['id']}").json()
        assert any(note.startswith("extend: ") for note in said["notes"]), said
        assert done.manifest is not None
        manifest = json.loads(house.context.artifacts.read(done.manifest))
        assert manifest["extender"]["name"] and len(manifest["plan"]["extension"]) == 2
        assert manifest["plan"]["num_frames"] == 150
