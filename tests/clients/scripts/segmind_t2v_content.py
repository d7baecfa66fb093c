# The older form of Segmind's sample for cog-video-5b-t2v. It sends only the key header and reads `.content`.
import requests

api_key = "YOUR_API_KEY"
url = "https://api.segmind.com/v1/cog-video-5b-t2v"

data = {
    "prompt": "a red circle moves left",
    "negative_prompt": "low quality, blurry",
    "input_frames": 20,
    "steps": 25,
    "guidance_scale": 6,
    "seed": 806286757407563,
    "frame_rate": 8,
}

headers = {"x-api-key": api_key}

response = requests.post(url, json=data, headers=headers)
with open("film.mp4", "wb") as file:  # noqa: PTH123
    file.write(response.content)
