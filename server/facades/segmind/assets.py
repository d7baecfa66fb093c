"""`POST /upload-asset`: files as data URIs, uploaded before a video is requested."""

from __future__ import annotations

import mimetypes
import re
from contextlib import suppress

from server.context import Context
from server.facades.kit.errors import Failure, Refused
from server.media.artifact import Artifact
from server.media.data_uris import NotBase64, from_text, head_of
from server.media.outbound import DownloadFailed
from server.media.uploads import UPLOAD_BYTES, chunks_of

MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")


def opened(uri: str, name: str) -> tuple[str, list[bytes]]:
    """The media type and the pieces of the file in a data: URI. `name`: how errors name the URI. Raises Refused."""
    uri, head = uri.strip(), None
    with suppress(DownloadFailed):  # no comma
        head = head_of(uri)
    if head is None:
        raise Refused(Failure(400, f"{name} must be a data: URI, as in data:image/png;base64,iVBORw0…"))
    try:
        pieces = [piece for piece in from_text(uri, UPLOAD_BYTES) if piece]
    except NotBase64:
        raise Refused(Failure(400, f"{name} says base64, but its data is not base64")) from None
    except DownloadFailed as e:
        raise Refused(Failure(400, f"{name}: {e.message}")) from None
    if not pieces:
        raise Refused(Failure(400, f"{name} holds no data"))
    return head.media_type if MEDIA_TYPE.fullmatch(head.media_type) else "application/octet-stream", pieces


async def stored(context: Context, media_type: str, pieces: list[bytes], owner: str) -> Artifact:
    """Raises DiskFull, UploadTooLarge."""
    file_name = f"asset{mimetypes.guess_extension(media_type) or ''}"
    return await context.uploads.store(chunks_of(pieces), file_name, media_type, owner=owner)
