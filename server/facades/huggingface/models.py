"""Hugging Face's names of the CogVideoX models, and the body of its two tasks, text-to-video and image-to-video.

Hugging Face documents no ranges, so the engine's ranges apply.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pipelines.ranges import MAX_FRAMES, MAX_GUIDANCE, MAX_SIDE, MAX_STEPS, MIN_SIDE
from pipelines.request import MAX_SEED, Task
from server.facades.kit.complaints import MAX_PROMPT, joined, no_bool, not_blank, writable
from weights.catalog import published

OWNERS = ("zai-org", "THUDM")
MODELS = ("CogVideoX-2b", "CogVideoX-5b", "CogVideoX1.5-5B", "CogVideoX-5b-I2V", "CogVideoX1.5-5B-I2V")


def task_of(owner: str, name: str) -> Task | None:
    """The task of the model with this owner and name; None if the model is not a CogVideoX model. Case is ignored, as
    on the Hub."""
    if owner.lower() not in [one.lower() for one in OWNERS]:
        return None
    checkpoint = published(name)
    return None if checkpoint is None else Task.T2V if Task.T2V in checkpoint.tasks else Task.I2V


ONE_OR_MORE = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(writable)]
Unwanted = Annotated[Text, BeforeValidator(joined), WithJsonSchema(ONE_OR_MORE)]


NO_BOOL = BeforeValidator(no_bool)
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), NO_BOOL]
Frames = Annotated[float, Field(ge=1, le=MAX_FRAMES), NO_BOOL]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS), NO_BOOL]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE), NO_BOOL]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), NO_BOOL]


class Size(BaseModel):
    """Pixels."""

    width: Side = Field(examples=[720, 480])
    height: Side = Field(examples=[480, 720])


class Parameters(BaseModel):
    """Unknown parameters are ignored, and null means absent. The defaults are those of the model."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: Text | None = Field(
        default=None,
        description="for image-to-video; for text-to-video, `inputs` is the prompt",
        examples=["it rolls away", "it jumps"],
    )
    negative_prompt: Unwanted | None = Field(default=None, examples=[["low quality", "blurry"], "dark, grainy"])
    num_frames: Frames | None = Field(default=None, description="rounded to a whole number", examples=[49, 17])
    num_inference_steps: Steps | None = Field(default=None, examples=[50, 20])
    guidance_scale: Guidance | None = Field(default=None, examples=[6, 7.5])
    seed: Seed | None = Field(default=None, examples=[42, 7])
    target_size: Size | None = Field(
        default=None,
        examples=[{"width": 720, "height": 480}, {"width": 480, "height": 480}],
        description="size of the video",
    )


class Inference(BaseModel):
    """`inputs` is a prompt for text-to-video, and for image-to-video an image: base64, a data URI or a URL."""

    inputs: Annotated[str, AfterValidator(not_blank)] = Field(
        examples=["a red circle moves left", "a blue square moves right"]
    )
    parameters: Parameters | None = Field(
        default=None, examples=[{"num_inference_steps": 50, "seed": 42}, {"num_frames": 17, "num_inference_steps": 20}]
    )


class TextInference(Inference):
    inputs: Annotated[Text, AfterValidator(not_blank)]
