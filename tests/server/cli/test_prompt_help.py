"""`cogvideox generate --prompt-help` sends one chat request per prompt; the manifest keeps the answer for a replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.video import read_manifest
from tests.rigs.chat_host import Chat, chat_host
from tests.rigs.generate_command import QUICK, call
from tests.rigs.generate_command import own_folder as own_folder


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    with chat_host() as host:
        host.says = "A red circle glides over a blue wall in soft light."
        monkeypatch.setenv("COGVIDEOX_PROMPT_HELP_URL", host.url)
        monkeypatch.setenv("COGVIDEOX_PROMPT_HELP_MODEL", "tiny-chat")
        monkeypatch.setenv("COGVIDEOX_PROMPT_HELP_KEY", "sk-secret")
        yield host


def test_the_better_prompt_is_in_the_manifest_and_replayed(chat: Chat) -> None:
    done = call("generate", "a red circle", *QUICK, "--seed", "1", "--count", "2", "--prompt-help", "-o", "a.mp4")
    assert done.exit_code == 0, done.output
    assert len(chat.asked) == 1, "one request for several videos of the same prompt"
    for name, seed in (("a-1.mp4", 1), ("a-2.mp4", 2)):
        manifest = read_manifest(name)
        asked = manifest["request"]
        assert (asked["prompt"], asked["asked_prompt"], asked["seed"]) == (chat.says, "a red circle", seed)
        assert f"prompt: a red circle -> {chat.says} (reworded by tiny-chat)" in manifest["notes"]
    assert "sk-secret" not in done.output + Path("a-1.mp4.json").read_text()
    again = call("replay", "a-1.mp4", "--device", "cpu")
    assert "byte for byte the same" in again.output, again.output
    assert len(chat.asked) == 1


def test_without_an_answer_the_prompt_stays(chat: Chat) -> None:
    chat.status = 503
    done = call("generate", "a red circle", *QUICK, "--prompt-help", "-o", "a.mp4")
    assert done.exit_code == 0, done.output
    assert read_manifest("a.mp4")["request"]["prompt"] == "a red circle"
    assert "the endpoint answered 503" in done.stderr


def test_a_batch_goes_on_without_asking_again(chat: Chat) -> None:
    Path("list.jsonl").write_text(json.dumps({"prompt": "a red circle", "prompt_help": True, "seed": 3}))
    assert call("generate", "--batch", "list.jsonl", *QUICK).exit_code == 0
    again = call("generate", "--batch", "list.jsonl", *QUICK)
    assert ("1 of 1 are done already" in again.stderr, len(chat.asked)) == (True, 1)


def test_nobody_is_asked_unless_it_is_wished(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("generate", "a red circle", *QUICK, "-o", "a.mp4").exit_code == 0
    assert not chat.asked
    monkeypatch.delenv("COGVIDEOX_PROMPT_HELP_URL")
    done = call("generate", "a red circle", *QUICK, "--prompt-help", "-o", "b.mp4")
    assert (done.exit_code, "COGVIDEOX_PROMPT_HELP_URL" in done.stderr) == (2, True)
