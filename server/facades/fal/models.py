"""fal's three CogVideoX endpoints: their names, fields, defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from pipelines.ranges import MAX_LORA_SCALE, MAX_LORAS, MAX_SIDE, MIN_SIDE
from pipelines.request import MAX_SEED, Task
from server.facades.kit.complaints import MAX_PROMPT, joined, writable
from server.facades.kit.samples import BLUE, BLUE_CLIP, RED, RED_CLIP
from server.media.uploads import MAX_PARTS

APP = "fal-ai/cogvideox-5b"

PRESETS: dict[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}


DEFAULT_SIZE = (720, 480)  # the same for every model, because programs were written for this size


def _no_bool(kind: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Refuses true and false, which pydantic would convert to 1 and 0."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(kind)
        return value

    return BeforeValidator(check)


Whole = Annotated[int, _no_bool("int_type")]
Number = Annotated[float, _no_bool("float_type")]


POSSIBLE: dict[str, Any] = {"minimum": MIN_SIDE, "maximum": MAX_SIDE}


class ImageSize(BaseModel):
    """A size in pixels; the default for each side is 512. fal allows sides up to 14142, and this server allows sides
    from 16 to 4096."""

    width: Whole = Field(512, gt=0, json_schema_extra=POSSIBLE, examples=[720, 512])
    height: Whole = Field(512, gt=0, json_schema_extra=POSSIBLE, examples=[480, 512])


def _size(value: Any) -> Any:
    """Converts the name of a preset to pixels. The field does not have a union of types, because pydantic would report
    an error for each type in the union."""
    if isinstance(value, str) and value in PRESETS:
        width, height = PRESETS[value]
        return ImageSize(width=width, height=height)
    if not isinstance(value, dict | ImageSize):
        message = "Input should be an object with width and height, or one of: " + ", ".join(PRESETS)
        raise PydanticCustomError("one_of", message, {"expected": [*PRESETS]})
    return value


Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(writable)]
Unwanted = Annotated[Text, BeforeValidator(joined)]
Link = Annotated[str, Field(min_length=1), AfterValidator(writable)]
VideoSize = Annotated[
    ImageSize,
    BeforeValidator(_size),
    WithJsonSchema({"anyOf": [{"$ref": "#/components/schemas/ImageSize"}, {"enum": [*PRESETS]}]}),
]


class LoraWeight(BaseModel):
    """`path`: a URL, or the name of an installed LoRA. With `#sha256=…` at the end, the file must have that hash."""

    path: Link = Field(examples=["https://example.org/lora.safetensors", "someone/lora"])
    scale: Number = Field(1.0, ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE, allow_inf_nan=False, examples=[1, 0.5])
    force: bool = Field(False, description="download it again", examples=[False, True])


class TextToVideoInput(BaseModel):
    """`fal-ai/cogvideox-5b`. Fields that fal does not have are ignored, and null means absent."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: Text = Field(examples=["a red circle moves left", "a blue square moves right"])
    video_size: VideoSize | None = Field(  # None is `DEFAULT_SIZE`
        None, examples=[{"width": 720, "height": 480}, "square"]
    )
    negative_prompt: Unwanted = Field("", examples=["", "blurry"])
    loras: list[LoraWeight] = Field(
        [], max_length=MAX_LORAS, examples=[[], [{"path": "https://example.org/lora.safetensors", "scale": 1}]]
    )
    num_inference_steps: Whole = Field(50, ge=1, le=50, examples=[50, 20])
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), _no_bool("int_type")] | None = Field(None, examples=[42, 7])
    guidance_scale: Number = Field(7, ge=0, le=20, examples=[7, 6.5])
    use_rife: bool = Field(True, examples=[False, True])
    export_fps: Whole = Field(16, ge=4, le=32, examples=[16, 8])


class ImageToVideoInput(TextToVideoInput):
    """`fal-ai/cogvideox-5b/image-to-video`. The image is a URL or a data URI."""

    image_url: Link = Field(examples=[RED, BLUE])


class VideoToVideoInput(TextToVideoInput):
    """`fal-ai/cogvideox-5b/video-to-video`. The clip is a URL or a data URI."""

    video_url: Link = Field(examples=[RED_CLIP, BLUE_CLIP])
    strength: Number = Field(0.8, ge=0.05, le=1, examples=[0.8, 0.5])


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


class NewFile(BaseModel):
    """The body that starts an upload: the name and the media type of the file."""

    file_name: str = Field("", max_length=1000, examples=["circle.png", "clip.mp4"])
    content_type: str = Field("", max_length=200, examples=["image/png", "video/mp4"])


class UploadedPart(BaseModel):
    partNumber: Whole = Field(ge=1, le=MAX_PARTS, examples=[1, 2])
    etag: str = Field("", max_length=200, examples=['"0cc175b9c0f1b6a831c399e269772661"', ""])


class UploadedParts(BaseModel):
    """The body that ends an upload in parts. The parts may be listed in any order."""

    parts: list[UploadedPart] = Field(
        min_length=1, max_length=MAX_PARTS, examples=[[{"partNumber": 1, "etag": '"0cc1"'}], [{"partNumber": 1}]]
    )


class AppToken(BaseModel):
    """A token to call these apps without a key, as `?fal_jwt_token=`; valid for `token_expiration` seconds."""

    allowed_apps: list[str] = Field(max_length=100, examples=[["cogvideox-5b"], ["fal-ai/cogvideox-5b"]])
    token_expiration: Whole = Field(120, ge=1, le=86_400, examples=[120, 600])


@dataclass(frozen=True)
class Endpoint:
    id: str
    task: Task
    input: type[TextToVideoInput]  # for two endpoints, a subclass with more fields


ENDPOINTS = {
    endpoint.id: endpoint
    for endpoint in (
        Endpoint(APP, Task.T2V, TextToVideoInput),
        Endpoint(f"{APP}/image-to-video", Task.I2V, ImageToVideoInput),
        Endpoint(f"{APP}/video-to-video", Task.V2V, VideoToVideoInput),
    )
}
