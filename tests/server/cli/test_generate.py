"""The commands `cogvideox generate` and `cogvideox replay`, on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines.video import VideoWriter, read_manifest, read_video
from server.cli import app
from server.cli.arguments import batch
from tests.rigs import checkpoints
from tests.rigs.generate_command import QUICK, call
from tests.rigs.generate_command import own_folder as own_folder


def test_a_prompt_becomes_a_file_with_poster_and_manifest_beside_it(tmp_path: Path) -> None:
    done = call("generate", "a red circle", *QUICK, "--seed", "4", "--size", "96x64", "-o", "out/a.mp4")
    assert done.exit_code == 0, done.output
    assert "9 frames 96x64 at 8 fps, seed 4" in done.stdout
    assert len(read_video("out/a.mp4", max_frames=99, max_pixels=10**6, max_seconds=9).frames) == 9
    with Image.open("out/a.mp4.jpg") as poster:
        assert poster.size == (96, 64)
    beside = json.loads(Path("out/a.mp4.json").read_text())
    inside = read_manifest("out/a.mp4")
    assert {k: beside[k] for k in inside} == inside
    assert beside["finished_at"] > beside["started_at"]
    assert set(beside["timings"]) == {"load", "encode", "denoise", "decode"}


def test_several_videos_count_the_seed_up() -> None:
    done = call("generate", "a red circle", *QUICK, "--seed", "7", "--count", "2", "-o", "b.gif")
    assert done.exit_code == 0, done.output
    assert [read_manifest(f"b-{i}.gif")["seed"] for i in (1, 2)] == [7, 8]


def test_without_an_output_the_file_gets_a_name_of_its_own() -> None:
    assert call("generate", "a red circle", *QUICK).exit_code == 0
    made = list(Path("outputs").glob("*.mp4"))
    assert len(made) == 1
    assert made[0].stem.endswith(str(read_manifest(made[0])["seed"]))


def test_replay_gives_the_same_bytes(tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").save("first.png")
    done = call("generate", "a red circle", *QUICK, "--image", "first.png", "-o", "a.mp4", kind="5b-i2v")
    assert done.exit_code == 0, done.output
    again = call("replay", "a.mp4", "-o", "b.mp4", kind="5b-i2v")
    assert "byte for byte the same file" in again.stdout, again.output
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    Path("first.png").unlink()
    lost = call("replay", "a.mp4", kind="5b-i2v")
    assert (lost.exit_code, lost.stderr) == (2, "cogvideox: this video was made from an image; give it with --image\n")
    Image.radial_gradient("L").save("other.png")
    other = call("replay", "a.mp4", "--image", "other.png", kind="5b-i2v")
    assert (other.exit_code, "SHA-256 differs" in other.stderr) == (2, True)


def test_a_video_of_several_clips_and_its_replay() -> None:
    both = f"{checkpoints.cached('5b')},{checkpoints.cached('5b-i2v')}"
    longer = ["--frames", "20", "--steps", "1", "--device", "cpu", "--extend"]
    done = call("generate", "a red circle", *longer, "--model", both, "-o", "long.mp4", kind=None)
    assert done.exit_code == 0, done.output
    assert "20 frames 64x48" in done.stdout
    inside = read_manifest("long.mp4")
    assert both.split(",") == [str(checkpoints.cached("5b").parent / inside[k]["name"]) for k in ("model", "extender")]
    assert inside["notes"] == [
        note for note in inside["notes"] if note.startswith("extend: 20 frames -> 2 clips of 17, 9")
    ]
    again = call("replay", "long.mp4", "--device", "cpu", "--model", both, kind=None)
    assert "byte for byte the same file" in again.stdout, again.output
    alone = call("generate", "a red circle", *longer)
    assert alone.exit_code == 2 and "extend: a video of" in alone.stderr and "none is served" in alone.stderr


def test_a_batch_goes_on_where_it_stopped() -> None:
    lines = [
        {"prompt": "one", "seed": 1},
        {"prompt": "two"},
        {"prompt": "three", "seed": 3, "steps": 2, "output": "named.gif"},
    ]
    Path("list.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    assert call("generate", "--batch", "list.jsonl", *QUICK).exit_code == 0
    made = {p.name: p.read_bytes() for p in Path("list").iterdir() if p.suffix in (".mp4", ".gif")}
    assert sorted(made) == ["0001.mp4", "0002.mp4", "named.gif"]
    assert read_manifest("list/named.gif")["plan"]["num_inference_steps"] == 2
    Path("list/0001.mp4").unlink()
    Path("list/named.gif").write_bytes(made["named.gif"][:500])  # the file is truncated, as if the disk had been full
    again = call("generate", "--batch", "list.jsonl", *QUICK)
    assert "1 of 3 are done already" in again.stderr
    assert {p.name: p.read_bytes() for p in Path("list").iterdir() if p.suffix in (".mp4", ".gif")} == made
    lines[0]["prompt"] = "another"
    Path("list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    changed = call("generate", "--batch", "list.jsonl", *QUICK)
    assert changed.exit_code == 2
    assert "list.jsonl:1: output: list/0001.mp4 holds another video; --overwrite replaces it" in changed.stderr
    assert {p.name: p.read_bytes() for p in Path("list").iterdir() if p.suffix in (".mp4", ".gif")} == made
    again = call("generate", "--batch", "list.jsonl", *QUICK, "--overwrite")
    assert "2 of 3 are done already" in again.stderr
    assert read_manifest("list/0001.mp4")["request"]["prompt"] == "another"
    other = call("generate", "--batch", "list.jsonl", *QUICK, kind="2b")
    assert other.exit_code == 2 and "done already" not in other.stderr, "another model makes different videos"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "list.jsonl:2: not JSON"),
        ('{"steps": 3}', 'list.jsonl:2: must be an object with a "prompt"'),
        ('{"prompt": "x", "stepz": 3}', "list.jsonl:2: unknown field 'stepz'"),
        ('{"prompt": "x", "steps": "3"}', "list.jsonl:2: steps: must be an integer, got '3'"),
        ('{"prompt": "x", "image": "gone.png"}', "list.jsonl:2: image: gone.png is not there"),
        ('{"prompt": "x", "output": "a.avi"}', "list.jsonl:2: output: a.avi must end in .mp4, .gif or .webm"),
        ('{"prompt": "x", "output": "../a.mp4"}', "list.jsonl:2: output: must stay inside the folder"),
        ('{"prompt": "x", "output": "0001.mp4"}', "list.jsonl:2: output: 0001.mp4 is line 1's already"),
        ('{"prompt": "x", "output": "a/../0001.mp4"}', "list.jsonl:2: output: 0001.mp4 is line 1's already"),
        ('{"prompt": "x", "loras": 3}', "list.jsonl:2: loras: must be a list"),
        ('{"prompt": "x", "frames": 9, "num_frames": 17}', "list.jsonl:2: frames: num_frames is given too"),
        ('{"prompt": "x", "size": "64x48", "width": 99}', "list.jsonl:2: size: width is given too"),
        ('{"prompt": "x", "output_format": "avi"}', "list.jsonl:2: output_format: must be one of mp4, gif, webm"),
        (
            '{"prompt": "x", "output": "a.mp4", "output_format": "gif"}',
            "list.jsonl:2: output_format: is gif, but output",
        ),
        (f'{{"prompt": "x", "image": "{"x" * 5000}"}}', "list.jsonl:2: image: xxx"),
        (
            '{"prompt": "x", "image": "data:image/png;base64,AAAA"}',
            "list.jsonl:2: image: must be a file on this machine",
        ),
        (f'{{"prompt": "x", "output": "{"x" * 5000}.mp4"}}', "list.jsonl:2: output: "),
    ],
)
def test_a_bad_line_stops_a_batch_before_it_starts(line: str, says: str) -> None:
    Path("list.jsonl").write_text('{"prompt": "fine"}\n' + line + "\n")
    done = call("generate", "--batch", "list.jsonl", *QUICK)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"cogvideox: {says}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("list/0001.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "a prompt is needed, or --batch FILE"),
        (["x", "--size", "10"], "--size: must be WIDTHxHEIGHT in pixels, such as 720x480, got '10'"),
        (["x", "--size", "1x1"], "--size: width must be between 16 and 4096, got 1"),
        (["x", "--size", "20000x48"], "--size: width must be between 16 and 4096, got 20000"),
        (["x", "--image", "gone.png"], "--image: gone.png is not there"),
        (["x", "--lora", "gone.safetensors:0.5"], "--lora: gone.safetensors is not a file"),
        (["x", "-o", "a.avi"], "--output: a.avi must end in .mp4, .gif or .webm"),
        (["x", "--frames", "0"], "--frames: must be between 1 and 1000, got 0"),
        (["x", "--guidance-scale", "-1"], "--guidance-scale: must be between 0 and 100, got -1"),
        (["x", "--seed", "-5"], "--seed: must be between 0 and 9223372036854775807, got -5"),
        (["  "], "PROMPT: must not be empty"),
        (["x", "--frames", "16", "--strict"], "--frames: 16 is not possible as asked"),
        (["x", "--interpolate", "0"], "--interpolate: must be between 1 and 120, got 0"),
        (["x", "--memory", "little"], "--memory=little: must be 'auto'"),
        (["x", "--device", "cuda:7"], "--device=cuda:7: there is no cuda:7"),
        (["x", "-o", "/proc/nowhere/a.mp4"], "--output: /proc/nowhere cannot be made"),
        (["x", "-o", "x" * 5000], "--output: xxx"),
        (["x", "--lora", "x" * 5000], "--lora: xxx"),
        (["x", "--image", "data:image/png;base64," + "A" * 5000], "--image: must be a file on this machine"),
        (["x", "--video", "https://example.com/a.mp4"], "--video: must be a file on this machine"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    done = call("generate", *arguments, *([] if "--device" in arguments else ["--device", "cpu"]))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.strip().splitlines()[-1].startswith(f"cogvideox: {says}"), done.stderr


def test_a_line_may_say_which_format_it_wants() -> None:
    Path("list.jsonl").write_text('{"prompt": "x", "output_format": "gif"}\n')
    assert [job.path for job in batch(Path("list.jsonl"), {}, None)] == [Path("list/0001.gif")]


@pytest.mark.parametrize("command", [["generate", "x", "--model"], ["generate", "x", "--upscaler"], ["replay"]])
def test_names_that_are_too_long_for_a_file(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "x" * 5000])
    assert done.exit_code == 2 and done.stderr.startswith("cogvideox: ") and done.stderr.count("\n") == 1, done.output


def test_an_upscaler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` and `serve` report a missing upscaler at startup, before any model loads."""
    Path("net.pth").write_bytes(b"")
    monkeypatch.setattr("server.served.find_spec", lambda name: None)
    for file, says in (("none.pth", "there is no such file"), ("net.pth", "needs the package spandrel")):
        done = call("generate", "x", *QUICK, "--upscaler", file, "-o", "a.mp4")
        assert done.exit_code == 2 and not Path("a.mp4").exists()
        assert done.stderr.startswith(f"cogvideox: --upscaler={file}: {says}"), done.stderr
        monkeypatch.setenv("COGVIDEOX_UPSCALER", file)
        done = call("serve", "--port", "0", "--device", "cpu")
        assert (done.exit_code, f"COGVIDEOX_UPSCALER={file}: {says}" in done.stderr) == (2, True), done.output
        monkeypatch.delenv("COGVIDEOX_UPSCALER")


def test_models_that_are_not_there() -> None:
    for name, says in (
        ("nope", "--model=nope: no such model; known names: cogvideox-2b,"),
        ("cogvideox-5b", "cogvideox weights pull cogvideox-5b"),
    ):
        done = call("generate", "x", "--model", name, kind=None)
        assert (done.exit_code, says in done.stderr) == (2, True), done.output


def test_half_a_checkpoint(tmp_path: Path) -> None:
    folder = checkpoints.build("5b", tmp_path / "half")
    missing = checkpoints.damage(folder, "missing-shard")
    done = call("generate", "x", "--model", str(folder), "--device", "cpu", kind=None)
    assert done.exit_code == 2, done.stderr
    assert f"does not load: {missing.relative_to(folder)}: missing" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_replay_of_something_else() -> None:
    Path("a.mp4").write_text("no film")
    assert call("replay", "a.mp4").exit_code == 2
    gone = call("replay", "gone.mp4")
    assert (gone.exit_code, gone.stderr) == (2, "cogvideox: gone.mp4 is not there\n")


def test_a_manifest_of_another_version_is_not_replayed() -> None:
    with VideoWriter("old.mp4", 32, 32, 8, "mp4", {"request": {"prompt": "x"}, "model": {"name": "5b"}}) as writer:
        writer.write(np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8))
    done = call("replay", "old.mp4")
    assert (done.exit_code, "old.mp4: has a manifest without a format" in done.stderr) == (2, True), done.stderr
    assert not Path("old.replay.mp4").exists()


def test_a_file_that_exists_is_not_overwritten() -> None:
    done = call("generate", "a red circle", *QUICK, "--seed", "1", "-o", "a.mp4")
    assert done.exit_code == 0, done.output
    first = Path("a.mp4").read_bytes()
    for words in (["generate", "x", *QUICK, "-o", "a.mp4"], ["replay", "a.mp4", "-o", "a.mp4", "--overwrite"]):
        refused = call(*words)
        assert refused.exit_code == 2 and refused.stderr.startswith("cogvideox: --output: a.mp4 "), refused.stderr
        assert Path("a.mp4").read_bytes() == first
    again = call("generate", "a red circle", *QUICK, "--seed", "2", "-o", "a.mp4", "--overwrite")
    assert again.exit_code == 0 and Path("a.mp4").read_bytes() != first
    Path("c-2.gif").touch()
    several = call("generate", "x", *QUICK, "--count", "3", "-o", "c.gif")
    assert several.exit_code == 2 and "c-2.gif exists" in several.stderr and not Path("c-1.gif").exists()


def test_a_file_that_appears_meanwhile_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*_: object) -> None:
        Path("a.gif").write_bytes(b"mine")

    monkeypatch.setattr("server.cli.checks.check_outputs", lambda *_, **__: meanwhile())
    done = call("generate", "a red circle", *QUICK, "-o", "a.gif")
    assert done.exit_code == 0 and done.stdout.startswith("a-1.gif  "), done.output
    assert (Path("a.gif").read_bytes(), read_manifest("a-1.gif")["request"]["prompt"]) == (b"mine", "a red circle")


@pytest.mark.slow
def test_the_demo_is_introduced_once_and_enlarged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in (1, 2):
        done = call("generate", "a red circle", *QUICK, "-o", f"{number}.mp4", kind=None)
        assert done.exit_code == 0, done.output
        assert ("This is the demo model" in done.stderr) == (number == 1)
        assert "9 frames 720x480" in done.stdout and done.stdout.strip().endswith("demo model")
    assert "byte for byte" in call("replay", "1.mp4", "--device", "cpu", kind=None).stdout
