"""ModelsLab: text2video and img2video, with fetch, uploads and the other addresses these go by.

`app` has the addresses and `calls` what they do, `models` what a body may contain, `generation` turns that into a
GenerationRequest, `uploads` reads files sent as base64, `answers` puts a job into ModelsLab's words and `errors` the
rest. `clients` are programs that use it.
"""

from server.facades.facade import Facade
from server.facades.modelslab import errors
from server.facades.modelslab.answers import letter
from server.facades.modelslab.app import create
from server.facades.modelslab.calls import file_of
from server.facades.modelslab.clients import CLIENTS

FACADE = Facade("ModelsLab", create, CLIENTS, errors.refuse, letter, file_of)
