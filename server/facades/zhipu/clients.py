"""Example programs for the clients of Zhipu, Z.ai and 302.AI."""

from __future__ import annotations

from server.facades.facade import Snippet

ZAI = """\
import time

from zai import ZhipuAiClient  # or ZaiClient

client = ZhipuAiClient(api_key="YOUR_API_KEY", base_url="http://127.0.0.1:8000/api/paas/v4")
task = client.videos.generations(model="cogvideox-3", prompt="a red circle moves left on a blue background")
while task.task_status == "PROCESSING":
    time.sleep(2)
    task = client.videos.retrieve_videos_result(id=task.id)
print(task.video_result[0].url)
"""

ZHIPUAI = """\
import time

from zhipuai import ZhipuAI

client = ZhipuAI(api_key="YOUR_API_KEY", base_url="http://127.0.0.1:8000/api/paas/v4")
task = client.videos.generations(model="cogvideox-2", prompt="a red circle moves left on a blue background")
while task.task_status == "PROCESSING":
    time.sleep(2)
    task = client.videos.retrieve_videos_result(id=task.id)
print(task.video_result[0].url)
"""

AI302 = """\
import time

import requests

base = "http://127.0.0.1:8000/zhipu/api/paas/v4"
headers = {"Authorization": "Bearer YOUR_API_KEY"}
body = {"model": "cogvideox-2", "prompt": "a red circle moves left on a blue background"}
task = requests.post(f"{base}/videos/generations", headers=headers, json=body).json()
while task["task_status"] == "PROCESSING":
    time.sleep(2)
    task = requests.get(f"{base}/async-result/{task['id']}", headers=headers).json()
print(task["video_result"][0]["url"])
"""

CLIENTS = (
    Snippet("Zhipu and Z.ai, zai-sdk", "python", ZAI),
    Snippet("Zhipu, zhipuai", "python", ZHIPUAI),
    Snippet("302.AI, requests", "python", AI302),
)
