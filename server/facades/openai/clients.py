"""Example programs for OpenAI's clients, and for curl."""

from server.facades.facade import ADDRESS, KEY, Snippet
from server.facades.openai.recipes import LITELLM, LITELLM_PROXY, N8N, OPEN_WEBUI

PYTHON = f"""\
from openai import OpenAI

client = OpenAI(base_url="{ADDRESS}/v1", api_key="{KEY}")
video = client.videos.create_and_poll(prompt="a red circle moves left on a blue background", seconds="4")
client.videos.download_content(video.id).write_to_file("video.mp4")
"""

JAVASCRIPT = """\
import { writeFile } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";

import OpenAI from "openai";

const client = new OpenAI({ baseURL: "http://127.0.0.1:8000/v1", apiKey: "YOUR_API_KEY" });
let video = await client.videos.create({ prompt: "a red circle moves left on a blue background", seconds: "4" });
while (video.status === "queued" || video.status === "in_progress") {
  await setTimeout(2000);
  video = await client.videos.retrieve(video.id);
}
if (video.status === "failed") throw new Error(video.error.message);
const content = await client.videos.downloadContent(video.id);
await writeFile("video.mp4", content.body);
"""

TANSTACK = """\
import { setTimeout } from "node:timers/promises";

import { generateVideo, getVideoJobStatus } from "@tanstack/ai";
import { createOpenaiVideo } from "@tanstack/ai-openai";

const adapter = createOpenaiVideo("sora-2", "YOUR_API_KEY", { baseURL: "http://127.0.0.1:8000/v1" });
const { jobId } = await generateVideo({ adapter, prompt: "a red circle moves left on a blue background", duration: 4 });
let video;
do {
  await setTimeout(2000);
  video = await getVideoJobStatus({ adapter, jobId });
} while (video.status === "pending" || video.status === "processing");
if (video.status === "failed") throw new Error(video.error);
console.log(video.url);
"""

CURL = f"""\
curl {ADDRESS}/v1/videos/sync -H "Authorization: Bearer {KEY}" \\
  -F prompt="a red circle moves left on a blue background" -F seconds=4 -o video.mp4
"""

CLIENTS = (
    Snippet("OpenAI, Python", "python", PYTHON),
    Snippet("OpenAI, JavaScript", "js", JAVASCRIPT),
    Snippet("TanStack AI", "js", TANSTACK),
    Snippet("OpenAI, curl", "sh", CURL),
    Snippet("LiteLLM", "python", LITELLM),
    Snippet("LiteLLM's proxy: config.yaml", "yaml", LITELLM_PROXY),
    Snippet("Open WebUI: a tool", "python", OPEN_WEBUI),
    Snippet("n8n: a workflow to import", "json", N8N),
)
