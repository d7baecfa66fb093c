"""Files that clients bring before they ask for a video: `POST /upload-asset`.

Knows: data URIs. Does not know: what the files are for, where they are kept, how long.
"""

from __future__ import annotations

import mimetypes
import re
from dataclasses import dataclass

from server.context import Context
from server.facades.kit.errors import Failure, Refused
from server.media.artifact import Artifact
from server.media.data_uris import HEAD, NotBase64, from_base64, unescaped
from server.media.outbound import DownloadFailed
from server.media.uploads import UPLOAD_BYTES, chunks_of

MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")


@dataclass(frozen=True)
class Asset:
    media_type: str
    pieces: list[bytes]

    @classmethod
    def of(cls, uri: str, name: str) -> Asset:
        """What `uri` holds, a file of any type; `name` is what an error calls it. Raises Refused."""
        comma = (uri := uri.strip()).find(",", 0, HEAD)
        head = uri[: max(0, comma)].lower()
        if not head.startswith("data:"):
            raise Refused(Failure(400, f"{name} must be a data: URI, as in data:image/png;base64,iVBORw0…"))
        kind, *options = head[5:].split(";")
        data = unescaped(uri, comma + 1)
        if "base64" in (option.strip() for option in options):
            data = from_base64(data, UPLOAD_BYTES)
        try:
            pieces = [piece for piece in data if piece]
        except NotBase64:
            raise Refused(Failure(400, f"{name} says base64, and what follows is not")) from None
        except DownloadFailed as e:
            raise Refused(Failure(400, f"{name}: {e.message}")) from None
        if not pieces:
            raise Refused(Failure(400, f"{name} holds no data"))
        return cls(kind.strip() if MEDIA_TYPE.fullmatch(kind.strip()) else "application/octet-stream", pieces)

    async def keep(self, context: Context, owner: str) -> Artifact:
        """Raises DiskFull, UploadTooLarge."""
        file_name = f"asset{mimetypes.guess_extension(self.media_type) or ''}"
        return await context.uploads.store(chunks_of(self.pieces), file_name, self.media_type, owner=owner)
