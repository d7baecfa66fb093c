"""Replicate's CogVideoX models: their names, versions, inputs and ranges, and the body of a prediction request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema
from pydantic_core import PydanticKnownError

from pipelines.ranges import MAX_FRAMES
from pipelines.request import MAX_SEED, GenerationRequest, Media, Task
from server.facades.kit.complaints import MAX_PROMPT, writable
from server.facades.kit.samples import BLUE, RED

SIZE = (720, 480)  # every model here uses the size that these models' videos have at Replicate
FRAMES = 49
FPS = 8


def _whole(value: Any) -> Any:
    """Accepts 6.0 as an integer, but refuses "6" and true. Replicate does the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PydanticKnownError("int_type")
    return value


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT), AfterValidator(writable)]
Link = Annotated[
    str, Field(min_length=1), AfterValidator(writable), WithJsonSchema({"type": "string", "format": "uri"})
]
Seed = Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED), BeforeValidator(_whole)]
Event = Literal["start", "output", "logs", "completed"]


class CogVideoX5bInput(BaseModel):
    """`cuuupid/cogvideox-5b` and `christophy/cogvideox`. Fields that these models do not have are ignored, and null
    means absent."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: Text = Field(description="Prompt", examples=["a red circle moves left", "a blue square moves right"])
    extend_prompt: Flag = Field(
        True, description="Have a chat model reword the prompt, where one is set", examples=[True, False]
    )
    steps: Whole = Field(50, ge=1, le=120, description="Denoising steps", examples=[50, 20])
    guidance: Number = Field(6, ge=0, le=12, description="Classifier-free guidance scale", examples=[6, 7.5])
    num_outputs: Whole = Field(1, ge=1, le=1, description="Output videos; one is made", examples=[1, 2])
    seed: Seed = Field(42, description="The same seed makes the same video", examples=[42, 7])


class CogVideoXTextInput(BaseModel):
    """`thudm/cogvideox-t2v`. Fields that this model does not have are ignored, and null means absent."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: Text = Field(description="Prompt", examples=["a red circle moves left", "a blue square moves right"])
    num_inference_steps: Whole = Field(50, ge=1, le=500, description="Denoising steps", examples=[50, 20])
    guidance_scale: Number = Field(6, ge=1, le=20, description="Classifier-free guidance scale", examples=[6, 7.5])
    num_frames: Whole = Field(FRAMES, ge=1, le=MAX_FRAMES, description="Frames of the video", examples=[49, 25])
    seed: Seed | None = Field(None, description="Left out, one is drawn", examples=[42, 7])


class CogVideoXImageInput(CogVideoXTextInput):
    """`thudm/cogvideox-i2v`. `image` is a URL, a data URI or bare base64."""

    image: Link = Field(description="The first frame", examples=[RED, BLUE])


Input = CogVideoX5bInput | CogVideoXTextInput
HOOKS = ["https://example.com/hook", "https://example.com/other"]


class Wanted(BaseModel):
    """The fields of every request for a prediction, besides its input."""

    webhook: Link | None = Field(None, description="URL to call for the prediction's events", examples=HOOKS)
    webhook_events_filter: list[Event] | None = Field(
        None, description="Events to report; default: all", examples=[["completed"], ["start", "completed"]]
    )
    webhook_completed: Link | None = Field(None, description="The older form, called at the end only", examples=HOOKS)
    stream: Flag | None = Field(None, description="No effect: every prediction has a stream", examples=[True, False])


class CogVideoX5bRequest(Wanted):
    input: CogVideoX5bInput = Field(
        examples=[{"prompt": "a red circle moves left"}, {"prompt": "a blue square moves right", "steps": 20}]
    )


class CogVideoXTextRequest(Wanted):
    input: CogVideoXTextInput = Field(
        examples=[
            {"prompt": "a red circle moves left"},
            {"prompt": "a blue square moves right", "num_inference_steps": 20, "num_frames": 25},
        ]
    )


class CogVideoXImageRequest(Wanted):
    input: CogVideoXImageInput = Field(
        examples=[{"prompt": "it moves left", "image": RED}, {"prompt": "it moves right", "image": BLUE, "seed": 7}]
    )


ModelRequest = CogVideoX5bRequest | CogVideoXTextRequest | CogVideoXImageRequest
AnyInput = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "anyOf": [
                {"$ref": f"#/components/schemas/{kind.__name__}"}
                for kind in (CogVideoX5bInput, CogVideoXTextInput, CogVideoXImageInput)
            ]
        }
    ),
]


class VersionRequest(Wanted):
    version: Annotated[str, AfterValidator(writable)] = Field(
        description="A version's id, `owner/name:id`, or `owner/name`",
        examples=["cuuupid/cogvideox-5b", "christophy/cogvideox"],
    )
    input: AnyInput = Field(
        examples=[{"prompt": "a red circle moves left"}, {"prompt": "a blue square moves right", "steps": 20}]
    )


class DeploymentRequest(Wanted):
    input: AnyInput = Field(
        examples=[{"prompt": "a red circle moves left"}, {"prompt": "a blue square moves right", "steps": 20}]
    )


@dataclass(frozen=True)
class Model:
    """`published`: the ids of Replicate's own versions; programs request these ids. `fields`: GenerationRequest's names
    -> this model's names, for fields whose names differ."""

    slug: str
    task: Task
    description: str
    request: type[ModelRequest]
    published: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.slug.partition("/")[0]

    @property
    def name(self) -> str:
        return self.slug.partition("/")[2]

    @property
    def version(self) -> str:
        return hashlib.sha256(f"cogvideox-server {self.slug}".encode()).hexdigest()

    @property
    def input(self) -> type[BaseModel]:
        kind = self.request.model_fields["input"].annotation
        assert isinstance(kind, type) and issubclass(kind, BaseModel)
        return kind


SHORT_NAMES = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
MODELS = {
    model.slug: model
    for model in (
        Model(
            "cuuupid/cogvideox-5b",
            Task.T2V,
            "Text to video with CogVideoX",
            CogVideoX5bRequest,
            (
                "5b14e2c2c648efecc8d36c6353576552f8a124e690587212f8e8bb17ecda3d8c",
                "bc005eaf92d6b4c9d67fd446d5da8f84c69059c287a04002e0d7c5057684f0cf",
                "89933c28defd71694f01a3f12b136fdee199cc52656969c9a8d7347bca6cfdcf",
                "c3cc58216cf12ac3e5562d321532e31a903cb1e4d4d7101addc2af477a3e24f0",
            ),
            SHORT_NAMES,
        ),
        Model(
            "christophy/cogvideox",
            Task.T2V,
            "Text to video with CogVideoX",
            CogVideoX5bRequest,
            (
                "00bbb837957e5007b347abab395747b68cc5bbf3f8c80ea2ef2ea93585378390",
                "f59d9418dd69124d23f72d5efc0a1795f89a0fe288ab8ec3383ba762027593ad",
            ),
            SHORT_NAMES,
        ),
        Model("thudm/cogvideox-t2v", Task.T2V, "Text to video with CogVideoX-5B", CogVideoXTextRequest),
        Model(
            "thudm/cogvideox-i2v",
            Task.I2V,
            "Image to video with CogVideoX-5B-I2V",
            CogVideoXImageRequest,
            ("82caaa79520e03b3963c975e38dd68ac8a6b18a8a39c19fd8dc03b4ed4b91c58",),
        ),
    )
}


def model_of(owner: str, name: str) -> Model | None:
    return MODELS.get(f"{owner}/{name}".lower())


def of_version(reference: str) -> tuple[Model, str] | None:
    """Returns the model and the version id for `reference`, which is an id, `owner/name:id` or `owner/name`. Returns
    None if this server does not know `reference`."""
    slug, colon, version = reference.lower().partition(":")
    if "/" in slug:
        models = [MODELS[slug]] if slug in MODELS else []
        version = version if colon else "".join(model.version for model in models)
    else:
        models, version = list(MODELS.values()), slug
    return next(((model, version) for model in models if version in (model.version, *model.published)), None)


def guessed(input: dict[str, Any]) -> Model:
    """Guesses the model of a deployment from the fields of `input`, because the deployment's name does not determine
    the model."""
    if "image" in input:
        return MODELS["thudm/cogvideox-i2v"]
    own = {"num_inference_steps", "guidance_scale", "num_frames"}
    return MODELS["thudm/cogvideox-t2v" if own & input.keys() else "cuuupid/cogvideox-5b"]


def generation(given: Input, image: Media | None) -> GenerationRequest:
    # torch accepts negative seeds, the engine does not: a negative seed is converted to a non-negative one
    seed = None if given.seed is None else given.seed % (MAX_SEED + 1)
    width, height = SIZE
    if isinstance(given, CogVideoX5bInput):
        frames, steps, guidance = FRAMES, given.steps, given.guidance
    else:
        frames, steps, guidance = given.num_frames, given.num_inference_steps, given.guidance_scale
    return GenerationRequest(
        prompt=given.prompt,
        image=image,
        num_frames=frames,
        width=width,
        height=height,
        fps=FPS,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        prompt_help=isinstance(given, CogVideoX5bInput) and given.extend_prompt,
    )
