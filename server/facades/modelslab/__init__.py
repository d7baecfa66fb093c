"""ModelsLab: text2video and img2video, with fetch, uploads and all their alternative paths.

`app` has the routes, `calls` the calls, `models` the bodies; `keyed` reads bodies that contain the API key; `uploads`
decodes files sent as base64; `intake` converts a body to a GenerationRequest; `answers` formats a job, `errors` formats
errors. `clients` contains example programs.
"""

from server.facades.facade import Facade
from server.facades.modelslab import errors
from server.facades.modelslab.answers import letter
from server.facades.modelslab.app import create
from server.facades.modelslab.calls import file_of
from server.facades.modelslab.clients import CLIENTS

FACADE = Facade("ModelsLab", create, CLIENTS, errors.refuse, letter, file_of)
