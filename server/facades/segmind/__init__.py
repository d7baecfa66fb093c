"""Segmind: `cog-video-5b-t2v` and `cog-video-5b-i2v`, blocking and queued, and the upload of files.

`app` has the calls, `models` what they may contain, `assets` reads uploads, `form` decides between JSON and plain video
bytes, `answers` puts a job into Segmind's words and `errors` the rest; `clients` shows how to reach it.
"""

from server.facades.facade import Facade
from server.facades.segmind import errors
from server.facades.segmind.app import create
from server.facades.segmind.clients import CLIENTS

FACADE = Facade("Segmind", create, CLIENTS, errors.refuse)
