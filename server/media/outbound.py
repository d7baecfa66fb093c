"""All outbound connections: downloads of URLs in requests, and webhook calls. Private addresses are refused.

Knows: HTTP, limits, and which addresses may be dialled. Does not know: the expected content.
The check applies to the address that the socket is about to connect to, after each name look-up and redirect, so that
changing a name's address between a check and the connection (DNS rebinding) has no effect.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import AddrInfoType

from server.datadir import full_disk_named
from server.errors import TooManyAtOnce
from server.limits.room import Writable
from server.limits.shares import Shares
from server.media.addresses import is_public
from server.media.answers import Answer, TooMuchWork
from server.media.names import NameNotResolved, Names

SECONDS = 30.0  # seconds for the whole download, redirects included
AT_ONCE, PER_KEY = 64, 8  # downloads
WAIT = 30.0  # seconds that a download waits for other downloads of its key
REDIRECTS = 3
CHUNK = 2**16
COMPRESSED = ("gzip", "x-gzip", "deflate", "br", "zstd", "compress")


class Forbidden(OSError):
    """Connections to this address are not allowed."""


class DownloadFailed(Exception):
    """`message` may be shown to the client; it reveals nothing about a refused address."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TooLarge(DownloadFailed):
    pass


class Unreachable(DownloadFailed):
    """The host did not answer, or not in time; an immediate retry would fail too."""


class Outbound:
    """Use from one event loop only. `allowed(address)`: whether this IP address may be called. `owner`: the owner name
    of the API key; slow hosts and name servers of one key do not delay other keys."""

    def __init__(self, allowed: Callable[[str], bool] = is_public, seconds: float = SECONDS) -> None:
        self._allowed = allowed
        self._seconds = seconds
        self._names = Names()
        self._downloads = Shares("downloads", AT_ONCE, PER_KEY)
        self._transfers = set[asyncio.Task[object]]()

    async def download(self, url: str, limit: int, owner: str = "") -> bytes:
        """Downloads at most `limit` bytes. Raises TooLarge, DownloadFailed."""
        data = bytearray()
        async with self._turn(owner), self._transfer(self._seconds, owner) as session:
            async for chunk in _follow(session, url, limit):
                data += chunk
        return bytes(data)

    async def save(self, url: str, limit: int, file: Writable, seconds: float | None = None, owner: str = "") -> None:
        """Downloads at most `limit` bytes into `file`. Raises TooLarge, DownloadFailed, DiskFull."""
        async with self._turn(owner), self._transfer(seconds or self._seconds, owner) as session:
            async for chunk in _follow(session, url, limit):
                with full_disk_named():
                    file.write(chunk)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float, owner: str = "") -> int:
        """Posts `body` and returns the response's status, which may be a redirect. Raises DownloadFailed; Unreachable
        when no response came."""
        async with self._transfer(seconds, owner) as session:
            _check_scheme(url)
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return answer.status

    async def close(self) -> None:
        """Cancels the transfers in progress."""
        for task in self._transfers:
            task.cancel()

    @asynccontextmanager
    async def _turn(self, owner: str) -> AsyncIterator[None]:
        try:
            await self._downloads.take(owner, WAIT)
        except TooManyAtOnce as e:
            raise DownloadFailed(f"{e.message}; it waited {WAIT:g} seconds") from None
        try:
            yield
        finally:
            self._downloads.give_back(owner)

    @asynccontextmanager
    async def _transfer(self, seconds: float, owner: str) -> AsyncIterator[aiohttp.ClientSession]:
        """A session for one transfer. Turns the transfer's errors into DownloadFailed."""
        task = asyncio.current_task()
        if task is not None:
            self._transfers.add(task)
        try:
            async with asyncio.timeout(seconds), self._session(owner) as session:
                yield session
        except TimeoutError:
            raise Unreachable(f"it took longer than {seconds:g} seconds") from None
        except Forbidden:
            raise DownloadFailed("the URL leads to an address that is not public") from None
        except aiohttp.InvalidURL:
            raise DownloadFailed("the URL is not valid") from None
        except NameNotResolved as e:
            raise Unreachable(str(e)) from None
        except aiohttp.ClientConnectorDNSError:
            raise Unreachable("the host name is not known") from None
        except aiohttp.ClientConnectorError as e:
            if _is_refusal(e):
                raise DownloadFailed("the URL leads to an address that is not public") from None
            raise Unreachable("the host cannot be reached") from None
        except TooMuchWork as e:
            raise DownloadFailed(str(e)) from None
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise DownloadFailed(f"the transfer failed ({type(e).__name__})") from None
        finally:
            if task is not None:
                self._transfers.discard(task)

    def _session(self, owner: str) -> aiohttp.ClientSession:
        """A new session for each transfer, so that no transfer waits for the connection of another."""
        connector = aiohttp.TCPConnector(
            socket_factory=self._dial, resolver=self._names.of(owner), use_dns_cache=False, force_close=True
        )
        connector._factory = partial(Answer, asyncio.get_running_loop())  # type: ignore[assignment]
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,  # decompressing a tiny response could take as long as a whole file
            timeout=aiohttp.ClientTimeout(total=None),  # `asyncio.timeout` covers name look-ups and redirects too
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy would connect without our address check
            headers={"user-agent": "cogvideox-server", "accept-encoding": "identity"},
            max_line_size=16384,
        )

    def _dial(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, where = address
        if not self._allowed(str(where[0])):
            raise Forbidden("address not public")
        return socket.socket(family, kind, protocol)


async def _follow(session: aiohttp.ClientSession, url: str, limit: int) -> AsyncIterator[bytes]:
    for _ in range(REDIRECTS + 1):
        _check_scheme(url)
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                url = urljoin(str(answer.url), answer.headers["location"])
                continue
            if answer.status != 200:
                raise DownloadFailed(f"the host answered {answer.status}")
            if (answer.content_length or 0) > limit:
                raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
            if (encoding := answer.headers.get("content-encoding", "").strip().lower()) in COMPRESSED:
                raise DownloadFailed(f"the host sent it compressed ({encoding}), although the request excludes that")
            size = 0
            async for chunk in answer.content.iter_chunked(CHUNK):
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
                yield chunk
            return
    raise DownloadFailed(f"the URL redirects more than {REDIRECTS} times")


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise DownloadFailed("only http and https URLs are called")


def _is_refusal(error: BaseException) -> bool:
    seen: list[BaseException | None] = [error, error.__cause__, error.__context__]
    seen.append(getattr(error, "os_error", None))
    return any(isinstance(e, Forbidden) or "address not public" in str(e) for e in seen if e is not None)
