"""How to reach this server with fal's own two clients: the shortest whole programs."""

from server.facades.facade import Snippet

PYTHON = """\
import os

import fal_client.client

fal_client.client.RUN_URL_FORMAT = "http://127.0.0.1:8000/run/"
fal_client.client.QUEUE_URL_FORMAT = "http://127.0.0.1:8000/queue/"
fal_client.client.REST_URL = fal_client.client.CDN_URL = "http://127.0.0.1:8000"
os.environ["FAL_KEY"] = "YOUR_API_KEY"

result = fal_client.subscribe("fal-ai/cogvideox-5b", {"prompt": "a red circle moves left on a blue background"})
print(result["video"]["url"])
"""

JAVASCRIPT = """\
import { fal } from "@fal-ai/client";

fal.config({
  credentials: "YOUR_API_KEY",
  proxyUrl: { url: "http://127.0.0.1:8000/fal/proxy", when: "always" },
});

const input = { prompt: "a red circle moves left on a blue background" };
const { data } = await fal.subscribe("fal-ai/cogvideox-5b", { input });
console.log(data.video.url);
"""

CLIENTS = (
    Snippet("fal.ai, Python", "python", PYTHON),
    Snippet("fal.ai, JavaScript", "js", JAVASCRIPT),
)
