"""ModelsLab: text2video and img2video, with fetch, uploads and the other addresses these go by.

`app` has the URLs, `calls` the calls, `models` the bodies, `uploads` files sent as base64; `intake` turns a body
into a GenerationRequest; `answers` has a job in ModelsLab's words, `errors` everything else. `clients` are programs.
"""

from server.facades.facade import Facade
from server.facades.modelslab import errors
from server.facades.modelslab.answers import letter
from server.facades.modelslab.app import create
from server.facades.modelslab.calls import file_of
from server.facades.modelslab.clients import CLIENTS

FACADE = Facade("ModelsLab", create, CLIENTS, errors.refuse, letter, file_of)
