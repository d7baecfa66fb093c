"""Settings: defaults, sources and errors; API keys, devices, the choice of models."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.request import Task
from server.auth import Keys, Unauthorized
from server.devices import find_devices
from server.errors import BadSetting, NoModel
from server.media.artifacts import safe_name
from server.served import choose
from server.settings import Settings
from tests.rigs.house import checkpoint, plain


def with_keys(keys: str) -> Keys:
    return Keys(plain(api_keys=keys))


def test_defaults_need_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load()
    assert (settings.host, settings.port, settings.keys, settings.max_queue) == ("127.0.0.1", 8000, (), 100)
    assert all(field.description for field in Settings.model_fields.values())


def test_environment_file_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("COGVIDEOX_PORT=81\nCOGVIDEOX_HOST=::1\nCOGVIDEOX_API_KEYS='a, b.c ,'\nOTHER=1\n")
    monkeypatch.setenv("COGVIDEOX_PORT", "82")
    monkeypatch.setenv("COGVIDEOX_MODEL", "")
    settings = Settings.load(host=None, log_level="debug")
    assert (settings.host, settings.port, settings.keys) == ("::1", 82, ("a", "b.c"))
    assert (settings.log_level, settings.model) == ("debug", None)
    assert Settings.load(port=83).port == 83
    assert "b.c" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MEMORY", "lots", "'auto', 'none', 'model', 'group' or 'sequential'"),
        ("PORT", "x", "whole number from 0 to 65535"),
        ("PORT", "70000", "65535"),
        ("DEVICE", "gpu", "cuda:N"),
        ("DEVICE", "cuda:0,cpu", "cuda:N"),
        ("SEGMIND_RESPONSE", "xml", "'json'"),
        ("ALLOW_PRIVATE_URLS", "perhaps", "true or false"),
        ("PUBLIC_URL", "video.example.org", "https://"),
        ("MAX_QUEUE", "0", "1"),
        ("APIS", "fal,azure", "azure is none of fal, segmind"),
        ("TRUSTED_PROXIES", "nginx", "IPv4 or IPv6 network"),
    ],
)
def test_bad_values_name_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(f"COGVIDEOX_{name}", value)
    with pytest.raises(BadSetting) as caught:
        Settings.load()
    assert caught.value.message.startswith(f"COGVIDEOX_{name}={value}: ") and said in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer id.secret"},
        {"authorization": "bearer  id:secret"},
        {"authorization": "Key id:secret"},
        {"authorization": "Token id.secret"},
        {"authorization": "id.secret"},
        {"x-api-key": "id:secret"},
        {"x-api-key": "wrong", "authorization": "Key id:secret"},
    ],
)
@pytest.mark.parametrize("known", ["id.secret", "id:secret", "other,id.secret"])
def test_keys(headers: dict[str, str], known: str) -> None:
    assert with_keys(known).identify(headers) == with_keys("id.secret").identify({"x-api-key": "id.secret"}) != ""


def test_wrong_keys() -> None:
    keys = with_keys("id.secret,k2")
    assert not keys.open and with_keys("").open and with_keys("").identify({}) == ""
    assert keys.identify({}, body_key="k2") != keys.identify({"x-api-key": "id.secret"})
    for headers, body_key, reason in (
        ({}, None, "missing"),
        ({}, "", "missing"),
        ({"authorization": "Bearer "}, None, "missing"),
        ({"authorization": "Bearer secret"}, None, "unknown"),
        ({"authorization": "Bearer id"}, None, "unknown"),
        ({"x-api-key": "id.secre"}, None, "unknown"),
        ({"x-api-key": "id.secret2"}, None, "unknown"),
        ({"x-api-key": "\xff"}, None, "unknown"),
        ({}, "k\ud8003", "unknown"),
    ):
        with pytest.raises(Unauthorized) as caught:
            keys.identify(headers, body_key)
        assert caught.value.reason == reason, headers


def token(name: str, secret: str, expires: float, algorithm: str = "HS256") -> str:
    """Returns a token in the form that Zhipu's clients create."""

    header, payload = {"alg": algorithm, "sign_type": "SIGN"}, {"api_key": name, "exp": expires}
    made = signed_token(json.dumps(header), json.dumps(payload), secret)
    return made if algorithm != "none" else made[: made.rindex(".") + 1]


def signed_token(header: str, payload: str, secret: str = "secret") -> str:
    """Returns a token with a valid signature for the given header and payload, even if these are nonsense."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    signed = f"{part(header.encode())}.{part(payload.encode())}"
    return f"{signed}.{part(hmac.new(secret.encode(), signed.encode(), 'sha256').digest())}"


ODD_TIMES = (10**400, -(10**400), float("inf"), float("-inf"), float("nan"), 1e300, 2**63, True, None, "", [], {}, "12")


NOW = 1_800_000_000.0


def test_tokens() -> None:
    keys = Keys(plain(api_keys="id.secret,plain"), clock=lambda: NOW)
    owner = keys.identify({"x-api-key": "id.secret"})
    for expires in (NOW * 1000 + 210_000, NOW + 210, NOW * 1000 - 30_000):
        assert keys.identify({"authorization": f"Bearer {token('id', 'secret', expires)}"}) == owner
        assert keys.identify({"authorization": token("id", "secret", expires)}) == owner


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (token("id", "secret", NOW * 1000 - 90_000), "expired"),
        (token("id", "guess", NOW * 1000), "unknown"),
        (token("id", "", NOW * 1000), "unknown"),
        (token("plain", "", NOW * 1000), "unknown"),
        (token("other", "secret", NOW * 1000), "unknown"),
        (token("id", "secret", NOW * 1000, "none"), "unknown"),
        (token("id", "secret", NOW * 1000, "HS512"), "unknown"),
        (token("id", "secret", cast(Any, "soon")), "unknown"),
        (token("id", "secret", NOW * 1000) + "x", "unknown"),
        *((token("id", "secret", cast(Any, expires)), "unknown") for expires in ODD_TIMES),
        (token("id", "secret", -1), "expired"),
        (token("id", "secret", -0.0), "expired"),
        (signed_token('{"alg":"HS256"}', f'{{"api_key":"id","exp":{10**400}}}'), "unknown"),
        (signed_token('{"alg":"HS256"}', f'{{"api_key":"id","exp":{"9" * 4301}}}'), "unknown"),
        (signed_token('{"alg":"HS256"}', '{"api_key":"id","exp":1e400}'), "unknown"),
        (signed_token('{"alg":"HS256"}', '{"api_key":"id","exp":1,"exp":1e14}'), "unknown"),
        (signed_token('{"alg":"none","alg":"HS256"}', '{"api_key":"id","exp":1e14}'), "unknown"),
        (signed_token('{"alg":"HS256"}', '{"api_key":"id","exp":\u0661\u0662}'), "unknown"),
        (signed_token('{"alg":["HS256"]}', '{"api_key":"id","exp":1e14}'), "unknown"),
        (signed_token('["HS256"]', '"api_key"'), "unknown"),
        (signed_token("[" * 3000, "{" * 3000), "unknown"),
        (signed_token('{"alg":"HS256"}', f'{{"api_key":"id","exp":1e14,"more":"{"x" * 100_000}"}}'), "unknown"),
        ("a.b.c", "unknown"),
        ("..", "unknown"),
        ("W10.W10.W10", "unknown"),
        ("\xff.\xff.\xff", "unknown"),
    ],
)
def test_bad_tokens(value: str, reason: str) -> None:
    keys = Keys(plain(api_keys="id.secret,plain"), clock=lambda: NOW)
    with pytest.raises(Unauthorized) as caught:
        keys.identify({"authorization": f"Bearer {value}"})
    assert caught.value.reason == reason


def test_devices() -> None:
    def two() -> int:
        return 2

    assert find_devices("auto", {}, two) == ("cuda:0", "cuda:1")
    assert find_devices("auto", {}, lambda: 0) == ("cpu",)
    assert find_devices("auto", {"CUDA_VISIBLE_DEVICES": "1"}, two) == ("cuda:0",)
    assert find_devices("auto", {"CUDA_VISIBLE_DEVICES": ""}, two) == ("cpu",)
    assert find_devices("auto", {"CUDA_VISIBLE_DEVICES": "-1"}, two) == ("cpu",)
    assert find_devices("cuda:0,cuda:1", {}, two) == ("cuda:0", "cuda:1")
    assert (find_devices("cuda", {}, two), find_devices("cpu", {}, two)) == (("cuda",), ("cpu",))
    for device, environ, count in (
        ("cuda", {}, 0), ("cuda:2", {}, 2), ("cuda:0,cuda:1", {"CUDA_VISIBLE_DEVICES": "1"}, 2)
    ):  # fmt: skip
        with pytest.raises(BadSetting, match=f"COGVIDEOX_DEVICE={device}: there is no cuda"):
            find_devices(device, environ, lambda n=count: n)  # type: ignore[misc]


def served(tmp: Path, **given: str) -> dict[str, str]:
    settings = plain(models_dir=tmp, **given)
    return {task.value.partition("-")[0]: info.name for task, info in choose(settings).by_task.items()}


def test_which_model_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demos = tmp_path / "packaged"
    monkeypatch.setattr("weights.catalog._packaged", lambda name: demos / name)
    monkeypatch.setattr("server.devices.count_cuda_devices", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(NoModel, match="COGVIDEOX_MODEL"):
        choose(plain(models_dir=tmp_path, device="cpu")).model_for(Task.T2V)
    checkpoint(demos / "demo")
    checkpoint(demos / "demo-i2v", image=True)
    every_demo = {"text": "demo", "video": "demo", "image": "demo-i2v"}
    assert served(tmp_path, device="cuda") == every_demo
    checkpoint(tmp_path / "cogvideox-2b")
    assert served(tmp_path, device="cpu") == every_demo
    assert served(tmp_path, device="cuda") == {"text": "cogvideox-2b", "video": "cogvideox-2b"}
    checkpoint(tmp_path / "cogvideox-5b")
    checkpoint(tmp_path / "cogvideox-5b-i2v", image=True)
    assert served(tmp_path, device="cuda")["image"] == "cogvideox-5b-i2v"
    assert served(tmp_path, device="cuda")["text"] == "cogvideox-5b"
    assert served(tmp_path, device="cpu", model="cogvideox-2b, demo-i2v") == {
        "text": "cogvideox-2b",
        "video": "cogvideox-2b",
        "image": "demo-i2v",
    }
    for wrong in ("nothing", "cogvideox-1.5-5b", str(tmp_path)):
        with pytest.raises(BadSetting, match=f"COGVIDEOX_MODEL={wrong}"):
            served(tmp_path, model=wrong)


def test_half_a_checkpoint_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weights.catalog._packaged", lambda name: tmp_path / name)
    monkeypatch.setattr("server.devices.count_cuda_devices", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    checkpoint(tmp_path / "demo")
    (checkpoint(tmp_path / "cogvideox-5b") / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert served(tmp_path, device="auto") == {"text": "demo", "video": "demo"}
    (problem,) = choose(plain(models_dir=tmp_path)).problems
    assert problem.startswith("cogvideox-5b is installed and not served: vae/diffusion_pytorch_model.safetensors: miss")
    with pytest.raises(BadSetting, match=r"=cogvideox-5b: does not load: vae/diffusion_.*: missing"):
        served(tmp_path, device="cpu", model="cogvideox-5b")


def test_what_our_pipelines_cannot_run_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weights.catalog._packaged", lambda name: tmp_path / name)
    monkeypatch.setattr("server.devices.count_cuda_devices", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    checkpoint(tmp_path / "demo")
    checkpoint(tmp_path / "cogvideox-5b", channels=33)
    (problem,) = choose(plain(models_dir=tmp_path)).problems
    assert problem.startswith("cogvideox-5b is installed and not served: transformer/config.json: in_channels is 33")
    with pytest.raises(BadSetting, match=r"=cogvideox-5b: does not load: .*CogVideoX-Fun.*weights list"):
        served(tmp_path, device="cpu", model="cogvideox-5b")


def test_the_demo_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weights.catalog._packaged", lambda name: tmp_path / name)
    checkpoint(tmp_path / "demo")
    found = choose(plain(models_dir=tmp_path, device="cpu"))
    assert found.is_demo and found.header() == "demo (demo, not CogVideoX)"


def test_file_names() -> None:
    assert [safe_name(n) for n in ("a b.PNG", "../../etc/passwd", ".x", "", "ü.mp4", "a.tar.gz")] == [
        "a-b.PNG", "passwd", "file.x", "file", "file.mp4", "a-tar.gz",
    ]  # fmt: skip
    assert len(safe_name("x" * 500 + "." + "y" * 500)) < 100
