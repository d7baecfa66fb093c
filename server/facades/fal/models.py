"""fal's three CogVideoX endpoints: their names, fields, defaults and ranges.

Knows: what fal's schemas say. Does not know: HTTP, jobs, how a video is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from pipelines.request import MAX_SEED, Task
from server.facades.wire import MAX_PROMPT, flaw

APP = "fal-ai/cogvideox-5b"

PRESETS: dict[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}


DEFAULT_SIZE = (720, 480)  # whatever model answers: programs were written for this size


def _no_bool(kind: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Pydantic would take true for 1."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(kind)
        return value

    return BeforeValidator(check)


Whole = Annotated[int, _no_bool("int_type")]
Number = Annotated[float, _no_bool("float_type")]


class ImageSize(BaseModel):
    """Pixels; a side that is left out is 512."""

    width: Whole = Field(512, gt=0, le=14142)
    height: Whole = Field(512, gt=0, le=14142)


def _size(value: Any) -> Any:
    """A preset becomes its pixels, so that one error names one thing and not each half of a union."""
    if isinstance(value, str) and value in PRESETS:
        width, height = PRESETS[value]
        return ImageSize(width=width, height=height)
    if not isinstance(value, dict | ImageSize):
        message = "Input should be an object with width and height, or one of: " + ", ".join(PRESETS)
        raise PydanticCustomError("one_of", message, {"expected": [*PRESETS]})
    return value


def _writable(text: str) -> str:
    if wrong := flaw(text):
        raise PydanticCustomError("string_unicode", "Input should be a valid string: {wrong}", {"wrong": wrong})
    return text


Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_writable)]
Link = Annotated[str, Field(min_length=1), AfterValidator(_writable)]
VideoSize = Annotated[
    ImageSize,
    BeforeValidator(_size),
    WithJsonSchema({"anyOf": [{"$ref": "#/components/schemas/ImageSize"}, {"enum": [*PRESETS]}]}),
]


class LoraWeight(BaseModel):
    path: Link
    scale: Number = Field(1.0, allow_inf_nan=False)
    force: bool = False


class TextToVideoInput(BaseModel):
    """`fal-ai/cogvideox-5b`. Fields fal does not have are ignored, null means absent."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: Text
    video_size: VideoSize | None = None  # None is `DEFAULT_SIZE`
    negative_prompt: Text = ""
    loras: list[LoraWeight] = []
    num_inference_steps: Whole = Field(50, ge=1, le=50)
    seed: Whole | None = Field(None, ge=0, le=MAX_SEED)
    guidance_scale: Number = Field(7, ge=0, le=20)
    use_rife: bool = True
    export_fps: Whole = Field(16, ge=4, le=32)


class ImageToVideoInput(TextToVideoInput):
    """`fal-ai/cogvideox-5b/image-to-video`. The picture is a URL or a data URI."""

    image_url: Link


class VideoToVideoInput(TextToVideoInput):
    """`fal-ai/cogvideox-5b/video-to-video`. The clip is a URL or a data URI."""

    video_url: Link
    strength: Number = Field(0.8, ge=0.05, le=1)


class File(BaseModel):
    url: str
    content_type: str | None = None
    file_name: str | None = None
    file_size: int | None = None


class Output(BaseModel):
    video: File
    timings: dict[str, float]
    seed: int
    prompt: str


@dataclass(frozen=True)
class Endpoint:
    id: str
    task: Task
    input: type[TextToVideoInput]  # the fields the three share; the other two add theirs


ENDPOINTS = {
    endpoint.id: endpoint
    for endpoint in (
        Endpoint(APP, Task.T2V, TextToVideoInput),
        Endpoint(f"{APP}/image-to-video", Task.I2V, ImageToVideoInput),
        Endpoint(f"{APP}/video-to-video", Task.V2V, VideoToVideoInput),
    )
}
