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

# the provider has fal's addresses built in, and the SDK itself downloads nothing from localhost and private addresses
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

# it asks the Hub who offers the model: the program answers that itself
HUGGING_FACE = """\
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

CLIENTS = (
    Snippet("fal.ai, Python", "python", PYTHON),
    Snippet("fal.ai, JavaScript", "js", JAVASCRIPT),
    Snippet("AI SDK (Vercel) through fal's API", "js", AI_SDK),
    Snippet("@huggingface/inference through fal's API", "js", HUGGING_FACE),
)
