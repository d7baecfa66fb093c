"""OpenAI."""

from server.facades.facade import Facade
from server.facades.openai.app import PREFIXES, create

FACADE = Facade("OpenAI", PREFIXES, create)
