"""What the module of a façade offers. `registry.py` lists the façades, `routes.py` their paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.jobs.job import Job
from server.media.artifact import Artifact
from server.webhooks import Letter

ADDRESS = "http://127.0.0.1:8000"
KEY = "YOUR_API_KEY"


@dataclass(frozen=True)
class Snippet:
    """A program that reaches this server with a vendor's own client. `text` contains ADDRESS and KEY, which are to be
    replaced."""

    title: str
    language: str  # the word after a Markdown fence: python, js, sh, yaml, json
    text: str

    def filled(self, address: str, key: str) -> str:
        places = {ADDRESS: address, ADDRESS.partition("://")[2]: address.partition("://")[2], KEY: key}
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], self.text)


@dataclass(frozen=True)
class Facade:
    """One cloud's API.

    `create`: its app, which takes complete paths. `clients`: how to reach it. `refuse`: its answer to an exception.
    `letter`: the webhook it sends for a job's event (`job.EVENTS`), None for an event it does not send. `file_of`: the
    file at one of the façade's own URL paths, which come in addition to /files.
    """

    title: str
    create: Callable[[Context], FastAPI]
    clients: tuple[Snippet, ...]
    refuse: Callable[[Context, Request, Exception], Response]
    letter: Callable[[Context, Job, str], Letter | None] = lambda context, job, event: None
    file_of: Callable[[Context, str], Artifact | None] = lambda context, path: None
