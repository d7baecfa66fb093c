"""The parts of the server that a façade may use. Built in `house` only."""

from __future__ import annotations

from dataclasses import dataclass

from server.auth import Keys
from server.datadir import DataDir
from server.jobs.jobs import Jobs
from server.media.artifacts import Artifacts
from server.media.fetch import Intake
from server.media.inspectors import Inspectors
from server.media.loras import Loras
from server.media.uploads import Uploads
from server.served import Served
from server.settings import Settings
from server.signing import Signing


@dataclass(frozen=True)
class Context:
    settings: Settings
    served: Served
    data: DataDir
    jobs: Jobs
    intake: Intake
    artifacts: Artifacts
    uploads: Uploads
    keys: Keys
    signing: Signing
    loras: Loras
    inspectors: Inspectors
