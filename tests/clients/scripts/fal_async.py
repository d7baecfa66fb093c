# fal's asynchronous Python calls: submit, events, result, video-to-video, cancel, refusal, run.
# ruff: noqa: T201
import asyncio
import json

import fal_client
import fal_client.client as c

c.RUN_URL_FORMAT = "http://SERVER/run/"
c.QUEUE_URL_FORMAT = "http://SERVER/queue/"
c.REST_URL = c.CDN_URL = "http://SERVER"


async def main():
    arguments = {"prompt": "a red circle moves left", "num_inference_steps": 4, "seed": 7, "use_rife": False}
    handler = await fal_client.submit_async("fal-ai/cogvideox-5b", arguments=arguments)
    words = [type(event).__name__ async for event in handler.iter_events(with_logs=True)]
    result = await handler.get()

    clip = {"prompt": "a blue circle", "video_url": result["video"]["url"], "num_inference_steps": 4}
    remade = await fal_client.subscribe_async("fal-ai/cogvideox-5b/video-to-video", arguments=clip)

    slow = await fal_client.submit_async("fal-ai/cogvideox-5b", arguments={"prompt": "a red circle moves left"})
    await slow.cancel()
    async for _ in slow.iter_events():  # the loop ends because a cancelled request reaches a final state
        pass
    try:
        await slow.get()
        cancelled = 200
    except fal_client.FalClientHTTPError as error:
        cancelled = error.status_code

    try:
        await fal_client.subscribe_async("fal-ai/cogvideox-5b", arguments={"prompt": "a", "num_inference_steps": 51})
        refused = ""
    except fal_client.FalClientHTTPError as error:
        refused = error.message

    ran = await fal_client.run_async("fal-ai/cogvideox-5b", arguments=arguments)
    told = {"words": words, "result": result, "cancelled": cancelled, "refused": refused, "ran": ran, "remade": remade}
    print(json.dumps(told))


asyncio.run(main())
