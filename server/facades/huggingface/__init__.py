"""Hugging Face's inference calls for the CogVideoX models, which answer with the bytes of the video.

`app` has the call, `models` what it may contain, `errors` says what went wrong; `clients` shows how to reach it.
"""

from server.facades.facade import Facade
from server.facades.huggingface import errors
from server.facades.huggingface.app import create
from server.facades.huggingface.clients import CLIENTS

FACADE = Facade("Hugging Face", create, CLIENTS, errors.refuse)
