"""Segmind: `cog-video-5b-t2v` and `cog-video-5b-i2v`, blocking and queued, and the upload of files.

`app` has the calls, `models` what they may contain, `body` and `assets` read it, `form` decides between JSON and plain
video bytes, `answers` puts a job into Segmind's words and `errors` the rest; `clients` shows how to reach it.
"""

from server.facades.facade import Facade
from server.facades.segmind import errors
from server.facades.segmind.app import PREFIXES, create
from server.facades.segmind.clients import CLIENTS

FACADE = Facade(
    "Segmind",
    PREFIXES,
    create,
    CLIENTS,
    lambda context, request, error: errors.respond(errors.of_exception(error)),
)
