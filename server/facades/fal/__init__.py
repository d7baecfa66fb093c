"""fal.ai's API for `fal-ai/cogvideox-5b` and its two variants: calls that wait, the queue, webhooks, and the storage
for uploads.

`hosts` determines for which of fal's hosts a request is meant. `guard` checks the request's key, and `app` routes the
request to `calls`, `storage` or `shelf`. `models` defines the input, `options` the headers and query parameters,
`intake` converts the input to a GenerationRequest. `catalog` describes the apps, `tokens` signs tokens. `answers`
formats a job as a response, `webhook` formats and signs webhooks, and `errors` formats errors.
"""

from server.facades.facade import Facade
from server.facades.fal import errors
from server.facades.fal.app import create
from server.facades.fal.clients import CLIENTS
from server.facades.fal.storage import file_of
from server.facades.fal.webhook import letter

FACADE = Facade("fal.ai", create, CLIENTS, errors.refuse, letter, file_of)
