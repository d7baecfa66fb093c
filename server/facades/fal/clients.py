"""Example programs for fal's own two clients and for other clients that support fal."""

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

# the provider contains fal's URLs, and the SDK refuses to download from localhost and private IP addresses
AI_SDK = """\
import { writeFile } from "node:fs/promises";

import { createFal } from "@ai-sdk/fal";
import { experimental_generateVideo as generateVideo } from "ai";

const fal = createFal({
  apiKey: "YOUR_API_KEY",
  fetch: (url, init) => {
    const headers = new Headers(init.headers);
    headers.set("x-fal-target-url", url);
    return fetch("http://127.0.0.1:8000/fal/proxy", { ...init, headers });
  },
});
const { video } = await generateVideo({
  model: fal.video("cogvideox-5b"),
  prompt: "a red circle moves left on a blue background",
  poll: { intervalMs: 2000, timeoutMs: 3600000 },
  download: async ({ url }) => ({ data: await (await fetch(url)).bytes(), mediaType: "video/mp4" }),
});
await writeFile("video.mp4", video.uint8Array);
"""

# the client asks the Hub for providers of the model, so the program answers that request itself
HUGGING_FACE_JS = """\
import { writeFile } from "node:fs/promises";

import { InferenceClient } from "@huggingface/inference";

const offers = { "fal-ai": { providerId: "fal-ai/cogvideox-5b", status: "live", task: "text-to-video" } };
const isHub = (url) => url.startsWith("https://huggingface.co/");
const awake = setInterval(() => {}, 1000); // the client's own timers do not keep Node running
const video = await new InferenceClient("YOUR_API_KEY").textToVideo(
  {
    provider: "fal-ai",
    model: "zai-org/CogVideoX-5b",
    inputs: "a red circle moves left on a blue background",
    urlTransform: (url) => url.replace("https://queue.fal.run", "http://127.0.0.1:8000/queue"),
  },
  { fetch: (url, init) => (isHub(url) ? Response.json({ inferenceProviderMapping: offers }) : fetch(url, init)) },
);
clearInterval(awake);
await writeFile("video.mp4", video.stream());
"""

LITELLM = """\
import time
from pathlib import Path

import litellm

server = {"api_base": "http://127.0.0.1:8000/queue", "api_key": "YOUR_API_KEY"}

video = litellm.video_generation(
    model="fal_ai/fal-ai/cogvideox-5b", prompt="a red circle moves left on a blue background", **server
)
while video.status in ("queued", "in_progress"):
    time.sleep(1)
    video = litellm.video_status(video.id, **server)
Path("video.mp4").write_bytes(litellm.video_content(video.id, **server))
"""

HUGGING_FACE = """\
from pathlib import Path

from huggingface_hub import InferenceClient
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import PROVIDERS
from huggingface_hub.inference._providers._common import HARDCODED_MODEL_INFERENCE_MAPPING

model, task = "zai-org/CogVideoX-5b", "text-to-video"
HARDCODED_MODEL_INFERENCE_MAPPING["fal-ai"][model] = InferenceProviderMapping(
    provider="fal-ai", hf_model_id=model, providerId="fal-ai/cogvideox-5b", task=task, status="live"
)
PROVIDERS["fal-ai"][task].base_url = "http://127.0.0.1:8000/queue"

client = InferenceClient(provider="fal-ai", api_key="YOUR_API_KEY")
Path("video.mp4").write_bytes(client.text_to_video("a red circle moves left on a blue background", model=model))
"""

CLIENTS = (
    Snippet("fal.ai, Python", "python", PYTHON),
    Snippet("fal.ai, JavaScript", "js", JAVASCRIPT),
    Snippet("AI SDK (Vercel) through fal's API", "js", AI_SDK),
    Snippet("@huggingface/inference through fal's API", "js", HUGGING_FACE_JS),
    Snippet("LiteLLM through fal's API", "python", LITELLM),
    Snippet("huggingface_hub through fal's API", "python", HUGGING_FACE),
)
