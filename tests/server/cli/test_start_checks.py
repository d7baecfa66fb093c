"""A server refuses bad settings at startup: it prints one line with the setting's name and exits with code 2."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from server import serve as serving
from server.cli import app
from server.errors import BadSetting
from server.setting_names import check_names
from server.settings import Settings
from tests.rigs import checkpoints
from tests.rigs.house import checkpoint


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("the server has started")

    for name in list(os.environ):
        if name.startswith("COGVIDEOX_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COGVIDEOX_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(uvicorn.Server, "run", started)
    monkeypatch.setattr(serving, "set_up_logging", lambda *_: None)
    yield


def serve(*arguments: str, **settings: str) -> Result:
    environ = {f"COGVIDEOX_{name}": value for name, value in settings.items()}
    port = [] if "--port" in arguments or "PORT" in settings else ["--port", "0"]
    model = [] if "MODEL" in settings else ["--model", str(checkpoint(Path("tiny").absolute()))]
    device = [] if "DEVICE" in settings else ["--device", "cpu"]
    return CliRunner().invoke(app, ["serve", *arguments, *port, *model, *device], env=environ)


def refused(done: Result) -> str:
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("cogvideox: "), done.stderr
    assert "Traceback" not in done.output and "Errno" not in done.output
    return done.stderr.removeprefix("cogvideox: ")


NUMBERS = {name for name, field in Settings.model_fields.items() if "int" in str(field.annotation)}
FLOATS = {name for name, field in Settings.model_fields.items() if "float" in str(field.annotation)}
LISTS = ("API_KEYS", "APIS", "MODEL", "TRUSTED_PROXIES")


@pytest.mark.parametrize("name", sorted(NUMBERS | FLOATS))
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "-inf", "1e400", "x", "9" * 400])
def test_no_number_is_taken_that_is_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"COGVIDEOX_{name.upper()}", value)
    with pytest.raises(BadSetting) as caught:
        Settings.load()
    assert caught.value.message.startswith(f"COGVIDEOX_{name.upper()}={value[:100]}"), caught.value.message


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("value", [",", ",,,", " , ,", " "])
def test_a_list_of_nothing(name: str, value: str) -> None:
    said = refused(serve(**{name: value}))
    assert said.startswith(f"COGVIDEOX_{name}")


@pytest.mark.parametrize(
    "keys", ["a b", "good,with space", "tab\tkey", "k\x07", "schlüssel", "id:", ":secret", ".", "new\nline", "x,\udcff"]
)
def test_keys_that_no_client_can_send(keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "COGVIDEOX_API_KEYS", keys)
    with pytest.raises(BadSetting) as caught:
        Settings.load()
    assert caught.value.message.startswith("COGVIDEOX_API_KEYS: key ") and "secret:" not in caught.value.message
    assert not any(part in caught.value.message for part in ("good", "with space", "schl"))


@pytest.mark.parametrize("name", ["", "''", '""'])
def test_an_empty_list_of_keys_is_none_at_all(name: str) -> None:
    Path(".env").write_text(f"COGVIDEOX_API_KEYS={name}\n")
    assert Settings.load().keys == ()


@pytest.mark.parametrize(
    "rate", ["0/minute", "600/0 minutes", "600", "x", "5/minute;6/hour", "-1/second", "1e3/minute"]
)
def test_a_rate_that_lets_nothing_through_or_makes_no_sense(rate: str) -> None:
    assert refused(serve(RATE_LIMIT=rate)).startswith(f"COGVIDEOX_RATE_LIMIT={rate}: must look like 600/minute")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("COGVIDEOX_API_KEY", "COGVIDEOX_API_KEYS"),
        ("COGVIDEOX_APIKEYS", "COGVIDEOX_API_KEYS"),
        ("COGVIDEOX_API_KYES", "COGVIDEOX_API_KEYS"),
        ("COGVIDEOX__API_KEYS", "COGVIDEOX_API_KEYS"),
        ("COGVIDEO_API_KEYS", "COGVIDEOX_API_KEYS"),
        ("COGVIDEOX-API-KEYS", "COGVIDEOX_API_KEYS"),
        ("COGVIDOEX_API_KEYS", "COGVIDEOX_API_KEYS"),
        ("cogvideox_api_key", "COGVIDEOX_API_KEYS"),
        ("COGVIDEOX_KEYS", ""),
        ("COGVIDEOX_KEY", ""),
        ("COGVIDEOX_TOKEN", ""),
        ("COGVIDEOX_AUTH_PASSWORD", ""),
        ("COGVIDEOX_PROT", "COGVIDEOX_PORT"),
        ("COGVIDEOX_DATADIR", "COGVIDEOX_DATA_DIR"),
        ("COGVIDEOX_MODELS_DIRS", "COGVIDEOX_MODELS_DIR"),
        ("COGVIDEOX_TRUSTED_PROXY", "COGVIDEOX_TRUSTED_PROXIES"),
        ("COGVIDEOX_MAX_STORAGE", "COGVIDEOX_MAX_STORAGE_MB"),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_misspelt_setting_is_not_ignored(name: str, meant: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == ".env":
        Path(".env").write_text(f"# keys\n{name}=id:secret\n")
    else:
        monkeypatch.setenv(name, "id:secret")
    with pytest.raises(BadSetting) as caught:
        Settings.load()
    said = caught.value.message
    assert said.startswith(name) and "is not a setting" in said and "secret" not in said
    assert (f"did you mean {meant}?" in said) == bool(meant)
    assert (".env, line 2" in said) == (place == ".env")


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["generate", "x"],
        ["keys", "list"],
        ["keys", "create", "bob"],
        ["weights", "list"],
        ["weights", "pull", "cogvideox-2b"],
        ["lora", "list"],
        ["clients"],
    ],
    ids=" ".join,
)
def test_every_command_that_reads_settings_says_so(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGVIDEOX_API_KEY", "id:secret")
    said = refused(CliRunner().invoke(app, arguments))
    assert said == "COGVIDEOX_API_KEY is not a setting; did you mean COGVIDEOX_API_KEYS?\n"
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"COGVIDEOX_API_KEYS: id:secret", ".env, line 1) sets nothing: write NAME=VALUE"),
        (b"COGVIDEOX_API_KEYS", ".env, line 1) sets nothing: write NAME=VALUE"),
        (b"export COGVIDEOX_API_KEYS id", ".env, line 1) sets nothing: write NAME=VALUE"),
        ("COGVIDEOX_API_KEYS=id:secret".encode("utf-16"), ".env is not UTF-8 text"),
    ],
)
def test_a_line_that_sets_nothing(line: bytes, says: str) -> None:
    Path(".env").write_bytes(line + b"\n")
    with pytest.raises(BadSetting) as caught:
        Settings.load()
    assert says in caught.value.message and "secret" not in caught.value.message.replace("COGVIDEOX_API_KEYS", "")


def test_a_byte_order_mark_hides_no_line() -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfCOGVIDEOX_API_KEYS=id:secret\r\n")
    assert Settings.load().keys == ("id:secret",)


def test_names_that_are_near_nothing_are_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compose files define COGVIDEOX_ variables of their own, and Kubernetes sets some for every service."""
    monkeypatch.setenv("COGVIDEOX_IMAGE_TAG", "1.2")
    kubernetes = ("SERVICE_HOST", "SERVICE_PORT", "SERVER_SERVICE_HOST", "PORT_8000_TCP", "SERVER_PORT_8000_TCP_ADDR")
    for name in kubernetes:
        monkeypatch.setenv(f"COGVIDEOX_{name}", "10.0.0.1")
    for _ in range(2):
        Settings.load()
    assert capsys.readouterr().err == "cogvideox: COGVIDEOX_IMAGE_TAG is not a setting and is ignored\n"


def test_every_setting_is_told_from_every_other() -> None:
    names = [f"COGVIDEOX_{name.upper()}" for name in Settings.model_fields]
    check_names(Settings.model_fields, Path("none"), dict.fromkeys([*names, *(n.lower() for n in names)], "x"))


@pytest.mark.parametrize("setting", ["DATA_DIR", "MODELS_DIR", "LORAS_DIR"])
def test_a_folder_that_is_a_file(setting: str) -> None:
    Path("file").write_text("x")
    said = refused(serve(**{setting: "file"}))
    assert "file" in said and "is a file, not a folder" in said


def test_files_that_are_none() -> None:
    Path("text").write_text("text")
    Path("text.pth").write_text("text")
    Path("folder.pth").mkdir()
    for arguments, says in (
        (["--tls-cert", "text"], "--tls-cert=text: not a certificate"),
        (["--tls-cert", "gone"], "--tls-cert=gone: cannot be read: No such file"),
        (["--tls-cert", "folder.pth"], "--tls-cert=folder.pth: cannot be read: Is a directory"),
        (["--tls-key", "text"], "--tls-key: a private key needs its certificate"),
    ):
        assert refused(serve(*arguments)).startswith(says)
    for name, file, says in (
        ("UPSCALER", "gone.pth", "there is no such file"),
        ("UPSCALER", "folder.pth", "is not a file"),
        ("UPSCALER", "text", "upscalers are .safetensors and .pth files"),
        ("RIFE_WEIGHTS", "gone.pkl", "there is no such file"),
        ("MODEL", "text", "no such model"),
        ("MODEL", "folder.pth", "the folder has no model_index.json"),
        ("MODEL", "cogvideox-5bb", "no such model; did you mean cogvideox-5b?"),
        ("MODEL", "THUDM/CogVideoX-5b", "not installed; cogvideox weights pull cogvideox-5b"),
        ("DEVICE", "cuda:7", "there is no cuda:7"),
        ("HOST", "not a host", "must be an IP address or a host name"),
        ("PROMPT_HELP", "always", "needs COGVIDEOX_PROMPT_HELP_URL"),
        ("DATABASE_URL", "mysql://x", ""),
        ("STORAGE_URL", "ftp://x", ""),
    ):
        said = refused(serve(**{name: file}))
        shown = "" if name in ("DATABASE_URL", "STORAGE_URL") else f"={file}"
        assert said.startswith(f"COGVIDEOX_{name}{shown}: ") and says in said, said


class Code:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("code-ran",)


def test_an_upscaler_that_is_no_network() -> None:
    """The server checks the file in a separate process, which does not run the code in the file."""
    Path("code.pth").write_bytes(pickle.dumps(Code()))
    said = refused(serve(UPSCALER="code.pth"))
    assert said.startswith("COGVIDEOX_UPSCALER=code.pth: ") and said.count("code.pth") == 1, said
    assert not Path("code-ran").exists()


def test_configs_that_make_no_sense() -> None:
    folder = checkpoint(Path("odd").absolute())
    config = folder / "transformer" / "config.json"
    whole = config.read_text()
    for value in ('"abc"', "[]", "0", "1e999", "-5"):
        config.write_text(whole.replace('"sample_height": 6', f'"sample_height": {value}'))
        assert refused(serve(MODEL=str(folder))).startswith(f"COGVIDEOX_MODEL={folder}: ")


def test_a_port_in_use_and_one_that_is_none() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused(serve("--port", str(port)))
    assert refused(serve("--port", "70000")) == "--port=70000: must be a whole number from 0 to 65535\n"


def test_the_open_server_is_not_reachable() -> None:
    said = refused(serve("--host", "0.0.0.0"))
    assert said.startswith("--host=0.0.0.0 can be reached from other machines and there is no key")
    assert "keys create NAME --data-dir data" in said


@pytest.mark.parametrize("there", [None, "empty", "used"])
def test_a_start_that_fails_leaves_the_data_folder_as_it_was(there: str | None) -> None:
    """If the failed start left files in the folder, `keys create` would mistake the folder for a server's data
    folder."""
    folder = Path("place/data")
    if there is not None:
        folder.mkdir(parents=True)
    if there == "used":
        assert CliRunner().invoke(app, ["keys", "create", "a", "--data-dir", str(folder), "--new"]).exit_code == 0
        assert CliRunner().invoke(app, ["keys", "list", "--data-dir", str(folder)]).exit_code == 0
    before = sorted(folder.rglob("*"))
    for settings in ({"HOST": "0.0.0.0"}, {"DATABASE_URL": "postgresql://u:p@127.0.0.1:9/x"}):
        if there == "used" and "HOST" in settings:
            continue  # the folder has a key, so the server would start
        refused(serve("--data-dir", str(folder), **settings))
        after = sorted(path for path in folder.rglob("*") if there != "used" or path.name.startswith("jobs.db"))
        assert after == before and folder.exists() == (there is not None)
    made = CliRunner().invoke(app, ["keys", "list", "--data-dir", str(folder)])
    assert (made.exit_code == 0) == (there == "used"), made.output


def test_a_home_folder_in_a_setting_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path(".env").write_text("COGVIDEOX_DATA_DIR=~/videos\n")
    assert Settings.load().data_dir == tmp_path / "videos"


def test_hub_ids_are_names() -> None:
    folder = checkpoints.cached("2b")
    Path("models").mkdir()
    Path("models/cogvideox-2b").symlink_to(folder)
    for name in (
        "zai-org/CogVideoX-2b",
        "thudm/cogvideox-2B",
        "CogVideoX-2b",
        "https://huggingface.co/zai-org/CogVideoX-2b",
    ):
        done = CliRunner().invoke(app, ["weights", "where", name])
        assert done.stdout.strip() == str(Path("models/cogvideox-2b").absolute()), done.output
