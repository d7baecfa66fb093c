"""Segmind's two CogVideoX models: their slugs, fields, defaults and ranges; and the body of an upload.

Image-to-video also accepts the settings of text-to-video. Segmind documents no ranges of these settings for
image-to-video; by default the model's own values apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pipelines.request import GenerationRequest, Media, Task
from server.facades.kit.complaints import MAX_PROMPT, no_bool, not_blank, writable
from server.facades.kit.samples import BLUE_BASE64, RED

SEED_LIMIT = 2**53 - 1
SIZE = (720, 480)  # every model here uses the only size that Segmind's two models have
RANDOM_SEED = -1
MAX_ASSETS = 100
PICTURES = [RED, BLUE_BASE64]
PROMPTS = ["a red circle moves left", "a blue square moves right"]
UNWANTED = ["low quality, blurry", "dark, grainy"]


def _some_image(image: str | bytes) -> str | bytes:
    if isinstance(image, str):
        writable(image)
    if not image:
        raise PydanticCustomError("blank", "must not be empty")
    return image


Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(writable)]
Prompt = Annotated[Text, AfterValidator(not_blank)]
Image = Annotated[str | bytes, AfterValidator(_some_image)]
NO_BOOL = BeforeValidator(no_bool)
Frames = Annotated[int, Field(ge=16, le=60), NO_BOOL]
Steps = Annotated[int, Field(ge=25, le=50), NO_BOOL]
Guidance = Annotated[float, Field(ge=5, le=10), NO_BOOL]
Rate = Annotated[int, Field(ge=8, le=10), NO_BOOL]
Seed = Annotated[int, Field(ge=RANDOM_SEED, le=SEED_LIMIT, description="-1: random"), NO_BOOL]


class TextToVideo(BaseModel):
    """`cog-video-5b-t2v`. Unknown fields are ignored, and null means absent."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: Prompt = Field(examples=PROMPTS)
    negative_prompt: Text = Field("low quality, blurry", examples=UNWANTED)
    input_frames: Frames = Field(49, examples=[49, 20])
    steps: Steps = Field(45, examples=[45, 25])
    guidance_scale: Guidance = Field(6, examples=[6, 7.5])
    frame_rate: Rate = Field(8, examples=[8, 10])
    seed: Seed = Field(806286757407563, examples=[806286757407563, 7])
    base64: bool = Field(False, description="respond with JSON that contains the video", examples=[False, True])


class ImageToVideo(BaseModel):
    """`cog-video-5b-i2v`. `image` is a URL, a data URI, bare base64, or a file of a multipart form."""

    model_config = ConfigDict(allow_inf_nan=False, json_schema_extra={"required": ["image", "prompt"]})

    image: Image = Field(examples=PICTURES)
    prompt: Prompt = Field(examples=PROMPTS)
    negative_prompt: Text = Field(
        "The video is not of a high quality, it has a low resolution. Watermark present in each frame. "
        "Strange motion trajectory.",
        examples=UNWANTED,
    )
    input_frames: Frames | None = Field(None, examples=[49, 20])
    steps: Steps | None = Field(None, examples=[45, 25])
    guidance_scale: Guidance | None = Field(None, examples=[6, 7.5])
    frame_rate: Rate | None = Field(None, examples=[8, 10])
    seed: Seed = Field(42, examples=[42, 7])
    base64: bool = Field(False, description="respond with JSON that contains the video", examples=[False, True])


class UploadAsset(BaseModel):
    """Files of any type, as data URIs."""

    data_urls: list[str] = Field(
        min_length=1, max_length=MAX_ASSETS, examples=[[PICTURES[0]], [PICTURES[0], "data:text/plain,a%20note"]]
    )


Given = TextToVideo | ImageToVideo


@dataclass(frozen=True)
class Slug:
    name: str
    task: Task
    input: type[TextToVideo] | type[ImageToVideo]


SLUGS = {
    slug.name: slug
    for slug in (
        Slug("cog-video-5b-t2v", Task.T2V, TextToVideo),
        Slug("cog-video-5b-i2v", Task.I2V, ImageToVideo),
    )
}


def generation(given: Given, image: Media | None) -> GenerationRequest:
    return GenerationRequest(
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        image=image,
        num_frames=given.input_frames,
        width=SIZE[0],
        height=SIZE[1],
        fps=given.frame_rate,
        num_inference_steps=given.steps,
        guidance_scale=given.guidance_scale,
        seed=None if given.seed == RANDOM_SEED else given.seed,
    )
