"""Segmind: blocking and queued calls for `cog-video-5b-t2v` and `cog-video-5b-i2v`, and the upload of files.

`app` has the calls, `models` the bodies, `assets` reads uploads, `form` chooses between JSON and plain video bytes,
`answers` formats a job, `errors` formats errors, and `clients` contains example programs.
"""

from server.facades.facade import Facade
from server.facades.segmind import errors
from server.facades.segmind.app import create
from server.facades.segmind.clients import CLIENTS

FACADE = Facade("Segmind", create, CLIENTS, errors.refuse)
