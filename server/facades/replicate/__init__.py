"""Replicate."""

from server.facades.facade import Facade
from server.facades.replicate.app import PREFIXES, create

FACADE = Facade("Replicate", PREFIXES, create)
