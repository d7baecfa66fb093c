# fal's published Python sample, preceded by the lines that redirect it to this server.
# ruff: noqa: T201
import json

import fal_client
import fal_client.client as c

c.RUN_URL_FORMAT = "http://SERVER/run/"
c.QUEUE_URL_FORMAT = "http://SERVER/queue/"
c.REST_URL = c.CDN_URL = "http://SERVER"


def on_queue_update(update):
    if isinstance(update, fal_client.InProgress):
        for log in update.logs:
            print(log["message"])


result = fal_client.subscribe(
    "fal-ai/cogvideox-5b",
    arguments={
        "prompt": "a red circle moves left",
    },
    with_logs=True,
    on_queue_update=on_queue_update,
)
print(json.dumps(result))
