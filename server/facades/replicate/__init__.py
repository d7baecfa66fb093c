"""Replicate: predictions by model, version and deployment, with models, files and webhooks.

`app` has the routes; `calls` handles predictions, `watch` shows predictions to browsers, `files` handles uploads, and
`about` handles the read-only calls. `models` defines the input, `catalog` describes the models, `answers` and `logs`
format a job, `webhook` signs webhooks, `errors` formats errors. `clients` contains example programs.
"""

from server.facades.facade import Facade
from server.facades.replicate import errors
from server.facades.replicate.app import create
from server.facades.replicate.clients import CLIENTS
from server.facades.replicate.webhook import letter

FACADE = Facade("Replicate", create, CLIENTS, errors.refuse, letter)
