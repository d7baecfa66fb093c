"""Example programs for Replicate's two clients, and for others that support Replicate."""

from __future__ import annotations

from server.facades.facade import Snippet

PYTHON = """\
from pathlib import Path

import replicate

client = replicate.Client(api_token="YOUR_API_KEY", base_url="http://127.0.0.1:8000")
output = client.run("cuuupid/cogvideox-5b", input={"prompt": "a red circle moves left on a blue background"})
Path("video.mp4").write_bytes(output.read())
"""

JAVASCRIPT = """\
import { writeFile } from "node:fs/promises";

import Replicate from "replicate";

const replicate = new Replicate({ auth: "YOUR_API_KEY", baseUrl: "http://127.0.0.1:8000/v1" });
const input = { prompt: "a red circle moves left on a blue background" };
const output = await replicate.run("cuuupid/cogvideox-5b", { input });
await writeFile("video.mp4", output);
"""

AI_SDK = """\
import { writeFile } from "node:fs/promises";

import { createReplicate } from "@ai-sdk/replicate";
import { experimental_generateVideo as generateVideo } from "ai";

const replicate = createReplicate({ apiToken: "YOUR_API_KEY", baseURL: "http://127.0.0.1:8000/v1" });
const { video } = await generateVideo({
  model: replicate.video("thudm/cogvideox-t2v"),
  prompt: "a red circle moves left on a blue background",
  poll: { intervalMs: 2000, timeoutMs: 3600000 },
});
await writeFile("video.mp4", video.uint8Array);
"""

HUGGING_FACE = """\
from pathlib import Path

from huggingface_hub import InferenceClient
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import PROVIDERS, _common

model = "zai-org/CogVideoX-5b"
PROVIDERS["replicate"]["text-to-video"].base_url = "http://127.0.0.1:8000"
_common.HARDCODED_MODEL_INFERENCE_MAPPING["replicate"][model] = InferenceProviderMapping(
    provider="replicate", hf_model_id=model, providerId="thudm/cogvideox-t2v", task="text-to-video", status="live"
)
client = InferenceClient(provider="replicate", api_key="YOUR_API_KEY")
video = client.text_to_video("a red circle moves left on a blue background", model=model)
Path("video.mp4").write_bytes(video)
"""

CLIENTS = (
    Snippet("Replicate, Python", "python", PYTHON),
    Snippet("Replicate, JavaScript", "js", JAVASCRIPT),
    Snippet("AI SDK (Vercel) through Replicate's API", "js", AI_SDK),
    Snippet("huggingface_hub through Replicate's API", "python", HUGGING_FACE),
)
