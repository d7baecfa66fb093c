"""One call to every cloud, and the member of its responses that holds an error's text."""

from __future__ import annotations

from typing import Any

CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "fal": ("/queue/fal-ai/cogvideox-5b", {"prompt": "steps=1"}, "/queue/fal-ai/cogvideox-5b/requests/x/status"),
    "segmind": ("/v2/cog-video-5b-t2v", {"prompt": "steps=1"}, "/v2/requests/x/status"),
    "zhipu": (
        "/api/paas/v4/videos/generations",
        {"model": "cogvideox-3", "prompt": "steps=1"},
        "/api/paas/v4/async-result/x",
    ),
    "modelslab": (
        "/api/v6/video/text2video",
        {"model_id": "cogvideox", "prompt": "steps=1", "instant_response": True},
        "/api/v6/video/fetch/1",
    ),
    "openai": ("/v1/videos", {"prompt": "steps=1"}, "/v1/videos/video_00000000000000000000000000000000"),
    "replicate": (
        "/v1/models/cuuupid/cogvideox-5b/predictions",
        {"input": {"prompt": "steps=1"}},
        f"/v1/predictions/{'a' * 26}",
    ),
    "huggingface": ("/hf-inference/models/zai-org/CogVideoX-5b", {"inputs": "steps=1"}, ""),
}
SAYS = {
    "fal": "detail",
    "segmind": "error",
    "zhipu": "error",
    "modelslab": "message",
    "openai": "error",
    "replicate": "detail",
    "huggingface": "error",
}
