"""Reads a page's content with Chromium after the page's scripts have run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rigs import pace

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


def shown(address: str, profile: Path, *flags: str) -> tuple[str, str]:
    """Returns the page's HTML after its scripts have run, and the browser's log."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *flags]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--no-proxy-server", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=pace.seconds(120))
    return done.stdout, done.stderr
