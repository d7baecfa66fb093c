# fal's three endpoints with and without the demo LoRA, which gives every shape a white outline.
# ruff: noqa: T201
import json

import fal_client
import fal_client.client as c

c.RUN_URL_FORMAT = "http://SERVER/run/"
c.QUEUE_URL_FORMAT = "http://SERVER/queue/"
c.REST_URL = c.CDN_URL = "http://SERVER"

asked = {
    "prompt": "a big red circle stays still on a blue background",
    "video_size": {"width": 96, "height": 64},
    "num_inference_steps": 20,
    "use_rife": False,
    "seed": 0,
}


def made(tail, **more):
    return fal_client.subscribe(f"fal-ai/cogvideox-5b{tail}", arguments={**asked, **more})["video"]["url"]


films = {}
for name, loras in (("plain", []), ("outlined", [{"path": "outline.safetensors", "scale": 1.0}])):
    text = made("", loras=loras)
    plain = films["plain"]["text"] if films else text
    films[name] = {
        "text": text,
        "image": made("/image-to-video", loras=loras, image_url="PICTURE"),
        "video": made("/video-to-video", loras=loras, video_url=plain, strength=0.9),
    }
print(json.dumps(films))
