# The sample on Segmind's page for cog-video-5b-t2v. It sets Content-Type and reads `.json()`.
# ruff: noqa: T201
import json

import requests

url = "https://api.segmind.com/v1/cog-video-5b-t2v"
headers = {"x-api-key": "YOUR_API_KEY", "Content-Type": "application/json"}

data = {
    "prompt": "a red circle moves left",
    "negative_prompt": "low quality, blurry",
    "input_frames": 49,
    "steps": 45,
    "guidance_scale": 6,
    "seed": 806286757407563,
    "frame_rate": 8,
}

response = requests.post(url, headers=headers, json=data)

if response.status_code == 200:
    result = response.json()
    print(json.dumps(result, indent=2))
else:
    print(f"Error: {response.status_code}")
    print(response.text)
