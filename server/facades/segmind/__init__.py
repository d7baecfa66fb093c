"""Segmind: `cog-video-5b-t2v` and `cog-video-5b-i2v`, blocking and queued.

`app` has the calls, `models` what they may contain, `form` decides between JSON and plain video bytes, `answers` puts
a job into Segmind's words and `errors` the rest.
"""

from server.facades.facade import Facade
from server.facades.segmind.app import PREFIXES, create

FACADE = Facade("Segmind", PREFIXES, create)
