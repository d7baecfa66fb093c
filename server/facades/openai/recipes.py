"""Example programs and configurations for software that calls OpenAI's video API: LiteLLM, Open WebUI, n8n.

Tests run each of these examples unchanged.
"""

from __future__ import annotations

LITELLM = """\
import time
from pathlib import Path

import litellm

model = "openai/sora-2"  # or "hosted_vllm/zai-org/CogVideoX-5b", which also takes num_frames, guidance_scale, lora, ...
server = {"api_base": "http://127.0.0.1:8000/v1", "api_key": "YOUR_API_KEY"}

video = litellm.video_generation(
    model=model, prompt="a red circle moves left on a blue background", seconds="4", **server
)
while video.status in ("queued", "in_progress"):
    time.sleep(1)
    video = litellm.video_status(video.id, **server)
Path("video.mp4").write_bytes(litellm.video_content(video.id, **server))
"""

LITELLM_PROXY = """\
# LITELLM_MASTER_KEY=sk-... litellm --config config.yaml   (choose a long key; the proxy's clients send it)
model_list:
  - model_name: cogvideox
    litellm_params:
      model: openai/sora-2
      api_base: http://127.0.0.1:8000/v1
      api_key: YOUR_API_KEY
  - model_name: cogvideox-vllm
    litellm_params:
      model: hosted_vllm/zai-org/CogVideoX-5b
      api_base: http://127.0.0.1:8000/v1
      api_key: YOUR_API_KEY
  - model_name: cogvideox-fal
    litellm_params:
      model: fal_ai/fal-ai/cogvideox-5b
      api_base: http://127.0.0.1:8000/queue
      api_key: YOUR_API_KEY
"""

OPEN_WEBUI = '''\
"""
title: CogVideoX
description: Makes videos from text on your own server
requirements: aiohttp
version: 1.0.0
"""

import asyncio

import aiohttp
from pydantic import BaseModel, Field


class Tools:
    class Valves(BaseModel):
        server_url: str = Field("http://127.0.0.1:8000", description="URL of the server, as Open WebUI reaches it")
        api_key: str = Field("YOUR_API_KEY", description="API key of the server")
        model: str = Field("sora-2", description="Model name; any name means the served model")
        poll_seconds: float = Field(2.0, description="Seconds between two polls")

    def __init__(self):
        self.valves = self.Valves()

    async def make_video(self, prompt: str, seconds: int = 4, size: str = "720x480", __event_emitter__=None) -> str:
        """
        Make a short video from a description and show it to the user.

        :param prompt: What the video shows: subject, movement, scene, light.
        :param seconds: Length in seconds, 1 to 10.
        :param size: WIDTHxHEIGHT in pixels.
        """

        async def tell(text, done=False):
            if __event_emitter__:
                await __event_emitter__({"type": "status", "data": {"description": text, "done": done}})

        videos = f"{self.valves.server_url.rstrip('/')}/v1/videos"
        wanted = {"model": self.valves.model, "prompt": prompt, "seconds": seconds, "size": size}
        headers = {"Authorization": f"Bearer {self.valves.api_key}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.post(videos, json=wanted) as answer:
                video = await answer.json()
            while "error" not in video or video["error"] is None:
                if video["status"] == "completed":
                    await tell("The video is ready", done=True)
                    if __event_emitter__:
                        data = {"content": f"\\n\\n[{prompt}]({video['url']})\\n"}
                        await __event_emitter__({"type": "message", "data": data})
                    return video["url"]
                await tell(f"Making the video: {video['progress']} %")
                await asyncio.sleep(self.valves.poll_seconds)
                async with session.get(f"{videos}/{video['id']}") as answer:
                    video = await answer.json()
        await tell("No video was made", done=True)
        return f"No video was made: {video['error']['message']}"


if __name__ == "__main__":  # outside Open WebUI
    print(asyncio.run(Tools().make_video("a red circle moves left on a blue background")))
'''

N8N = """\
{
  "name": "CogVideoX: text to video",
  "nodes": [
    {
      "id": "1", "name": "Start", "type": "n8n-nodes-base.manualTrigger", "typeVersion": 1,
      "position": [0, 0], "parameters": {}
    },
    {
      "id": "2", "name": "Create video", "type": "n8n-nodes-base.httpRequest", "typeVersion": 4.2,
      "position": [220, 0],
      "parameters": {
        "method": "POST",
        "url": "http://127.0.0.1:8000/v1/videos",
        "sendHeaders": true,
        "headerParameters": {"parameters": [{"name": "Authorization", "value": "Bearer YOUR_API_KEY"}]},
        "sendBody": true,
        "specifyBody": "json",
        "jsonBody": "{\\"prompt\\": \\"a red circle moves left on a blue background\\", \\"seconds\\": 4}",
        "options": {}
      }
    },
    {
      "id": "3", "name": "Wait", "type": "n8n-nodes-base.wait", "typeVersion": 1.1,
      "position": [440, 0], "parameters": {"amount": 5, "unit": "seconds"}, "webhookId": "cogvideox-wait"
    },
    {
      "id": "4", "name": "Poll video", "type": "n8n-nodes-base.httpRequest", "typeVersion": 4.2,
      "position": [660, 0],
      "parameters": {
        "url": "=http://127.0.0.1:8000/v1/videos/{{ $('Create video').item.json.id }}",
        "sendHeaders": true,
        "headerParameters": {"parameters": [{"name": "Authorization", "value": "Bearer YOUR_API_KEY"}]},
        "options": {}
      }
    },
    {
      "id": "5", "name": "Unfinished?", "type": "n8n-nodes-base.if", "typeVersion": 2.2,
      "position": [880, 0],
      "parameters": {
        "conditions": {
          "options": {"caseSensitive": true, "typeValidation": "strict", "version": 2},
          "combinator": "or",
          "conditions": [
            {
              "id": "queued", "leftValue": "={{ $json.status }}", "rightValue": "queued",
              "operator": {"type": "string", "operation": "equals"}
            },
            {
              "id": "running", "leftValue": "={{ $json.status }}", "rightValue": "in_progress",
              "operator": {"type": "string", "operation": "equals"}
            }
          ]
        },
        "options": {}
      }
    },
    {
      "id": "6", "name": "Download video", "type": "n8n-nodes-base.httpRequest", "typeVersion": 4.2,
      "position": [1100, 100],
      "parameters": {
        "url": "=http://127.0.0.1:8000/v1/videos/{{ $('Create video').item.json.id }}/content",
        "sendHeaders": true,
        "headerParameters": {"parameters": [{"name": "Authorization", "value": "Bearer YOUR_API_KEY"}]},
        "options": {"response": {"response": {"responseFormat": "file", "outputPropertyName": "video"}}}
      }
    }
  ],
  "connections": {
    "Start": {"main": [[{"node": "Create video", "type": "main", "index": 0}]]},
    "Create video": {"main": [[{"node": "Wait", "type": "main", "index": 0}]]},
    "Wait": {"main": [[{"node": "Poll video", "type": "main", "index": 0}]]},
    "Poll video": {"main": [[{"node": "Unfinished?", "type": "main", "index": 0}]]},
    "Unfinished?": {
      "main": [
        [{"node": "Wait", "type": "main", "index": 0}],
        [{"node": "Download video", "type": "main", "index": 0}]
      ]
    }
  },
  "settings": {"executionOrder": "v1"}
}
"""
