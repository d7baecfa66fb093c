"""The bodies that Zhipu and 302.AI accept: models, fields, sizes, lengths, rates.

`present` removes fields that count as absent (null, empty text, an empty list) before the validation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pipelines.request import Task
from server.facades.kit.complaints import is_blank, shown, writable
from server.facades.kit.samples import BLUE_BASE64, RED
from weights.catalog import published

MODELS = ("cogvideox-3", "cogvideox-2", "cogvideox-flash", "cogvideox")
FIRST_AND_LAST = "cogvideox-3"  # the model that accepts two images
SIZES = (
    *("720x480", "1024x1024", "1280x720", "720x1280", "1280x960", "960x1280", "1920x1080", "1080x1920", "2048x1080"),
    "3840x2160",
)
SECONDS = (5, 10)
RATES = (30, 60)
NO_LAST_FRAME = "the model served here can begin with a picture, not end with one; send the first one only"
MAX_PROMPT = 512  # characters
MAX_REQUEST_ID = 256  # characters
MAX_IDS = 100
SHORT_SIDES = {"480p": 480, "720p": 720, "1080p": 1080, "2k": 1080, "4k": 2160}
WIDE = "16:9"
ASPECT_RATIOS = ("16:9", "9:16", "4:3", "3:4", "1:1")
PICTURES = [RED, BLUE_BASE64]


def present(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value not in ([], {}) and not (isinstance(value, str | bytes) and is_blank(value))
    }


def _writable_picture(value: str | bytes) -> str | bytes:
    return writable(value) if isinstance(value, str) else value


def _brief(text: str) -> str:
    if len(text) > MAX_PROMPT:
        raise PydanticCustomError(
            "prompt_too_long", f"must be at most {MAX_PROMPT} characters long, not {{length}}", {"length": len(text)}
        )
    return text


def _one_of(*allowed: Any) -> Callable[[Any], Any]:
    words = ", ".join(str(one) for one in allowed[:-1]) + f" or {allowed[-1]}"

    def check(value: Any) -> Any:
        if value not in allowed:
            raise PydanticCustomError("not_offered", f"must be {words}, got {{given}}", {"given": repr(shown(value))})
        return value

    return check


def _model(name: str) -> str:
    """Accepts Zhipu's names of models, and names of published checkpoints."""
    plain = name.strip().lower()
    if plain not in MODELS and published(name) is None:
        raise PydanticCustomError(
            "no_such_model",
            f"{{given}} does not exist; there are {', '.join(MODELS)}",
            {"given": repr(shown(name))},
        )
    return plain


def _relayed_model(name: str) -> str:
    """Accepts 302.AI's names too. Such a name may contain underscores, and may end with the task."""
    if published(name) is not None:
        return _model(name)
    plain = name.lower().replace("_", "-")
    for task in ("-t2v", "-i2v"):
        plain = plain.removesuffix(task)
    return _model(plain)


def _pictures(value: Any) -> list[Any]:
    """Accepts an image, `{"url": image}`, or a list of these."""
    entries = value if isinstance(value, list) else [value]
    return [one.get("url") if isinstance(one, dict) else one for one in entries if one]


def _quality(value: Any) -> Any:
    """Also accepts a boolean, as 302.AI documents: true means `quality`, false means `speed`."""
    if not isinstance(value, str | int):
        return value
    word = str(value).strip().lower()
    return "quality" if word in ("true", "yes", "1") else "speed" if word in ("false", "no", "0") else word


def _plain_size(value: Any) -> Any:
    return value.strip().lower().replace("*", "x") if isinstance(value, str) else value


def _pixels(size: str, shape: str = WIDE) -> tuple[int, int]:
    """Returns width and height. `size`: `WIDTHxHEIGHT`, or a name of the short side such as `720p`. `shape`: the aspect
    ratio for such a name."""
    if size not in SHORT_SIDES:
        width, height = size.split("x")
        return int(width), int(height)
    short, (across, down) = SHORT_SIDES[size], (int(part) for part in shape.split(":"))
    long = round(short * max(across, down) / min(across, down) / 2) * 2
    return (long, short) if across >= down else (short, long)


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64 else value


def _enum(*allowed: Any) -> dict[str, Any]:
    return {"enum": list(allowed)}


Text = Annotated[str, AfterValidator(writable)]
Prompt = Annotated[Text, AfterValidator(_brief), Field(json_schema_extra={"maxLength": MAX_PROMPT})]
Model = Annotated[str, AfterValidator(_model), Field(json_schema_extra=_enum(*MODELS))]
Seconds = Annotated[int, AfterValidator(_one_of(*SECONDS)), Field(json_schema_extra=_enum(*SECONDS))]
Rate = Annotated[int, AfterValidator(_one_of(*RATES)), Field(json_schema_extra=_enum(*RATES))]
Size = Annotated[
    str,
    BeforeValidator(_plain_size),
    AfterValidator(_one_of(*SHORT_SIDES, *SIZES)),
    Field(json_schema_extra=_enum(*SHORT_SIDES, *SIZES)),
]
Quality = Annotated[Literal["speed", "quality"], BeforeValidator(_quality)]
RequestId = Annotated[str, Field(max_length=MAX_REQUEST_ID), AfterValidator(writable), BeforeValidator(_as_text)]
UserId = Annotated[str, Field(min_length=6, max_length=128), AfterValidator(writable), BeforeValidator(_as_text)]
ONE_PICTURE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "object", "properties": {"url": {"type": "string"}}}]
}
Pictures = Annotated[
    list[Annotated[str | bytes, AfterValidator(_writable_picture)]],  # bytes: a file in a form
    BeforeValidator(_pictures),
    WithJsonSchema({"anyOf": [*ONE_PICTURE["anyOf"], {"type": "array", "items": ONE_PICTURE, "maxItems": 2}]}),
]


class VideoGeneration(BaseModel):
    """`POST …/videos/generations`. Unknown fields are ignored, and null means absent; `prompt` or `image_url` is
    needed."""

    model: Model = Field(examples=["cogvideox-3", "cogvideox-2"])
    prompt: Prompt = Field("", examples=["a red circle moves left", "a blue square moves up"])
    image_url: Pictures = Field([], description="PNG or JPEG, 5 MB at most: URL, data URI, base64", examples=PICTURES)
    quality: Quality = Field("speed", examples=["speed", "quality"])
    with_audio: bool = Field(False, examples=[True, "true"])
    watermark_enabled: bool | None = Field(None, examples=[True, "true"])
    size: Size | None = Field(None, description="pixels, or the short side of 16:9", examples=["1920x1080", "720x480"])
    fps: Rate = Field(30, examples=[30, 60])
    duration: Seconds = Field(5, description="in seconds", examples=[5, 10])
    request_id: RequestId | None = Field(
        None, description="must be unique", examples=["first-request-1", "second-request-2"]
    )
    user_id: UserId | None = Field(None, examples=["user-0001", "user-0002"])
    style: Any = Field(None, examples=["general", "anime"])
    aspect_ratio: Any = Field(None, examples=["16:9", "9:16"])
    off_peak: Any = Field(None, examples=[True, "true"])
    movement_amplitude: Any = Field(None, examples=["auto", "large"])
    sensitive_word_check: Any = Field(
        None, examples=[{"type": "ALL", "status": "ENABLE"}, {"type": "ALL", "status": "DISABLE"}]
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> VideoGeneration:
        if not self.prompt and not self.pictures:
            raise PydanticCustomError("nothing_asked", "prompt or image_url is required")
        count, checkpoint = len(self.pictures), published(self.model)
        if not count and checkpoint is not None and Task.T2V not in checkpoint.tasks:
            raise PydanticCustomError("pictures", f"image_url: {checkpoint.repository} makes videos from pictures only")
        if count > 2:
            raise PydanticCustomError("pictures", "image_url must be one picture, or two: the first and last frame")
        if count == 2 and self.model != FIRST_AND_LAST:
            raise PydanticCustomError("pictures", f"image_url: only {FIRST_AND_LAST} takes two pictures, send one")
        if count == 2:
            raise PydanticCustomError(
                "pictures",
                f"image_url: two pictures ask for a video that ends on the second one; {NO_LAST_FRAME}",
            )
        return self

    @property
    def pictures(self) -> list[str | bytes]:
        return self.image_url

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height in pixels; None when not given."""
        return None if self.size is None else _pixels(self.size)


class UnifiedVideo(VideoGeneration):
    """`POST /302/v2/video/create`: 302.AI's own fields for all models, in addition to Zhipu's."""

    model: Annotated[str, AfterValidator(_relayed_model)] = Field(examples=["cogvideox-3", "CogVideoX_2-t2v"])
    image: Pictures = Field([], description="the same as image_url; in a form, it may be a file", examples=PICTURES)
    end_image: Any = Field(None, examples=PICTURES)
    video: Any = Field(None, examples=["https://example.com/a.mp4", "https://example.com/b.mp4"])
    negative_prompt: Prompt = Field("", examples=["low quality", "blurry"])
    resolution: Size | None = Field(None, examples=["1080p", "720p"])
    aspect_ratio: Annotated[str, AfterValidator(_one_of(*ASPECT_RATIOS))] | None = Field(
        None, json_schema_extra=_enum(*ASPECT_RATIOS), examples=["16:9", "9:16"]
    )

    @model_validator(mode="after")
    def _asks_for_what_there_is(self) -> UnifiedVideo:
        if self.end_image is not None:
            raise PydanticCustomError("pictures", f"end_image: {NO_LAST_FRAME}")
        if self.video is not None:
            raise PydanticCustomError("pictures", "video: CogVideoX has no video input at 302.AI; send an image")
        return self

    @property
    def pictures(self) -> list[str | bytes]:
        return self.image or self.image_url

    @property
    def sides(self) -> tuple[int, int] | None:
        if self.size is None and self.resolution is None and self.aspect_ratio is None:
            return None
        return _pixels(self.size or self.resolution or "480p", self.aspect_ratio or WIDE)


class Tasks(BaseModel):
    """`POST /cogvideox/v4/async-results`."""

    ids: list[Text] = Field(
        min_length=1,
        max_length=MAX_IDS,
        examples=[["d9428888-122b-41e1-b85c-61cf3a6b5a4f"], ["6fa459ea-ee8a-4ca4-894e-db77e160355e"]],
    )
