"""OpenAI: `/v1/videos`, with the files and models its clients ask for.

`app` has the paths, `calls` and `files` what happens there, `body` reads forms and JSON, `models` says what they may
hold and `intake` what it means here, `answers` puts a job into OpenAI's words and `errors` the rest.
"""

from server.facades.facade import Facade
from server.facades.openai import errors
from server.facades.openai.app import create
from server.facades.openai.clients import CLIENTS

FACADE = Facade("OpenAI", create, CLIENTS, errors.refuse)
