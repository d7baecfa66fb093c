"""LoRAs that a request names: by a name in the LoRA folder or on the Hugging Face Hub, or by a URL.

Knows: the forms of a LoRA's name, what may be fetched, where it is stored (by its SHA-256), whether it fits the model
of the task. Does not know: vendors' error shapes, adapters.

    style   owner/name   owner/name/file.safetensors   https://…/style.safetensors   data:…
    https://huggingface.co/owner/name/resolve/main/file.safetensors, which means owner/name/file.safetensors

Any form except `data:` may end with `#sha256=<hex>&alpha=<number>`: the hash that the file must have (the pin), and the
alpha for a file that does not contain one. A LoRA from a URL is fetched once, and again only when `fresh` is set or the
pin differs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

import structlog

from pipelines import child
from pipelines.lora import file as lora_file
from pipelines.lora import unpickle
from pipelines.lora.layout import LoraError
from pipelines.models import ModelInfo
from pipelines.request import Lora, RequestError, Task
from server.datadir import DataDir, full_disk_named, write_atomically
from server.errors import MediaError, StorageQuotaExceeded
from server.limits.room import Growing, Writable, tag_of
from server.limits.shares import Shares
from server.limits.steps import in_turn
from server.media.artifacts import Artifacts
from server.media.data_uris import from_text, head_of, pour
from server.media.inspectors import Inspectors, TooSlow
from server.media.outbound import DownloadFailed, Outbound, TooLarge
from server.settings import Settings
from weights import loras
from weights.catalog import WeightsError

SECONDS = 100.0  # seconds for one download; fal's Python client waits 120 seconds for a response
AT_ONCE, PER_KEY, WAITING = 8, 2, 100  # LoRAs being fetched or checked
LENGTH = 8192  # characters
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

log = structlog.get_logger()


class Loras:
    """Use from the event loop of `outbound` only. `models`: the model that serves each task."""

    def __init__(
        self,
        settings: Settings,
        models: Mapping[Task, ModelInfo],
        data: DataDir,
        artifacts: Artifacts,
        outbound: Outbound,
        inspectors: Inspectors,
    ) -> None:
        self._folder = settings.lora_folder
        self._most = settings.max_lora_bytes
        self._may_pull = settings.lora_pull
        self._may_pickle = settings.lora_pickle
        self._models = models
        self._data = data
        self._artifacts = artifacts
        self._outbound = outbound
        self._inspectors = inspectors
        self._turns: dict[str, asyncio.Lock] = {}  # so that simultaneous requests fetch the same file only once
        self._turns_of_keys = Shares("LoRAs", AT_ONCE, PER_KEY, WAITING)

    async def take(
        self, value: str, scale: float, task: Task, *, field: str = "loras", fresh: bool = False, owner: str = ""
    ) -> Lora:
        """Finds or fetches the file and checks by its header that it fits the model. `owner`: the owner name of the API
        key.

        Raises RequestError and MediaError that name `field`; DiskFull, QueueFull.
        """
        async with self._turns_of_keys.turn(owner):  # the turn comes before the file's lock, which other keys may need
            return await self._take(value, scale, task, field, fresh, owner)

    async def _take(self, value: str, scale: float, task: Task, field: str, fresh: bool, owner: str) -> Lora:
        is_data = value[:LENGTH].lstrip()[:5].lower() == "data:"
        name, pin, alpha = (value.strip(), None, None) if is_data else _parsed(value, field)
        try:
            if not is_data:
                name = loras.hub_name(name) or name
            if is_data:
                path = await self._fetched(name, None, None, field, owner)
            elif SCHEME.match(name):
                path = await self._of_address(name, pin, field, fresh, owner)
            else:
                path = await self._of_name(name, pin, alpha, task, field, owner)
            sha256 = await self._checked(path, pin if not self._is_ours(path) else None, alpha, task, owner)
        except (LoraError, WeightsError) as e:
            raise RequestError(field, str(e)) from None
        return Lora(str(path), scale, sha256 if pin or self._is_ours(path) else None, alpha)

    def _is_ours(self, path: Path) -> bool:
        return path.parent == self._data.loras

    async def _of_name(
        self, name: str, pin: str | None, alpha: float | None, task: Task, field: str, owner: str
    ) -> Path:
        found = await asyncio.to_thread(loras.find, name, self._folder)
        if found is None and self._may_pull and loras.REPOSITORY.fullmatch(name):
            async with self._turn(name):
                found = await asyncio.to_thread(loras.find, name, self._folder)  # another request may have fetched it
                if found is None:
                    found = await self._pulled(name, pin, alpha, task, field, owner)
        if found is None:
            raise RequestError(field, await asyncio.to_thread(loras.unknown, name, self._folder))
        return found

    async def _pulled(
        self, name: str, pin: str | None, alpha: float | None, task: Task, field: str, owner: str
    ) -> Path | None:
        """Downloads a LoRA from the hub, checks it, and installs it in the LoRA folder. None when there is none."""
        self._data.check_room()
        try:
            with loras.beside(self._folder) as scratch:
                await self._pull(name, scratch)
                came = await asyncio.to_thread(loras.find, name, scratch)
                if came is None:
                    return None
                await self._checked(came, pin, alpha, task, owner)
                return await asyncio.to_thread(loras.settle, came, scratch, self._folder, origin=name)
        except OSError as e:
            log.warning("a LoRA could not be fetched from the hub", name=name, error=str(e))
            within = f" within {SECONDS:g} seconds" if isinstance(e, TimeoutError) else ""
            message = f"{name} could not be fetched from the hub{within}"
            raise MediaError(field, "file_download_error", message) from None

    async def _of_address(self, url: str, pin: str | None, field: str, fresh: bool, owner: str) -> Path:
        if not self._most:
            raise RequestError(field, "LoRAs are not fetched from addresses here; name one that is installed")
        note = self._data.loras / f"{hashlib.sha256(url.encode('utf-8', 'replace')).hexdigest()}.url"
        async with self._turn(url):
            if not fresh and (kept := await asyncio.to_thread(self._kept, note, pin)) is not None:
                return kept
            return await self._fetched(url, note, pin, field, owner)

    async def _fetched(self, url: str, note: Path | None, pin: str | None, field: str, owner: str) -> Path:
        self._data.check_room()
        handle, name = tempfile.mkstemp(dir=self._data.loras, prefix=".")
        try:
            room, tag = self._data.room, tag_of(owner)
            with full_disk_named(), os.fdopen(handle, "wb") as file, room.growing(tag) as grow:
                await self._write(url, Growing(file, grow), owner)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
                size = file.tell()
            room.note_fetched(tag, size)  # the file counts for a day, even if it is already stored
            return await self._keep(Path(name), note, pin, owner)
        except TooLarge as e:
            raise MediaError(field, "file_too_large", e.message, max_size=self._most) from None
        except StorageQuotaExceeded as e:
            raise MediaError(field, "file_too_large", e.message, max_size=e.limit) from None
        except DownloadFailed as e:
            raise MediaError(field, "file_download_error", e.message) from None
        except FileNotFoundError:
            raise MediaError(field, "file_download_error", "the file is gone") from None
        finally:
            Path(name).unlink(missing_ok=True)

    async def _write(self, url: str, file: Writable, owner: str) -> None:
        """Raises TooLarge, DownloadFailed, FileNotFoundError."""
        if head_of(url) is not None:
            return await in_turn(owner, len(url), pour, from_text(url, self._most), self._most, file)
        if (own := await asyncio.to_thread(self._artifacts.of_url, url)) is not None:
            data, size = b"", own.size
            if size <= self._most:
                data = await asyncio.to_thread(self._artifacts.read, own)
        else:
            return await self._outbound.save(url, self._most, file, SECONDS, owner)
        if size > self._most:
            raise TooLarge(f"the file is larger than {self._most // 2**20} MiB")
        await asyncio.to_thread(file.write, data)
        return None

    def _kept(self, note: Path, pin: str | None) -> Path | None:
        """The file that was stored for this URL before, or that matches the pin. None if the file no longer exists or
        is damaged."""
        try:
            came, is_now = note.read_text("ascii").split()
        except (OSError, ValueError):
            came = is_now = pin or ""
        path = self._file(is_now if pin in (None, came) else str(pin))
        if not is_now or not self._data.touch(path) or lora_file.digest(path) != path.stem:
            return None
        self._data.touch(note)
        return path

    async def _keep(self, came: Path, note: Path | None, pin: str | None, owner: str) -> Path:
        """Stores the received file `came` under its hash; returns its path. Raises LoraError for a file that is not a
        LoRA or does not match the pin."""
        sha256 = await asyncio.to_thread(lora_file.digest, came)
        if pin not in (None, sha256):
            raise LoraError(f"the SHA-256 of what came is {sha256}, asked for was {pin}")
        with came.open("rb") as file:
            kind = lora_file.kind_of(file.read(lora_file.HEAD))
        if kind == lora_file.PICKLE:
            path = await self._converted(came, owner)
        elif kind is not None:
            raise LoraError(f"{kind.name} came, no LoRA; {kind.hint}")
        else:
            await self._inspectors.lora(came, owner)
            path = self._file(sha256)
            came.replace(path)
        if note is not None:  # for later requests: the hash of the received file, and the hash of the stored file
            await asyncio.to_thread(write_atomically, note, f"{sha256} {path.stem}".encode())
        return path

    async def _converted(self, came: Path, owner: str) -> Path:
        if not self._may_pickle:
            raise LoraError(
                f"it is {lora_file.PICKLE.name}; a LoRA must be a safetensors file, unless COGVIDEOX_LORA_PICKLE=true"
            )
        with tempfile.TemporaryDirectory(dir=self._data.loras, prefix=".") as folder:
            made = Path(folder) / "made.safetensors"
            command = child.command(unpickle.MODULE, str(came), str(made))
            async with self._inspectors.slow_turn(owner):
                try:
                    status, _, _ = await self._inspectors.program(command, unpickle.SECONDS)
                except TooSlow:
                    raise LoraError(unpickle.TOO_SLOW) from None
            if status:
                raise LoraError(unpickle.NOT_PLAIN)
            await self._inspectors.lora(made, owner)
            path = self._file(await asyncio.to_thread(lora_file.digest, made))
            made.replace(path)
        return path

    async def _checked(self, path: Path, pin: str | None, alpha: float | None, task: Task, owner: str) -> str:
        """Returns the file's SHA-256. Raises LoraError unless the file matches the pin and fits the model of the
        task."""
        model = self._models.get(task)  # if None, `Jobs.submit` reports it
        config = None if model is None else model.folder / "transformer" / "config.json"
        if config is not None and not config.is_file():  # the model's folder is gone, and its jobs will report that
            config = None
        await self._inspectors.lora(path, owner, config, alpha)
        sha256 = await asyncio.to_thread(lora_file.digest, path)
        if pin not in (None, sha256):
            raise LoraError(f"its SHA-256 is {sha256}, asked for was {pin}")
        return sha256

    async def _pull(self, name: str, folder: Path) -> None:
        """Downloads in a child process that the kernel ends in time, because the hub's library has no total time limit.

        Raises TimeoutError; ChildProcessError with a message for the log.
        """
        command = child.command(loras.__name__, name, str(folder), str(self._most), str(SECONDS))
        status, _, said = await self._inspectors.program(command, SECONDS + 30)
        if status == -signal.SIGALRM:
            raise TimeoutError(f"it took longer than {SECONDS:g} seconds")
        if status:
            raise ChildProcessError(said.decode("utf-8", "replace").strip().rpartition("\n")[2])

    def _file(self, sha256: str) -> Path:
        return self._data.loras / f"{sha256}.safetensors"

    def _turn(self, name: str) -> asyncio.Lock:
        if len(self._turns) > 1000:
            self._turns = {known: lock for known, lock in self._turns.items() if lock.locked()}
        return self._turns.setdefault(name, asyncio.Lock())


def _parsed(value: str, field: str) -> tuple[str, str | None, float | None]:
    """Name or URL, pin, alpha. Raises RequestError."""
    if len(value) > LENGTH:
        raise RequestError(field, f"must have at most {LENGTH} characters")
    name, _, said = value.strip().partition("#")
    if "=" not in said and SCHEME.match(name):  # an ordinary URL fragment, not options
        return name, None, None
    try:
        return name, *lora_file.options(said)
    except LoraError as e:
        raise RequestError(field, str(e)) from None
