"""fal.ai: `fal-ai/cogvideox-5b` and its two siblings, run and queue.

`surface` finds out which of fal's hosts a request was meant for, `app` routes it to `calls`; `models` says what it may
contain, `intake` turns that into a GenerationRequest, `answers` puts a job into fal's words and `errors` the rest.
"""

from server.facades.facade import Facade
from server.facades.fal.app import PREFIXES, create

FACADE = Facade("fal.ai", PREFIXES, create)
