"""Hugging Face's inference calls for the CogVideoX models, which answer with the bytes of the video.

`app` has the URLs, `calls` the call, `models` the body; `intake` turns a body into a GenerationRequest; `errors` says
what went wrong. `clients` are programs. There are no other answers and no webhooks.
"""

from server.facades.facade import Facade
from server.facades.huggingface import errors
from server.facades.huggingface.app import create
from server.facades.huggingface.clients import CLIENTS

FACADE = Facade("Hugging Face", create, CLIENTS, errors.refuse)
