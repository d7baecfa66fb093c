"""ModelsLab."""

from server.facades.facade import Facade
from server.facades.modelslab.app import PREFIXES, create

FACADE = Facade("ModelsLab", PREFIXES, create)
