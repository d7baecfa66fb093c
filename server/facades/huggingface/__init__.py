"""Hugging Face."""

from server.facades.facade import Facade
from server.facades.huggingface.app import PREFIXES, create

FACADE = Facade("Hugging Face", PREFIXES, create)
