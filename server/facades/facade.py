"""The interface of a façade. `registry.py` lists the façades; `routes.py` lists the path prefixes of each façade."""

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
    """An example program that uses this server with a vendor's own client. `filled` replaces the words ADDRESS and KEY
    in `text`."""

    title: str
    language: str  # as for a Markdown code block: python, js, sh, yaml, json
    text: str

    def filled(self, address: str, key: str) -> str:
        places = {ADDRESS: address, ADDRESS.partition("://")[2]: address.partition("://")[2], KEY: key}
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], self.text)


@dataclass(frozen=True)
class Facade:
    """One cloud's API.

    `create` creates the cloud's app. The routes of the app have complete paths, with all prefixes. `clients` are
    example programs. `refuse` returns the response to a request that raised an exception. `letter` returns the webhook
    for an event of a job (one of `job.EVENTS`), or None if the cloud does not report the event. `file_of` returns the
    file at a URL path of this API, for paths that are not under /files.
    """

    title: str
    create: Callable[[Context], FastAPI]
    clients: tuple[Snippet, ...]
    refuse: Callable[[Context, Request, Exception], Response]
    letter: Callable[[Context, Job, str], Letter | None] = lambda context, job, event: None
    file_of: Callable[[Context, str], Artifact | None] = lambda context, path: None
