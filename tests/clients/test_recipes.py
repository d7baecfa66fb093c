"""Runs the third-party recipes that `cogvideox clients` prints: LiteLLM and its proxy, huggingface_hub through fal-ai,
a tool for Open WebUI, a workflow for n8n. Each recipe runs against a real server with the fake engine. The tests change
only the prompt."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from server.facades.facade import Snippet
from server.facades.registry import FACADES
from tests.rigs import pace
from tests.rigs.clients.running import KEY, fetch, free_port, inherited, litellm, python_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROMPT = "a red circle moves left on a blue background"
QUICK = "steps=2 sleep=0"
FILM = bytes(i % 251 for i in range(1000))  # the fake engine's output
MASTER_KEY = "sk-5e0c1f7a92d84b36ae17"
PAST_PROXIES = {"NO_PROXY": "*", "no_proxy": "*", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def recipe(vendor: str, title: str, address: str, prompt: str = QUICK) -> str:
    (found,) = [one for one in FACADES[vendor].clients if one.title == title]
    return found.filled(f"http://{address}", KEY).replace(PROMPT, prompt)


def of_language(language: str) -> list[tuple[str, Snippet]]:
    titles = ("LiteLLM", "LiteLLM through fal's API", "huggingface_hub through fal's API")
    return [
        (v, s) for v in ("openai", "fal") for s in FACADES[v].clients if s.language == language and s.title in titles
    ]


@pytest.mark.parametrize(("vendor", "snippet"), of_language("python"), ids=lambda one: getattr(one, "title", one))
def test_programs(stand_in: str, tmp_path: Path, vendor: str, snippet: Snippet) -> None:
    run(recipe(vendor, snippet.title, stand_in), tmp_path)
    assert (tmp_path / "video.mp4").read_bytes() == FILM


def test_litellm_as_hosted_vllm(stand_in: str, tmp_path: Path) -> None:
    program = recipe("openai", "LiteLLM", stand_in)
    changed = program.replace('"openai/sora-2"', '"hosted_vllm/zai-org/CogVideoX-5b"')
    changed = changed.replace('seconds="4"', 'seconds="4", guidance_scale=5.5, flow_shift=3.0')
    assert changed.count("hosted_vllm") == 2
    run(changed, tmp_path)
    assert (tmp_path / "video.mp4").read_bytes() == FILM
    (latest, *_) = call("GET", f"http://{stand_in}/v1/videos").json()["data"]
    assert any(note.startswith("flow_shift: ignored") for note in latest["notes"])
    assert any(note.startswith("model: zai-org/CogVideoX-5b -> tiny") for note in latest["notes"])


def run(program: str, folder: Path) -> str:
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [python_for(program), "program.py"],
        cwd=folder,
        env=inherited() | PAST_PROXIES,
        capture_output=True,
        text=True,
        timeout=pace.seconds(300),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(method: str, url: str, key: str = KEY, **more: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"authorization": f"Bearer {key}"}
        answer = session.request(method, url, headers=headers, timeout=pace.seconds(60), **more)
    assert answer.status_code == 200, answer.text
    return answer


@contextmanager
def proxy(config: str, folder: Path) -> Iterator[str]:
    """Runs LiteLLM's proxy with this configuration; yields its `host:port`."""
    (folder / "config.yaml").write_text(config)
    port = free_port()
    command = [str(litellm() / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    env = inherited() | PAST_PROXIES | {"LITELLM_MASTER_KEY": MASTER_KEY}
    with (folder / "proxy.log").open("w+b") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:

            def answers() -> bool:
                assert process.poll() is None, (folder / "proxy.log").read_text(errors="replace")[-4000:]
                try:
                    return fetch(f"http://127.0.0.1:{port}/health/liveliness").status_code == 200
                except OSError:
                    return False

            pace.until(answers, 180)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(pace.seconds(30))


def test_litellms_proxy(stand_in: str, tmp_path: Path) -> None:
    config = recipe("openai", "LiteLLM's proxy: config.yaml", stand_in)
    with proxy(config, tmp_path) as address:
        for model in re.findall(r"model_name: (\S+)", config):
            videos = f"http://{address}/v1/videos"
            video = call("POST", videos, MASTER_KEY, json={"model": model, "prompt": QUICK}).json()

            def ended(video: dict[str, Any] = video, videos: str = videos) -> str | None:
                status = call("GET", f"{videos}/{video['id']}", MASTER_KEY).json()["status"]
                return None if status in ("queued", "in_progress") else str(status)

            assert pace.until(ended, 60) == "completed", model
            assert call("GET", f"{videos}/{video['id']}/content", MASTER_KEY).content == FILM, model


def tool(text: str) -> Any:
    """Loads a tool as Open WebUI does: executes the source as a module and instantiates its class Tools."""
    module = types.ModuleType("tool_cogvideox")
    exec(compile(text, "tool_cogvideox.py", "exec"), module.__dict__)
    return module.Tools()  # type: ignore[attr-defined]


@pytest.mark.parametrize("prompt", [QUICK, "fail=out_of_memory", " "])
def test_the_tool_for_open_webui(stand_in: str, prompt: str) -> None:
    tools = tool(recipe("openai", "Open WebUI: a tool", "127.0.0.1:1"))
    tools.valves = tools.Valves(server_url=f"http://{stand_in}/", api_key=KEY, poll_seconds=0.05)
    heard: list[dict[str, Any]] = []

    async def emit(event: dict[str, Any]) -> None:
        heard.append(event)

    said = asyncio.run(tools.make_video(prompt, seconds=1, __event_emitter__=emit))
    last = [one["data"] for one in heard if one["type"] == "status"][-1]
    assert last["done"] is True
    if prompt == QUICK:
        assert fetch(said).content == FILM
        assert said in heard[-1]["data"]["content"]
    else:
        assert said.startswith("No video was made: ")
        assert said.endswith("as told" if prompt.startswith("fail") else "must not be blank")
    assert ":param prompt:" in tools.make_video.__doc__, "the language model is given this docstring"


def test_the_tool_is_a_program_too(stand_in: str, tmp_path: Path) -> None:
    assert fetch(run(recipe("openai", "Open WebUI: a tool", stand_in), tmp_path).strip()).content == FILM


def test_the_workflow_for_n8n(stand_in: str) -> None:
    """Makes the workflow's HTTP calls in the order of its connections."""
    workflow = json.loads(recipe("openai", "n8n: a workflow to import", stand_in))
    nodes = {node["name"]: node for node in workflow["nodes"]}
    assert len({node["id"] for node in nodes.values()}) == len(nodes)
    assert all({"type", "typeVersion", "position", "parameters"} <= set(node) for node in nodes.values())
    links = {name: [[to["node"] for to in way] for way in out["main"]] for name, out in workflow["connections"].items()}
    assert {to for ways in links.values() for way in ways for to in way} | {"Start"} == set(nodes)
    made: dict[str, Any] = {}
    latest: Any = {}

    def filled(text: str) -> str:
        """Evaluates the n8n expressions that this workflow uses."""
        if not text.startswith("="):
            return text
        whose = r"\{\{ \$\('([^']+)'\)\.item\.json\.(\w+) \}\}"
        text = re.sub(whose, lambda found: str(made[found[1]][found[2]]), text[1:])
        return re.sub(r"\{\{ \$json\.(\w+) \}\}", lambda found: str(latest[found[1]]), text)

    name, film, ways = "Start", b"", 0
    while name is not None and ways < 1000:
        node, way, ways = nodes[name], 0, ways + 1
        parameters = node["parameters"]
        if node["type"].endswith(".httpRequest"):
            headers = {one["name"]: one["value"] for one in parameters["headerParameters"]["parameters"]}
            assert headers == {"Authorization": f"Bearer {KEY}"}
            body = json.loads(parameters["jsonBody"]) if parameters.get("sendBody") else None
            answer = call(parameters.get("method", "GET"), filled(parameters["url"]), json=body)
            if "response" in parameters["options"]:
                film = answer.content
            else:
                made[name] = latest = answer.json()
        elif node["type"].endswith(".if"):
            conditions = parameters["conditions"]
            met = [filled(one["leftValue"]) == one["rightValue"] for one in conditions["conditions"]]
            assert conditions["combinator"] == "or"
            way = 0 if any(met) else 1
        name = links[name][way][0] if name in links else None
    assert latest["status"] == "completed"
    assert film == FILM


def test_programs_need_no_more_than_they_say() -> None:
    assert sys.executable != python_for("import litellm")
    assert sys.executable == python_for("import requests")
