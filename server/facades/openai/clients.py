"""Programs that reach this server with OpenAI's own client, and without one."""

from server.facades.facade import ADDRESS, KEY, Snippet
from server.facades.openai.recipes import LITELLM, LITELLM_PROXY, N8N, OPEN_WEBUI

PYTHON = f"""\
from openai import OpenAI

client = OpenAI(base_url="{ADDRESS}/v1", api_key="{KEY}")
video = client.videos.create_and_poll(prompt="a red circle moves left on a blue background", seconds="4")
client.videos.download_content(video.id).write_to_file("video.mp4")
"""

CURL = f"""\
curl {ADDRESS}/v1/videos/sync -H "Authorization: Bearer {KEY}" \\
  -F prompt="a red circle moves left on a blue background" -F seconds=4 -o video.mp4
"""

CLIENTS = (
    Snippet("OpenAI, Python", "python", PYTHON),
    Snippet("OpenAI, curl", "sh", CURL),
    Snippet("LiteLLM", "python", LITELLM),
    Snippet("LiteLLM's proxy: config.yaml", "yaml", LITELLM_PROXY),
    Snippet("Open WebUI: a tool", "python", OPEN_WEBUI),
    Snippet("n8n: a workflow to import", "json", N8N),
)
