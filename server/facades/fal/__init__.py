"""fal.ai: `fal-ai/cogvideox-5b` and its two siblings, run and queue, webhooks, and the storage their clients upload to.

`hosts` finds out which of fal's hosts a request was meant for, `guard` lets it in, `app` routes it to `calls` or
`storage`; `models` says what it may contain, `options` what may come beside it, `intake` turns that into a
GenerationRequest, `answers` puts a job into fal's words, `webhook` into a signed letter, and `errors` all the rest.
"""

from server.facades.facade import Facade
from server.facades.fal import errors
from server.facades.fal.app import create
from server.facades.fal.clients import CLIENTS
from server.facades.fal.storage import file_of
from server.facades.fal.webhook import letter

FACADE = Facade("fal.ai", create, CLIENTS, errors.refuse, letter, file_of)
