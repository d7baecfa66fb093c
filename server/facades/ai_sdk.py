"""Vercel's AI SDK refuses to download from localhost and private IP addresses. Therefore a response to this SDK
contains the video itself."""

from __future__ import annotations

from base64 import b64encode
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

from server.context import Context
from server.media.addresses import is_public
from server.media.artifact import Artifact

LOCAL = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def agent_of(request: Request) -> str:
    return request.headers.get("user-agent", "")


def is_ai_sdk(agent: str) -> bool:
    return "ai-sdk/" in agent


def refuses(agent: str, base: str) -> bool:
    """Whether the client with this user agent is the AI SDK, and the SDK refuses to download from `base` (our URL)."""
    return is_ai_sdk(agent) and is_private(base)


def is_private(base: str) -> bool:
    """Whether the host in the URL looks like this machine or a machine in a private network."""
    try:
        host = (urlsplit(base).hostname or "").rstrip(".").lower()
    except ValueError:  # the host is in brackets, but is not an IP address
        return False
    try:
        ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(LOCAL)
    return not is_public(host)


def video_or_url(context: Context, video: Artifact, base: str, as_data: bool) -> str:
    """Returns a data: URI with the video if `as_data` is true, and otherwise the URL of the video. If the file of the
    video no longer exists, the URL is returned in any case."""
    if as_data:
        try:
            content = b64encode(context.artifacts.read(video)).decode("ascii")
            return f"data:{video.media_type};base64,{content}"
        except FileNotFoundError:
            pass  # the URL will give the client a clear error
    return context.artifacts.url(video, base)
