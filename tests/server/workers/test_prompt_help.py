"""Prompt help sends one chat request per job. It uses a good answer, and a bad answer does not make the job fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.request import GenerationRequest, Media
from pipelines.video import read_manifest
from server.app import create_app
from server.errors import BadSetting
from server.jobs.job import Status
from server.settings import Settings
from server.workers.prompt_help import MAX_ANSWER, MAX_PROMPT, Helper, helper_of
from tests.rigs import checkpoints, pace
from tests.rigs.chat_host import Chat, chat_host
from tests.rigs.house import app, ended, house_of, plain, submit, until

KEY = "sk-very-secret"
PICTURE = Media("/nowhere/a.png", "0" * 64)


@pytest.fixture
def chat() -> Iterator[Chat]:
    with chat_host() as host:
        yield host


def helper(chat: Chat, **given: Any) -> Helper:
    return Helper(**{"url": f"{chat.url}/chat/completions", "model": "tiny-chat", "key": KEY, "seconds": 5, **given})


def better(chat: Chat, request: GenerationRequest | None = None, **given: Any) -> GenerationRequest:
    found = helper(chat, **given).better(request or GenerationRequest("a cat", seed=1, prompt_help=True))
    assert found is not None and not found.prompt_help
    return found


def test_what_is_asked(chat: Chat) -> None:
    found = better(chat)
    assert (found.prompt, found.asked_prompt, found.prompt_note) == (chat.says, "a cat", "reworded by tiny-chat")
    better(chat, GenerationRequest("it runs", image=PICTURE), key="")
    text, picture = chat.asked
    assert (text["path"], text["model"], text["stream"]) == ("/v1/chat/completions", "tiny-chat", False)
    assert [m["role"] for m in text["messages"]] == ["system", "user"]
    assert text["messages"][1]["content"] == "a cat"
    assert "CogVideoX" in text["messages"][0]["content"]
    assert "picture" in picture["messages"][0]["content"] and "picture" not in text["messages"][0]["content"]
    assert chat.keys == [f"Bearer {KEY}", None]


@pytest.mark.parametrize(
    ("said", "prompt"),
    [
        ('  "A fluffy cat."\n', "A fluffy cat."),
        ("<think>hm,\na cat</think>\nA cat\nsits.", "A cat sits."),
        ("A \u0000cat \ud83d\ude00", "A cat \U0001f600"),
    ],
)
def test_only_the_paragraph_is_taken(chat: Chat, said: str, prompt: str) -> None:
    chat.says = said
    assert better(chat).prompt == prompt


@pytest.mark.parametrize(
    ("says", "status", "headers", "note"),
    [
        ("x", 500, {}, "answered 500"),
        ("x", 401, {}, "answered 401"),
        ("x", 302, {"location": "http://127.0.0.1:1/"}, "answered 302"),
        (b"hello", 200, {}, "no chat completion"),
        (b"[]", 200, {}, "no chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', 200, {}, "holds no text"),
        ("<think>well</think> ", 200, {}, "is empty"),
        ("word " * MAX_PROMPT, 200, {}, f"more than {MAX_PROMPT} characters"),
        (b" " * (MAX_ANSWER + 1), 200, {}, "too large"),
    ],
)
def test_whatever_goes_wrong_leaves_the_prompt(
    chat: Chat, says: Any, status: int, headers: dict[str, str], note: str
) -> None:
    chat.says, chat.status, chat.headers = says, status, headers
    found = better(chat)
    assert (found.prompt, found.asked_prompt) == ("a cat", None)
    assert note in (found.prompt_note or "")
    assert KEY not in str(found) and chat.url not in str(found)
    assert len(chat.asked) == 1, "a redirect was followed"


def test_nobody_there_and_nobody_in_time(chat: Chat) -> None:
    assert "could not be reached" in (better(chat, url="http://127.0.0.1:1/v1").prompt_note or "")
    chat.waits = 3
    assert "no answer within 0.3 seconds" in (better(chat, seconds=0.3).prompt_note or "")
    assert helper(chat, seconds=60).better(GenerationRequest("a"), lambda: True) is None


@pytest.mark.parametrize("headers", [{}, {"x-long": "x" * 60_000}], ids=["body", "headers"])
def test_an_endpoint_that_drips_is_left_in_time(chat: Chat, headers: dict[str, str]) -> None:
    """After the time limit, no thread reads from the slow endpoint any more."""
    chat.headers, chat.drips = headers, 0.002
    chat.says = b" " * MAX_ANSWER
    assert "no answer within 2 seconds" in (better(chat, seconds=2).prompt_note or "")
    left = [thread for thread in threading.enumerate() if thread.name == "prompt help"]
    for thread in left:
        thread.join(pace.seconds(5))
    assert not any(thread.is_alive() for thread in left)


def test_who_is_helped(chat: Chat) -> None:
    asked, plainly = GenerationRequest("a", prompt_help=True), GenerationRequest("a")
    one, always = helper(chat), helper(chat, always=True)
    assert [one.wanted(asked), one.wanted(plainly), always.wanted(plainly)] == [True, False, True]
    assert not always.wanted(GenerationRequest("a", video=PICTURE))
    assert not always.wanted(better(chat)), "the prompt would be reworded again"
    chat.status = 500
    assert not always.wanted(better(chat))


def test_settings() -> None:
    assert helper_of(plain()) is None
    given = {"prompt_help_url": "http://127.0.0.1:9/v1/", "prompt_help_model": "m", "prompt_help_key": KEY}
    found = helper_of(plain(**given, prompt_help="always"))
    assert found is not None
    assert (found.url, found.key, found.always) == ("http://127.0.0.1:9/v1/chat/completions", KEY, True)
    assert KEY not in repr(found) and KEY not in repr(plain(**given))
    whole = helper_of(plain(**given | {"prompt_help_url": "http://h/chat/completions"}))
    assert whole is not None and whole.url == "http://h/chat/completions"
    for wrong, name in (({"prompt_help": "always"}, "_URL"), ({"prompt_help_url": "http://h/v1"}, "_MODEL")):
        with pytest.raises(BadSetting, match=f"COGVIDEOX_PROMPT_HELP{name}"):
            helper_of(plain(**wrong))
    for url in (f"http://user:{KEY}@h/v1", "http://h:99999/v1", "http://h:port/v1", "http://:80/v1", "http://h/v1?a=b"):
        with pytest.raises(BadSetting, match=r"^COGVIDEOX_PROMPT_HELP_URL: ") as told:
            Settings.load(prompt_help_url=url)
        assert KEY not in str(told.value)


def test_a_job_is_helped_once_and_says_so(chat: Chat, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The job keeps the new prompt, so a retry after a worker's death does not ask again."""
    chat.says = "steps=9 die=SIGKILL times=1 at=5 save=1"
    given = {"prompt_help_url": chat.url, "prompt_help_model": "tiny-chat", "prompt_help_key": KEY}
    application = app(tmp_path, prompt_help="always", **given)
    with TestClient(application) as client:
        house = house_of(application)
        job = ended(house, submit(house, "a cat"))
        assert (job.status, job.attempt, len(chat.asked)) == (Status.SUCCEEDED, 2, 1)
        assert (job.request.prompt, job.request.asked_prompt) == (chat.says, "a cat")
        assert KEY not in client.get("/health").text
        answer = client.post("/v1/videos", json={"prompt": "a dog"})
        assert answer.status_code == 200
        until(lambda: len(chat.asked) == 2)
    assert KEY not in capfd.readouterr().err


def test_a_stopped_server_asks_again_only_if_there_was_no_answer(chat: Chat, tmp_path: Path) -> None:
    chat.waits = 30
    given = {"prompt_help_url": chat.url, "prompt_help_model": "tiny-chat", "prompt_help_seconds": 60}
    application = app(tmp_path, prompt_help="always", **given)
    with TestClient(application):
        job = submit(house_of(application), "a cat")
        until(lambda: len(chat.asked) == 1)
    chat.waits = 0
    application = app(tmp_path, prompt_help="always", **given)
    with TestClient(application):
        house = house_of(application)
        done = ended(house, job)
        assert (done.status, done.request.prompt, len(chat.asked)) == (Status.SUCCEEDED, chat.says, 2)


def test_a_job_that_nobody_wants_any_more_waits_for_no_answer(chat: Chat, tmp_path: Path) -> None:
    chat.waits = 30
    application = app(tmp_path, prompt_help="always", prompt_help_url=chat.url, prompt_help_model="m")
    with TestClient(application):
        house = house_of(application)
        job = submit(house, "a cat")
        until(lambda: len(chat.asked) == 1)
        house.context.jobs.cancel(job.id)
        assert ended(house, job).status is Status.CANCELLED


def test_replicates_field_asks_for_it(chat: Chat, tmp_path: Path) -> None:
    application = app(tmp_path, prompt_help_url=chat.url, prompt_help_model="m")
    with TestClient(application) as client:
        for extend, asked in ((False, 0), (True, 1)):
            body = json.dumps({"input": {"prompt": "steps=1", "extend_prompt": extend}})
            answer = client.post("/v1/models/cuuupid/cogvideox-5b/predictions", content=body)
            assert answer.status_code == 201, answer.text
            house = house_of(application)
            done = ended(house, house.store.page("replicate", "", 1)[0])
            assert (done.status, len(chat.asked)) == (Status.SUCCEEDED, asked)
            assert done.memo["input"]["prompt"] == "steps=1"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_client_is_told_the_new_prompt(chat: Chat, tmp_path: Path) -> None:
    """With the real worker, fal's result, the log and the video's manifest contain the new prompt."""
    chat.says = "A red circle glides over a blue wall in soft light."
    given = {"data_dir": tmp_path / "data", "model": str(checkpoints.cached("5b")), "device": "cpu", "min_free_mb": 0}
    given |= {"prompt_help": "always", "prompt_help_url": chat.url, "prompt_help_model": "tiny-chat"}
    application = create_app(plain(**given))
    body = {"prompt": "a cat", "num_inference_steps": 1, "video_size": {"width": 64, "height": 48}, "use_rife": False}
    with TestClient(application, base_url="http://here:8000") as client:
        receipt = client.post("/queue/fal-ai/cogvideox-5b", json=body).json()
        house = house_of(application)
        job = house.context.jobs.get(receipt["request_id"])
        assert job is not None and ended(house, job, 120).status is Status.SUCCEEDED
        note = f"prompt: a cat -> {chat.says} (reworded by tiny-chat)"
        logs = client.get(f"{receipt['status_url']}?logs=1").json()["logs"]
        assert note in [line["message"] for line in logs]
        result = client.get(receipt["response_url"]).json()
        assert result["prompt"] == chat.says
        (tmp_path / "film.mp4").write_bytes(client.get(result["video"]["url"]).content)
    manifest = read_manifest(tmp_path / "film.mp4")
    asked = manifest["request"]
    assert (asked["prompt"], asked["asked_prompt"], note in manifest["notes"]) == (chat.says, "a cat", True)
