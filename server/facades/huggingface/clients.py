"""Example programs for Hugging Face's client and for plain requests.

huggingface_hub sends a video task to a custom URL only after a program has added the task to a table of that library.
"""

from __future__ import annotations

from server.facades.facade import Snippet

HUB = """\
from pathlib import Path

from huggingface_hub import InferenceClient
from huggingface_hub.inference._providers import PROVIDERS
from huggingface_hub.inference._providers.hf_inference import HFInferenceTask

PROVIDERS["hf-inference"]["text-to-video"] = HFInferenceTask("text-to-video")  # missing in its table

model = "http://127.0.0.1:8000/hf-inference/models/zai-org/CogVideoX-5b"
client = InferenceClient(base_url=model, api_key="YOUR_API_KEY")
Path("video.mp4").write_bytes(client.text_to_video("a red circle moves left on a blue background"))
"""

REQUESTS = """\
import requests

url = "http://127.0.0.1:8000/hf-inference/models/zai-org/CogVideoX-5b"
data = {"inputs": "a red circle moves left on a blue background", "parameters": {"num_inference_steps": 45, "seed": 42}}

response = requests.post(url, json=data, headers={"Authorization": "Bearer YOUR_API_KEY"})
response.raise_for_status()
with open("video.mp4", "wb") as file:
    file.write(response.content)
"""

CLIENTS = (
    Snippet("huggingface_hub (Python)", "python", HUB),
    Snippet("Hugging Face with requests", "python", REQUESTS),
)
