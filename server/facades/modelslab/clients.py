"""Example programs for ModelsLab's clients."""

from __future__ import annotations

from server.facades.facade import Snippet

MODELSLAB_PY = """\
from modelslab_py.core.apis.video import Video
from modelslab_py.core.client import Client
from modelslab_py.schemas.video import Text2Video

client = Client(api_key="YOUR_API_KEY", fetch_retry=100, fetch_timeout=10)
client.base_url = "http://127.0.0.1:8000/api/"  # before Video is created
video = Video(client=client)
wanted = Text2Video(
    model_id="cogvideox",
    prompt="a red circle moves left on a blue background",
    num_frames=25,
    num_inference_steps=20,
    output_type="mp4",
)
answer = video.text_to_video(wanted)
if answer["status"] == "processing":
    answer = video.fetch(str(answer["id"]))
print(answer["output"][0])
"""

MODELSLAB = """\
import json
import time

from modelslab import ModelsLab

video = ModelsLab().ai_video
video.base_url = "http://127.0.0.1:8000/api/v6/video"
wanted = dict(
    model_id="cogvideox",
    prompt="a red circle moves left on a blue background",
    negative_prompt="low quality",
    height=512,
    width=512,
    num_frames=25,
    num_inference_steps=20,
    guidance_scale=7,
    output_type="mp4",
)
unused = dict.fromkeys(f"upscale_{n}" for n in ("height", "width", "strength", "guidance_scale", "num_inference_steps"))
answer = json.loads(video.text2video("YOUR_API_KEY", **wanted, **unused))
while answer["status"] == "processing":
    time.sleep(min(answer["eta"], 10))
    answer = json.loads(video.fetch_queued("YOUR_API_KEY", answer["id"]))
print(answer["output"][0])
"""

REQUESTS = """\
import time

import requests

answer = requests.post(
    "http://127.0.0.1:8000/api/v6/video/text2video",
    json={
        "key": "YOUR_API_KEY",
        "model_id": "cogvideox",
        "prompt": "a red circle moves left on a blue background",
        "num_frames": 25,
        "num_inference_steps": 20,
        "output_type": "mp4",
    },
).json()
while answer["status"] == "processing":
    time.sleep(min(answer["eta"], 10))
    fetch = f"http://127.0.0.1:8000/api/v6/video/fetch/{answer['id']}"
    answer = requests.post(fetch, json={"key": "YOUR_API_KEY"}).json()
print(answer["output"][0])
"""

CLIENTS = (
    Snippet("modelslab_py", "python", MODELSLAB_PY),
    Snippet("modelslab", "python", MODELSLAB),
    Snippet("requests", "python", REQUESTS),
)
