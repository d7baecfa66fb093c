"""Zhipu / Z.ai / 302.AI."""

from server.facades.facade import Facade
from server.facades.zhipu.app import PREFIXES, create

FACADE = Facade("Zhipu / Z.ai / 302.AI", PREFIXES, create)
