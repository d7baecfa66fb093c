"""The one way out: downloads of what a request names and calls of its webhook, under guard.

Knows: HTTP, limits, and which addresses may be dialled. Does not know: what the bytes should be.
The guard looks at the address the socket is about to be connected to, after every name look-up and for each redirect,
so a name that changes its mind between a check and a call gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import AddrInfoType

from server.datadir import full_disk_named
from server.media.addresses import is_public

SECONDS = 30.0  # for the whole download, redirects included
REDIRECTS = 3
CHUNK = 2**16


class Forbidden(OSError):
    """The address is not one to go to."""


class DownloadFailed(Exception):
    """`message` may be shown to who gave the URL; it tells nothing about what lies behind a refused address."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TooLarge(DownloadFailed):
    pass


class Door:
    """`allowed` judges an address in text form. Belongs to one event loop, from the first download to `close`."""

    def __init__(self, allowed: Callable[[str], bool] = is_public, seconds: float = SECONDS) -> None:
        self._allowed = allowed
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    async def download(self, url: str, limit: int) -> bytes:
        """At most `limit` bytes; raises TooLarge, DownloadFailed."""
        data = bytearray()
        async with self._named(self._seconds):
            async for chunk in self._follow(url, limit):
                data += chunk
        return bytes(data)

    async def save(self, url: str, limit: int, file: BinaryIO, seconds: float | None = None) -> None:
        """At most `limit` bytes into `file`; raises TooLarge, DownloadFailed, DiskFull."""
        async with self._named(seconds or self._seconds):
            async for chunk in self._follow(url, limit):
                with full_disk_named():
                    file.write(chunk)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> int:
        """Sends `body` there and gives the status of the answer, a redirect's too; raises DownloadFailed."""
        async with self._named(seconds):
            _check_scheme(url)
            async with self._open().post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return answer.status

    @asynccontextmanager
    async def _named(self, seconds: float) -> AsyncIterator[None]:
        """Turns whatever goes wrong on the way into DownloadFailed."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise DownloadFailed(f"it took longer than {seconds:g} seconds") from None
        except Forbidden:
            raise DownloadFailed("the URL leads to an address that is not public") from None
        except aiohttp.InvalidURL:
            raise DownloadFailed("the URL is not valid") from None
        except aiohttp.ClientConnectorDNSError:
            raise DownloadFailed("the host name is not known") from None
        except aiohttp.ClientConnectorError as e:
            if _is_refusal(e):
                raise DownloadFailed("the URL leads to an address that is not public") from None
            raise DownloadFailed("the host cannot be reached") from None
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise DownloadFailed(f"the transfer failed ({type(e).__name__})") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _follow(self, url: str, limit: int) -> AsyncIterator[bytes]:
        for _ in range(REDIRECTS + 1):
            _check_scheme(url)
            async with self._open().get(url, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                    url = urljoin(str(answer.url), answer.headers["location"])
                    continue
                if answer.status != 200:
                    raise DownloadFailed(f"the host answered {answer.status}")
                if (answer.content_length or 0) > limit:
                    raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
                size = 0
                async for chunk in answer.content.iter_chunked(CHUNK):
                    size += len(chunk)
                    if size > limit:
                        raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
                    yield chunk
                return
        raise DownloadFailed(f"the URL redirects more than {REDIRECTS} times")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=self._dial, limit=32),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,  # no proxy from the environment may dial in our place
                headers={"user-agent": "cogvideox-server", "accept-encoding": "identity"},
                max_line_size=16384,
            )
        return self._session

    def _dial(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, where = address
        if not self._allowed(str(where[0])):
            raise Forbidden("address not public")
        return socket.socket(family, kind, protocol)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise DownloadFailed("only http and https URLs are called")


def _is_refusal(error: BaseException) -> bool:
    seen: list[BaseException | None] = [error, error.__cause__, error.__context__]
    seen.append(getattr(error, "os_error", None))
    return any(isinstance(e, Forbidden) or "address not public" in str(e) for e in seen if e is not None)
