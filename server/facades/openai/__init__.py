"""OpenAI: `/v1/videos`, with the files and models that its clients request.

`app` has the routes, `calls` and `files` the calls, `models` the bodies; `intake` converts a body to a
GenerationRequest; `answers` formats a job, `errors` formats errors.
"""

from server.facades.facade import Facade
from server.facades.openai import errors
from server.facades.openai.app import create
from server.facades.openai.clients import CLIENTS

FACADE = Facade("OpenAI", create, CLIENTS, errors.refuse)
