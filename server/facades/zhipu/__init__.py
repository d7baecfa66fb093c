"""Zhipu, Z.ai and 302.AI: video tasks and their results.

`app` has the URLs, `calls` the calls, `models` the bodies; `intake` turns a body into a GenerationRequest and
`request_ids` notices repeated ids; `answers` has a job in the vendors' words, `errors` everything else. `clients` are
programs.
"""

from server.facades.facade import Facade
from server.facades.zhipu import errors
from server.facades.zhipu.app import create
from server.facades.zhipu.clients import CLIENTS

FACADE = Facade("Zhipu / Z.ai / 302.AI", create, CLIENTS, errors.refuse)
