"""The rig detects a server that has stopped, and accepts a server that nobody disturbs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.rigs import pace
from tests.rigs.attacks.rig import NOTICEABLE, attacked


@pytest.mark.slow
def test_a_server_that_stands_still_is_noticed_and_one_in_peace_is_not(tmp_path: Path) -> None:
    with attacked(tmp_path) as target:
        with target.bystander() as seen:
            time.sleep(1)
        target.assert_unnoticed(seen)
        target.assert_memory_returns()
        with target.bystander() as seen:
            os.kill(target.process.pid, signal.SIGSTOP)
            time.sleep(pace.seconds(2 * NOTICEABLE))
            os.kill(target.process.pid, signal.SIGCONT)
        with pytest.raises(AssertionError, match="in peace"):
            target.assert_unnoticed(seen)
        target.assert_stops()
