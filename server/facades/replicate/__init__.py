"""Replicate: predictions by model, version and deployment, with models, files and webhooks.

`app` has the addresses; `calls` makes predictions, `watch` shows them to browsers, `files` takes uploads and `about`
answers everything else. `models` says what a request may contain, `catalog` describes that to clients, `answers` and
`logs` put a job into Replicate's words, `webhook` signs them, `errors` says what is wrong. `clients` are programs that
use it.
"""

from server.facades.facade import Facade
from server.facades.replicate import errors
from server.facades.replicate.app import create
from server.facades.replicate.clients import CLIENTS
from server.facades.replicate.webhook import letter

FACADE = Facade("Replicate", create, CLIENTS, errors.refuse, letter)
