"""Some jobs share latents, and the server keeps the most recently used latents up to a total size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipelines.request import Media
from pipelines.resolve import resolve
from server.jobs.job import Job
from server.workers.snapshots import Snapshots, sampling_of
from tests.rigs.plans import ask, model


def test_kept_latents_have_their_room(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path, keep_bytes=25)
    for n, name in enumerate("abcd"):
        kept.write(name, bytes(10))
        kept.keep(name, f"sampling {name}")
        os.utime(tmp_path / "finished" / f"sampling {name}", (n, n))
        if name == "b":
            kept.read("nobody", "sampling a")  # this read leaves b as the least recently used
            os.utime(tmp_path / "finished" / "sampling a", (9, 9))
    assert [kept.read("nobody", f"sampling {name}") is not None for name in "abcd"] == [True, False, False, True]
    assert kept.job_ids() == []


def test_pictures_decide_by_what_is_in_them() -> None:
    def key(**more: Any) -> str:
        request = ask(**more)
        plan = resolve(request, model("cogvideox-5b-i2v" if request.image else "cogvideox-5b"))
        return sampling_of(Job("id", "f", "e", request, {}, plan.sampling.model, 0.0, plan=plan.to_dict()))

    picture, same, other = Media("/a", "1"), Media("/b", "1"), Media("/a", "2")
    assert key(image=picture) == key(image=same) != key(image=other)
    assert key(image=picture, width=720, height=480) != key(image=picture, width=800, height=480)
    assert key(width=720) == key(width=740) != key(image=picture)


def test_a_job_without_a_plan_shares_no_latents() -> None:
    """A job without a plan, or with a plan from an older version of this server, shares no latents."""
    for plan in (None, {"seed": 1, "model_frames": 49}):
        assert sampling_of(Job("id", "f", "e", ask(), {}, "m", 0.0, plan=plan)) == "id"
