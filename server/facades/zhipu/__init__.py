"""Zhipu, Z.ai and 302.AI: video tasks and their results.

`app` has the addresses and `calls` what they do, `models` what a body may contain, `pictures` and `request_ids` what of
it cannot be judged alone, `mapping` turns it into a GenerationRequest, `answers` puts a job into the vendors' words and
`errors` the rest. `clients` are programs that use it.
"""

from server.facades.facade import Facade
from server.facades.zhipu import errors
from server.facades.zhipu.app import create
from server.facades.zhipu.clients import CLIENTS

FACADE = Facade("Zhipu / Z.ai / 302.AI", create, CLIENTS, errors.refuse)
