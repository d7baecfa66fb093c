"""Example programs for Segmind's SDK, and the program from Segmind's web pages."""

from __future__ import annotations

from server.facades.facade import Snippet

SDK = """\
from segmind import SegmindClient

client = SegmindClient(api_key="YOUR_API_KEY", base_url="http://127.0.0.1:8000/v1")
result = client.run("cog-video-5b-t2v", prompt="a red circle moves left on a blue background")
print(result["video"]["url"])
"""

REQUESTS = """\
import requests

url = "http://127.0.0.1:8000/v1/cog-video-5b-t2v"
data = {"prompt": "a red circle moves left on a blue background", "steps": 45, "guidance_scale": 6, "seed": 42}

response = requests.post(url, json=data, headers={"x-api-key": "YOUR_API_KEY"})
response.raise_for_status()
with open("video.mp4", "wb") as file:
    file.write(response.content)
"""

CLIENTS = (Snippet("segmind (Python)", "python", SDK), Snippet("Segmind with requests", "python", REQUESTS))
