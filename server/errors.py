"""All named exceptions of the server.

    ServerError
      MediaError      an image or clip of a request cannot be fetched or read
      NoModel         no checkpoint here answers this task
      QueueFull       the queue has no free place for another job
        RateLimited     the client has sent too many requests in a short time
        QuotaExceeded   the key has reached its limit of jobs
        TooManyBodies   the bodies of the current requests take too much memory
        TooManyAtOnce   the key has reached its limit of simultaneous waiting requests, streams or downloads
      DiskFull        the disk has too little free space
      UploadTooLarge  a file that a client uploads is too large
        StorageQuotaExceeded  the key's files would exceed their limit of disk space
      StaleWrite      a job has moved on: another attempt owns it, or it has ended
      StartError      the server cannot start; one line, for the person who started it
        BadSetting  InsecureBind  AddressInUse  DataDirUnwritable  DataDirBusy

Knows: what went wrong, in words for the caller. Does not know: vendors' error shapes, HTTP status codes.
`pipelines.request.RequestError` is a client error too, but is defined outside this module; IdempotencyConflict is a
subclass of RequestError.
"""

from __future__ import annotations

from typing import Any, Literal

from pipelines.request import RequestError

IDEMPOTENCY_KEY = "Idempotency-Key"  # the name of a header, as the field in its errors

MediaCode = Literal[
    "unsupported_image_format",
    "image_too_large",
    "image_load_error",
    "file_download_error",
    "file_too_large",
    "unsupported_video_format",
    "video_duration_too_long",
    "video_duration_too_short",
]


class ServerError(Exception):
    """`message` may be shown to a client as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class MediaError(ServerError):
    """`field`: a name of GenerationRequest. `extra`: the code's numbers, in bytes, pixels or seconds."""

    def __init__(self, field: str, code: MediaCode, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.field = field
        self.code = code
        self.extra = extra


class NoModel(ServerError):
    def __init__(self, task: str, message: str) -> None:
        super().__init__(message)
        self.task = task


class QueueFull(ServerError):
    """`retry_after`: seconds after which a new request may succeed."""

    def __init__(self, limit: int, message: str = "", retry_after: float = 5.0) -> None:
        super().__init__(message or f"the queue is full: {limit} jobs are waiting")
        self.limit = limit
        self.retry_after = retry_after


class QuotaExceeded(QueueFull):
    """A key has reached its limit of unfinished jobs or, if `daily`, its limit of jobs since midnight UTC."""

    def __init__(self, limit: int, daily: bool, retry_after: float) -> None:
        when = "a day" if daily else "at a time"
        super().__init__(limit, f"this key may have {limit} jobs {when}, and has them", retry_after)
        self.daily = daily


class RateLimited(QueueFull):
    """A caller has sent too many requests. `rate`: in words, such as "600 per 1 minute"."""

    def __init__(self, limit: int, rate: str, retry_after: float) -> None:
        super().__init__(limit, f"more than {rate} were sent", retry_after)


class TooManyBodies(QueueFull):
    """The bodies of a caller's requests, or of all requests, take too much memory. `limit`: per caller, in bytes."""

    def __init__(self, limit: int) -> None:
        text = f"requests of more than {limit // 2**20} MiB at a time; send the request again later"
        super().__init__(limit, text)


class TooManyAtOnce(QueueFull):
    """A caller already holds `limit` places, the maximum at a time. `what`: what the places are for, such as "event
    streams"."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__(limit, f"{limit} {what} of this caller are open, as many as may be at a time")


class IdempotencyConflict(RequestError):
    def __init__(self) -> None:
        super().__init__(IDEMPOTENCY_KEY, "was used for another request before")


class DiskFull(ServerError):
    pass


class UploadTooLarge(ServerError):
    pass


class StorageQuotaExceeded(UploadTooLarge):
    """`limit`: in bytes. `lately`: the period that the limit applies to, such as "an hour"."""

    def __init__(self, limit: int, lately: str) -> None:
        room = f"{limit // 2**20} MiB"
        super().__init__(f"the files of this key may take {room} within {lately}; delete some, or send this one later")
        self.limit = limit


class StaleWrite(ServerError):
    """The write of attempt `attempt` was refused, and nothing has changed."""

    def __init__(self, job_id: str, attempt: int, message: str) -> None:
        super().__init__(f"job {job_id}, attempt {attempt}: {message}")
        self.job_id = job_id
        self.attempt = attempt


class StartError(ServerError):
    pass


class BadSetting(StartError):
    pass


class InsecureBind(StartError):
    pass


class AddressInUse(StartError):
    pass


class DataDirUnwritable(StartError):
    pass


class DataDirBusy(StartError):
    pass
