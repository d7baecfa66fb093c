# The older form of Segmind's sample for cog-video-5b-i2v. It sends only the key header and reads `.content`.
# `input_frames` and `steps` are our additions.
import requests

api_key = "YOUR_API_KEY"
url = "https://api.segmind.com/v1/cog-video-5b-i2v"

data = {
    "image": "PICTURE",
    "negative_prompt": "low quality, blurry",
    "prompt": "a red circle moves left",
    "seed": 42,
    "input_frames": 20,
    "steps": 25,
}

headers = {"x-api-key": api_key}

response = requests.post(url, json=data, headers=headers)
with open("film.mp4", "wb") as file:  # noqa: PTH123
    file.write(response.content)
