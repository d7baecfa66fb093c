"""Zhipu, Z.ai and 302.AI: video tasks and their results.

`app` has the routes, `calls` the calls, `models` the bodies; `intake` converts a body to a GenerationRequest and
`request_ids` detects repeated ids; `answers` formats a job, `errors` formats errors. `clients` contains example
programs.
"""

from server.facades.facade import Facade
from server.facades.zhipu import errors
from server.facades.zhipu.app import create
from server.facades.zhipu.clients import CLIENTS

FACADE = Facade("Zhipu / Z.ai / 302.AI", create, CLIENTS, errors.refuse)
