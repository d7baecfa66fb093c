"""The command line reads prompts and batch files in any encoding, and checks output paths; no test needs a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.cli import app, arguments, generate
from server.cli.arguments import Job, Target, Usage
from server.errors import BadSetting
from server.settings import Settings
from server.text_file import NotText, read_lines
from tests.rigs import checkpoints

HALF = "\\ud83d"  # half of an emoji's surrogate pair, as a JSON escape
BYTE = "\udce9"  # how Python represents the byte 0xE9 in an argument that is not UTF-8


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COGVIDEOX_MODELS_DIR", str(tmp_path / "models"))


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def refused(done: Result, says: str) -> None:
    assert done.exit_code == 2, done.output
    assert done.stderr == f"cogvideox: {says}\n"


def jobs_of(content: bytes) -> list[Job]:
    Path("list.jsonl").write_bytes(content)
    return list(arguments.batch(Path("list.jsonl"), {"loras": []}, None))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["generate", f"caf{BYTE}"], "PROMPT"),
        (["generate", "x", "--negative-prompt", BYTE], "--negative-prompt"),
        (["generate", "x", "-o", f"{BYTE}.mp4"], "--output"),
        (["generate", "x", "--image", f"{BYTE}.png"], "--image"),
        (["generate", "x", "--lora", f"a.safetensors:1{BYTE}"], "--lora"),
        (["generate", "x", "--model", BYTE], "--model"),
        (["generate", "x", "--fit", BYTE], "--fit"),
        (["generate", "--batch", f"{BYTE}.jsonl"], "--batch"),
        (["generate", "half \ud83d"], "PROMPT"),
        (["replay", f"{BYTE}.mp4"], "FILE"),
        (["serve", "--data-dir", BYTE], "--data-dir"),
        (["keys", "create", BYTE], "NAME"),
        (["lora", "add", f"{BYTE}.safetensors"], "SOURCE"),
        (["weights", "verify", BYTE], "NAME|DIR"),
    ],
    ids=repr,
)
def test_an_argument_that_is_not_unicode(arguments: list[str], name: str) -> None:
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (2, "") and done.stderr.startswith(f"cogvideox: {name}: must be ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f'{{"prompt": "{HALF}"}}', "prompt: must be plain text: it contains half a surrogate pair"),
        (f'{{"prompt": "x", "negative_prompt": "{HALF}"}}', "negative_prompt: must be plain text"),
        (f'{{"prompt": "x", "output": "{HALF}.mp4"}}', "output: must be plain text"),
        (f'{{"prompt": "x", "image": "{HALF}.png"}}', "image: must be plain text"),
        (f'{{"prompt": "x", "loras": ["a", "{HALF}"]}}', "loras: must be plain text"),
        (f'{{"prompt": "x", "scheduler": "{HALF}"}}', "scheduler: must be plain text"),
        (f'{{"prompt": "x", "{HALF}": 1}}', "unknown field"),
        ('{"prompt": "a\\u0000b"}', "prompt: must be plain text: it contains a NUL character"),
        ('{"prompt": "x", "use_dynamic_cfg": "yes"}', "use_dynamic_cfg: must be true or false"),
        ('{"prompt": "x", "seed": 1' + "0" * 4000 + "}", "seed: must be between 0 and 9223372036854775807, got 1000"),
        ('{"prompt": "x"} {}', "not JSON: Extra data (column 17)"),
        ('{"prompt": "x", "image": "~nobody-here/a.png"}', "image: ~nobody-here/a.png has no such home folder"),
    ],
)
def test_a_line_names_itself_and_the_field(line: str, says: str) -> None:
    with pytest.raises(Usage) as told:
        jobs_of(f'{{"prompt": "fine 😀"}}\n{line}\n'.encode())
    assert str(told.value).startswith(f"list.jsonl:2: {says}") and len(str(told.value)) < 400
    assert not str(told.value).encode(errors="surrogateescape").count(b"\n")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be with its mark", "utf-32"], ids=lambda name: name.split()[0]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_batch_in_any_encoding_that_says_what_it_is(encoding: str, end: str) -> None:
    """Some programs treat other characters as line ends, but in a batch file only the line feed ends a line."""
    prompts = [f"a{character}b é 😀" for character in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"]
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=ord(prompt[1]) < 32) for prompt in prompts]
    lines.insert(1, "  ")
    text = end.join(lines) + end
    content = ("\ufeff" + text).encode("utf-16-be") if " " in encoding else text.encode(encoding)
    made = jobs_of(content)
    assert [job.request.prompt for job in made] == prompts
    assert [job.path.name for job in made][:2] == ["0001.mp4", "0003.mp4"], "an empty line counts in the numbering"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n', "list:2: not UTF-8 text (byte 0xE9); save the file as UTF-8"),
        ('{"prompt": "é"}\n'.encode("utf-16-le"), "list looks like UTF-16 without a byte order mark; save it as UTF-8"),
        ('{"prompt": "é"}\n'.encode("utf-16-be"), "list looks like UTF-16 without a byte order mark; save it as UTF-8"),
        (b'\xff\xfe{\x00\n\x00\x00', "list is not UTF-8 text, and damaged UTF-16; save it as UTF-8"),
        (b'{"prompt": "a"}\n{"prompt": "\x00"}\n', "list:2: it contains a NUL character"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_text_says_where(content: bytes, says: str) -> None:
    Path("list").write_bytes(content)
    with pytest.raises(NotText) as told:
        read_lines(Path("list"))
    assert str(told.value).startswith(says)
    refused(call("generate", "--batch", "list"), str(told.value))
    Path(".env").write_bytes(content.replace(b"list", b".env"))
    with pytest.raises(BadSetting, match=r"^\.env"):
        Settings.load()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_environment_file_in_any_encoding_that_says_what_it_is(encoding: str) -> None:
    Path(".env").write_bytes("COGVIDEOX_PORT=81\r\nCOGVIDEOX_DATA_DIR=données\r\n".encode(encoding))
    settings = Settings.load()
    assert (settings.port, settings.data_dir) == (81, Path("données"))


def test_a_name_of_a_checkpoint_in_the_environment_that_is_not_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGVIDEOX_MODEL", f"caf{BYTE}")
    done = call("generate", "x")
    assert done.exit_code == 2 and done.stderr.startswith("cogvideox: COGVIDEOX_MODEL=caf\\udce9: "), done.output


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        *(("out", True), ("there.v1", True), ("there.mp4", True), ("new.v1/", True), ("new.mp4/", True), (".", True)),
        *(("..", True), (".hidden", True), ("there.v1/new.v2/", True)),
        *(("a.mp4", False), ("there.v1/a.webm", False), ("A.GIF", False)),
    ],
)
def test_what_is_a_folder(text: str, folder: bool) -> None:
    Path("there.v1").mkdir()
    Path("there.mp4").mkdir()
    given = Target.of(text)
    assert (given.is_folder, given.path) == (folder, Path(text))
    (job,) = arguments.several("x", {"loras": []}, given, 1)
    assert job.path.parent == (Path(text) if folder else Path(text).parent)
    assert job.path.suffix.lower() in (".mp4", ".webm", ".gif")
    Path("list.jsonl").write_text('{"prompt": "x"}')
    if folder:
        (job,) = arguments.batch(Path("list.jsonl"), {"loras": []}, given)
        assert job.path == Path(text) / "0001.mp4"
    else:
        with pytest.raises(Usage, match="--output: with --batch it must be a folder"):
            list(arguments.batch(Path("list.jsonl"), {"loras": []}, given))


def test_a_folder_with_a_dot_is_made_for_a_batch_and_for_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(generate, "run_all", lambda jobs, *_, **__: made.extend(job.path for job in jobs))
    Path("list").write_text('{"prompt": "x"}')
    for words in (
        *(["--batch", "list", "-o", "films.v2"], ["--batch", "list"]),
        *(["x", "-o", "out.v1/"], ["x", "--output=~/films.v3/"]),
    ):
        assert call("generate", *words).exit_code == 0
    assert made[:2] == [Path("films.v2/0001.mp4"), Path("list-videos/0001.mp4")]
    assert [path.parent for path in made[2:]] == [Path("out.v1"), Path.home() / "films.v3"]
    refused(
        call("generate", "x", "-o", "out.v1"),
        "--output: out.v1 must end in .mp4, .gif or .webm, or in / if it is a folder",
    )
    refused(call("generate", "x", "-o", "~nobody-here/a.mp4"), "--output: ~nobody-here/a.mp4 has no such home folder")


@pytest.mark.parametrize(
    "words",
    [
        *(["lora", "add"], ["lora", "inspect"], ["weights", "import"], ["weights", "verify"], ["weights", "where"]),
        *(["generate", "x", "--model"], ["generate", "x", "--upscaler"], ["keys", "list", "--data-dir"]),
        *(["generate", "x", "--video"], ["generate", "--batch"], ["replay"]),
    ],
    ids=" ".join,
)
def test_a_home_folder_of_nobody_is_a_file_that_is_not_there(words: list[str]) -> None:
    done = call(*words, "~nobody-here/a.safetensors")
    assert done.exit_code == 2 and done.stderr.startswith("cogvideox: "), (done.output, done.exception)
    assert done.stderr.count("\n") == 1 and "nobody-here" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x", "--fit", "round"], "--fit: must be one of auto, crop, pad, stretch, got 'round'"),
        (["x", "--scheduler", "euler"], "--scheduler: must be one of ddim, dpm, got 'euler'"),
        (["x", "--seed", "abc"], "--seed: must be a whole number, got 'abc'"),
        (["x", "--frames", "1.5"], "--frames: must be a whole number, got '1.5'"),
        (["x", "--guidance-scale", "high"], "--guidance-scale: must be a number, got 'high'"),
        (["x", "--guidance-scale", "100.0000001"], "--guidance-scale: must be between 0 and 100, got 100.0000001"),
        (["x", "--guidance-scale", "nan"], "--guidance-scale: must be between 0 and 100, got nan"),
        (["x", "--interpolate", "121"], "--interpolate: must be between 1 and 120, got 121"),
        (["x", "--count", "0"], "--count: must be a whole number between 1 and 10000, got 0"),
        (["x", "--count", "many"], "--count: must be a whole number between 1 and 10000, got 'many'"),
        (["x", "--seed"], "Option '--seed' requires an argument"),
        (
            ["x", "--stepz", "3"],
            "No such option: --stepz (Possible options: --seed, --size, --steps) (root generate --help)",
        ),
        (["x", "y"], "Got unexpected extra argument(s) (y) (root generate --help)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_option_is_one_line_too(words: list[str], says: str) -> None:
    refused(call("generate", *words), says)


def test_a_mistyped_command_is_one_line_too() -> None:
    refused(call("generat"), "No such command 'generat'. Did you mean 'generate'? (root --help)")
    refused(call("keys", "create"), "Missing argument 'NAME' (root keys create --help)")
    refused(
        call("keys", "create", "a", "--jobs-per-key", "0"),
        "--jobs-per-key: must be a whole number between 1 and 1000000, got 0",
    )
    assert "Commands" in call("keys").output, "without a subcommand it prints the help"


def test_a_replay_goes_where_it_is_told() -> None:
    model = ["--model", str(checkpoints.cached("5b")), "--device", "cpu"]
    assert call("generate", "x", "--frames", "9", "--steps", "1", *model, "-o", "a.gif").exit_code == 0
    refused(
        call("replay", "a.gif", "-o", "b.mp4", *model),
        "--output: b.mp4 must end in .gif as the video does, or in / if it is a folder",
    )
    done = call("replay", "a.gif", "-o", "again.v1/", *model)
    assert done.exit_code == 0 and Path("again.v1/a.replay.gif").read_bytes() == Path("a.gif").read_bytes(), done.output


def test_both_halves_of_an_emoji_are_one_character() -> None:
    values: dict[str, Any] = {"prompt": "😀", "negative_prompt": "🎬"}
    (job,) = jobs_of(json.dumps(values).encode())  # json.dumps escapes both halves: \\ud83d\\ude00
    assert (job.request.prompt, job.request.negative_prompt) == ("😀", "🎬")
