"""The time of a name look-up and the number of look-ups per key are limited. A thread that hangs counts until it has
ended."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from server.media.names import PER_KEY, NameNotResolved, Names
from server.media.outbound import DownloadFailed, Outbound, Unreachable


def looking() -> int:
    """Counts the threads of look-ups only, because threads of other tests may end meanwhile."""
    return sum(thread.name == "name look-up" for thread in threading.enumerate())


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Look-ups of names in .dead hang until this event is set."""
    release, real = threading.Event(), socket.getaddrinfo

    def look_up(host: Any, *args: Any, **more: Any) -> Any:
        if str(host).endswith(".dead"):
            release.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return release


def test_one_keys_dead_names_leave_anothers(release: threading.Event) -> None:
    async def main() -> None:
        names = Names(seconds=0.3)
        dead = [asyncio.create_task(names.look_up("a", f"n{n}.dead", 80, 0)) for n in range(40)]
        await asyncio.sleep(0.05)
        assert looking() == PER_KEY
        found = await names.look_up("b", "localhost", 80, socket.AF_INET)
        assert found[0][4] == ("127.0.0.1", 80)
        results = await asyncio.gather(*dead, return_exceptions=True)
        assert all(isinstance(one, NameNotResolved) for one in results)
        assert looking() == PER_KEY  # no call waits for these look-ups any more, but their threads still count
        with pytest.raises(NameNotResolved):
            await names.look_up("a", "localhost", 80, 0)
        release.set()
        while names._look_ups._held:
            await asyncio.sleep(0.01)
        assert await names.look_up("a", "localhost", 80, 0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://x.dead/", "longer than 0.2 seconds"), ("http://no-such-name.invalid/", "not known|not resolved")],
)
def test_what_a_caller_reads(url: str, message: str, release: threading.Event) -> None:
    async def main() -> None:
        with pytest.raises(DownloadFailed, match=message) as caught:
            await Outbound(lambda _: True, seconds=0.2 if "dead" in url else 20).download(url, 10)
        assert isinstance(caught.value, Unreachable)

    asyncio.run(main())
    release.set()


@pytest.mark.parametrize("host", ["", "a" * 300, "\udcff", "a..b", "-", "xn--\x00"])
def test_what_is_no_name(host: str) -> None:
    async def main() -> None:
        with pytest.raises((socket.gaierror, NameNotResolved)):
            await Names().look_up("a", host or "..", 80, 0)

    asyncio.run(main())
