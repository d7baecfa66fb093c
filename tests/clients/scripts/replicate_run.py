# How each major version of Replicate's Python client returns a video, from `run()` and as a prediction's `output`.
# ruff: noqa: T201
import asyncio
import json
import os
from importlib.metadata import version

import replicate

MODEL = "cuuupid/cogvideox-5b"
INPUT = {"prompt": "steps=2 sleep=0"}
MAJOR, MINOR = map(int, version("replicate").split(".")[:2])
BASE = "http://SERVER/v1" if MAJOR > 1 else "http://SERVER"


def told(output):
    """["text", URL] or ["file", number of bytes]"""
    return ["text", output] if isinstance(output, str) else ["file", len(output.read())]


if MAJOR > 1:
    os.environ |= {"REPLICATE_BASE_URL": BASE, "REPLICATE_API_TOKEN": "id:secret"}
    client = replicate.Replicate(bearer_token="id:secret", base_url=BASE)
else:
    client = replicate.Client(api_token="id:secret", base_url=BASE)
    client.poll_interval = 0.1
says = {"run": told(client.run(MODEL, input=INPUT))}
if MAJOR > 1:
    says["module"] = told(replicate.run(MODEL, input=INPUT))

    async def run():
        other = replicate.AsyncReplicate(bearer_token="id:secret", base_url=BASE)
        return len(await (await other.run(MODEL, input=INPUT)).read())

    says["async"] = ["file", asyncio.run(run())]
    made = client.models.predictions.create(model_owner="cuuupid", model_name="cogvideox-5b", input=INPUT)
    says["created"] = told(client.predictions.wait(made.id).output)
    waited = client.models.predictions.create(
        model_owner="cuuupid", model_name="cogvideox-5b", input={"prompt": "steps=20 sleep=0.1"}, prefer="wait=1"
    )
    says["late"] = [waited.status, told(client.predictions.wait(waited.id).output)[1][:5]]
else:
    made = client.models.predictions.create(MODEL, INPUT)
    made.wait()
    says["created"] = told(made.output)
    if (MAJOR, MINOR) > (0, 25):
        says["waited"] = told(client.run(MODEL, input=INPUT, wait=True))
print(json.dumps(says))
