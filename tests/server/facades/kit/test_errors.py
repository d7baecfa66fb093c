"""Each exception has its answer, and each kind of pydantic error has its message."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.errors import (
    DiskFull,
    IdempotencyConflict,
    MediaError,
    NoModel,
    QueueFull,
    QuotaExceeded,
    StorageQuotaExceeded,
    UploadTooLarge,
)
from server.facades.kit import complaints
from server.facades.kit.errors import KINDS, RAISED, Answers, BadForm, NotAnObject, Refused, Unavailable, named
from server.facades.kit.json_bodies import BadBody
from server.limits.bodies import BodyTooLarge
from server.media.uploads import UploadBroken

NAMES: dict[str, Any] = {name: lambda _, name=name: name for name in KINDS.values()}
ANSWERS: Answers[str] = Answers(**NAMES)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Unauthorized("missing"), "no_key"),
        (BadBody("no", 1), "bad_json"),
        (NotAnObject([]), "not_an_object"),
        (BodyTooLarge(), "too_large"),
        (UploadTooLarge("no"), "too_large"),
        (StorageQuotaExceeded(1, "a day"), "too_large"),
        (UploadBroken("no"), "bad_upload"),
        (MediaError("image", "image_load_error", "no"), "bad_media"),
        (RequestError("fps", "no"), "bad_request"),
        (IdempotencyConflict(), "bad_request"),
        (NoModel("text-to-video", "no"), "no_model"),
        (QueueFull(1), "queue_full"),
        (QuotaExceeded(1, True, 5.0), "queue_full"),
        (DiskFull("no"), "disk_full"),
        (ClientDisconnect(), "hung_up"),
        (HTTPException(404), "http"),
        (Unavailable("no"), "http"),
        (BadForm("no"), "http"),
        (KeyError("no"), "crashed"),
        (Refused("mine"), "mine"),
    ],
)
def test_the_nearest_kind_answers(error: Exception, name: str) -> None:
    assert ANSWERS.to(error) == name
    assert isinstance(error, RAISED)


def test_fields_have_the_vendors_names() -> None:
    assert named(RequestError("fps", "must be less"), {"fps": "frame_rate"}) == "frame_rate: must be less"
    assert named(RequestError("", "must be less"), {"fps": "frame_rate"}) == "must be less"


class Body(BaseModel):
    prompt: Annotated[str, Field(max_length=5), AfterValidator(complaints.not_blank)]
    steps: Annotated[int, Field(ge=1, le=50), BeforeValidator(complaints.no_bool)] = 1
    scale: Annotated[float, Field(ge=0.5, le=8.0)] = 1.0
    base64: bool = False


RANGES = {name: complaints.between(*ends) for name, ends in complaints.ranges(Body).items()}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "prompt is required"),
        ({"prompt": " "}, "prompt must not be blank"),
        ({"prompt": "{given}"}, "prompt must be at most 5 characters long"),
        ({"prompt": 5}, "prompt must be a string"),
        ({"prompt": "a", "steps": 51}, "steps must be between 1 and 50, got 51"),
        ({"prompt": "a", "steps": "{name}"}, "steps must be an integer, got '{name}'"),
        ({"prompt": "a", "steps": True}, "steps must be a number, got True"),
        ({"prompt": "a", "scale": 0}, "scale must be between 0.5 and 8, got 0"),
        ({"prompt": "a", "scale": "x" * 300}, f"scale must be a number, got '{'x' * 200}… (300 characters)'"),
        ({"prompt": "a", "base64": "maybe"}, "base64 must be true or false, got 'maybe'"),
        ({"steps": 0}, "prompt is required; steps must be between 1 and 50, got 0"),
    ],
)
def test_sentences_about_fields(fields: dict[str, Any], text: str) -> None:
    """A message shows the braces in a caller's value as they are, and does not treat them as format placeholders."""
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(fields)
    said = complaints.complaints(
        caught.value, lambda one: complaints.complaint(one, str(one["loc"][0]), complaints.WORDS, RANGES)
    )
    assert said == text
