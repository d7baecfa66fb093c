"""OpenAI: `/v1/videos`, with the files and models its clients ask for.

`app` has the URLs, `calls` and `files` the calls, `models` the bodies; `intake` turns a body into a GenerationRequest;
`answers` has a job in OpenAI's words, `errors` everything else.
"""

from server.facades.facade import Facade
from server.facades.openai import errors
from server.facades.openai.app import create
from server.facades.openai.clients import CLIENTS

FACADE = Facade("OpenAI", create, CLIENTS, errors.refuse)
