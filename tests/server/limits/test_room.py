"""The server limits how many bytes each client's files take on the disk, and counts the bytes while the files grow."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.datadir import DataDir
from server.errors import DiskFull, StorageQuotaExceeded
from server.limits.room import DAY, HOUR, LEAST, LOOK_BYTES, Room, RoomLimits, tag_of
from server.media.artifacts import Artifacts, Limits
from server.media.uploads import Uploads

MIB = 2**20


class Disk:
    def __init__(self, free: int) -> None:
        self.free = free
        self.looks = 0
        self.now = 1_000_000.0

    def __call__(self) -> int:
        self.looks += 1
        return self.free

    def clock(self) -> float:
        return self.now


def room(free: int = 1000 * MIB, floor: int = 0, limits: RoomLimits | None = None) -> tuple[Room, Disk]:
    disk = Disk(free)
    made = Room(disk, floor, disk.clock)
    made.limits = limits or RoomLimits()
    return made, disk


def test_the_floor_is_kept_by_all_together() -> None:
    made, disk = room(100 * MIB, floor=80 * MIB)
    with ExitStack() as stack:
        growing = [stack.enter_context(made.growing(tag)) for tag in "abcd"]
        written = 0
        with pytest.raises(DiskFull, match="MiB are free"):
            for number in range(1000):
                growing[number % 4](MIB)
                written += MIB
                disk.free -= MIB
        assert written == 20 * MIB
    assert disk.looks <= 2 + written // LOOK_BYTES


def test_others_fill_the_disk_meanwhile() -> None:
    made, disk = room(100 * MIB, floor=80 * MIB)
    with made.growing("a") as grow:
        grow(MIB)
        disk.free = 10 * MIB
        disk.now += 2
        with pytest.raises(DiskFull, match="only 10 MiB"):
            grow(1)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [(RoomLimits(size_per_key=10 * MIB), HOUR), (RoomLimits(brought_per_key=10 * MIB), DAY)],
)
def test_the_limit_of_a_key(limits: RoomLimits, seconds: float) -> None:
    made, disk = room(limits=limits)
    with made.growing("a") as one, made.growing("a") as two, made.growing("b") as others:
        one(5 * MIB)
        two(5 * MIB)
        for grow in (one, two):
            with pytest.raises(StorageQuotaExceeded, match="10 MiB"):
                grow(1)
        others(10 * MIB)
    with made.growing("a") as grow:
        grow(10 * MIB)  # files that the server did not keep do not count
    made.note("a", 8 * MIB, brought=True)
    with made.growing("a") as grow:
        grow(2 * MIB)
        with pytest.raises(StorageQuotaExceeded):
            grow(1)
    with made.growing("a", again=True) as grow:
        grow(50 * MIB)  # a copy does not count, because the original's bytes count already
    disk.now += seconds + 1200
    with made.growing("a") as grow:
        grow(10 * MIB)


def test_what_is_deleted_does_not_count_and_earns_nothing() -> None:
    made, disk = room(limits=RoomLimits(brought_per_key=10 * MIB))
    made.note("a", 8 * MIB, brought=True)
    made.note("a", -8 * MIB, brought=True)
    old = disk.now - 3 * DAY
    made.note("a", -100 * MIB, brought=True, at=old)
    with made.growing("a") as grow:
        grow(10 * MIB)
        with pytest.raises(StorageQuotaExceeded):
            grow(1)


def test_small_files_count_too() -> None:
    made, _ = room(limits=RoomLimits(brought_per_key=10 * LEAST))
    for _ in range(10):
        made.note("a", 1, brought=True)
    with made.growing("a") as grow, pytest.raises(StorageQuotaExceeded):
        grow(1)


def test_results_are_no_uploads() -> None:
    made, _ = room(limits=RoomLimits(brought_per_key=MIB))
    made.note("a", 100 * MIB, brought=False)
    with made.growing("a") as grow:
        grow(MIB)
    made.note_fetched("a", MIB)
    with made.growing("a") as grow, pytest.raises(StorageQuotaExceeded):
        grow(1)


def test_all_files_together() -> None:
    made, disk = room(limits=RoomLimits(size=10 * MIB))
    made.note("a", 6 * MIB, brought=False)
    with made.growing("b") as grow:
        grow(4 * MIB)
        with pytest.raises(DiskFull, match="10 MiB"):
            grow(1)
    disk.now += HOUR + 1200
    with made.growing("b") as grow:
        grow(10 * MIB)


def test_a_recount_forgets_no_file_that_comes_meanwhile() -> None:
    made, disk = room(limits=RoomLimits(brought_per_key=10 * MIB))
    made.note("a", 9 * MIB, brought=True)
    with made.recount() as found:
        made.note("a", 5 * MIB, brought=True)
        found([("a", MIB, True, disk.now)])
    with made.growing("a") as grow:
        grow(4 * MIB)
        with pytest.raises(StorageQuotaExceeded):
            grow(1)


# -- uploads ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = DataDir(tmp_path / "data")
    data.room.limits = RoomLimits(brought_per_key=4 * MIB)
    yield data
    data.close()


@pytest.fixture
def uploads(data: DataDir) -> Uploads:
    return Uploads(data, Artifacts(data))


async def sent(mebibytes: int, seen: list[int] | None = None) -> AsyncIterator[bytes]:
    for number in range(mebibytes * 16):
        if seen is not None:
            seen.append(number)
        yield bytes(MIB // 16)


def files(data: DataDir) -> list[Path]:
    return [path for folder in (data.uploads, data.artifacts, data.temporary) for path in folder.rglob("*")]


def test_an_upload_is_cut_at_the_limit_of_its_key(data: DataDir, uploads: Uploads) -> None:
    seen: list[int] = []
    with pytest.raises(StorageQuotaExceeded):
        asyncio.run(uploads.store(sent(100, seen), "a.bin", owner="mallory"))
    assert len(seen) == 4 * 16 + 1 and files(data) == []
    asyncio.run(uploads.store(sent(4), "a.bin", owner="bob"))


def test_uploads_at_the_same_time_count_together(data: DataDir, uploads: Uploads) -> None:
    async def three() -> list[object]:
        sends = (uploads.store(sent(2), "a.bin", owner="mallory") for _ in range(3))
        return list(await asyncio.gather(*sends, return_exceptions=True))

    ends = asyncio.run(three())
    assert sum(isinstance(end, StorageQuotaExceeded) for end in ends) >= 1, ends
    kept = sum(path.stat().st_size for path in data.artifacts.rglob("*.bin"))
    assert kept <= 4 * MIB and list(data.uploads.iterdir()) == []


def test_parts_of_many_unfinished_uploads_count(data: DataDir, uploads: Uploads) -> None:
    artifacts = Artifacts(data)
    keys = [artifacts.new_key("mallory") for _ in range(5)]
    for key in keys[:4]:
        asyncio.run(uploads.store_part(key, 1, sent(1)))
    with pytest.raises(StorageQuotaExceeded):
        asyncio.run(uploads.store_part(keys[4], 1, sent(1)))
    artifacts.sweep(Limits(), uploads.parts)
    with pytest.raises(StorageQuotaExceeded):
        asyncio.run(uploads.store_part(keys[4], 1, sent(1)))
    asyncio.run(uploads.complete(keys[0], [1], "a.bin"))
    with pytest.raises(StorageQuotaExceeded):
        asyncio.run(uploads.store_part(keys[4], 1, sent(1)))


def test_a_deleted_upload_makes_room_at_once(data: DataDir, uploads: Uploads) -> None:
    first = asyncio.run(uploads.store(sent(4), "a.bin", owner="mallory"))
    with pytest.raises(StorageQuotaExceeded):
        asyncio.run(uploads.store(sent(4), "a.bin", owner="mallory"))
    Artifacts(data).remove(first)
    asyncio.run(uploads.store(sent(4), "a.bin", owner="mallory"))


def test_old_uploads_beyond_the_limit_go(data: DataDir, uploads: Uploads) -> None:
    artifacts = Artifacts(data)
    made = []
    for age in (3 * DAY, 2 * DAY, 60.0):
        made.append(asyncio.run(uploads.store(sent(3), "a.bin", owner="mallory")))
        os.utime(data.artifacts / made[-1].key / "a.bin", (time.time() - age,) * 2)
        artifacts.sweep(Limits(), uploads.parts)
    result = artifacts.put("a.mp4", "video/mp4", bytes(MIB), owner="mallory")
    os.utime(data.artifacts / result.key / "a.mp4", (time.time() - 9 * DAY,) * 2)
    artifacts.sweep(Limits(brought_per_owner=4 * MIB))
    there = [artifacts.find(one.key) is not None for one in (*made, result)]
    assert there == [False, False, True, True], "uploads of the last day and results stay"


def test_tags_are_the_beginnings_of_keys(data: DataDir) -> None:
    artifacts = Artifacts(data)
    assert artifacts.new_key("bob")[:8] == tag_of("bob") != tag_of("mallory")
    assert artifacts.new_key()[:8] == tag_of("")


def test_what_a_crash_has_left_is_removed_at_the_start(tmp_path: Path) -> None:
    first = DataDir(tmp_path / "data")
    parts = first.uploads / ("k" * 32)
    parts.mkdir()
    (parts / "1").write_text("a part, with which its client may go on")
    (first.temporary / "spool").mkdir()
    for path in (
        first.uploads / "tmpabc",
        first.temporary / "spool" / "x",
        first.temporary / "y",
        first.checkpoints / ".ab_12xyz",
        first.loras / ".ab_12xyz",
        first.inputs / ".ab_12xyz",
    ):
        path.write_text("half")
    first.close()
    second = DataDir(tmp_path / "data")
    try:
        left = [p.name for p in (tmp_path / "data").rglob("*") if p.is_file()]
        assert sorted(left) == ["1", "lock"]
    finally:
        second.close()
