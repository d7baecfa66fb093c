"""Hugging Face's inference call for the CogVideoX models, which returns the bytes of the video.

`app` has the route, `calls` the call, `models` the body; `intake` converts a body to a GenerationRequest; `errors`
formats errors. `clients` contains example programs. This façade has no other calls and no webhooks.
"""

from server.facades.facade import Facade
from server.facades.huggingface import errors
from server.facades.huggingface.app import create
from server.facades.huggingface.clients import CLIENTS

FACADE = Facade("Hugging Face", create, CLIENTS, errors.refuse)
