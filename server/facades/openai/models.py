"""The bodies of OpenAI's video calls, with the fields that SGLang and vLLM-Omni have added to these bodies."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from pipelines.ranges import MAX_FPS, MAX_FRAMES, MAX_LORA_SCALE, MAX_SIDE, MIN_SIDE
from pipelines.request import MAX_SEED
from server.facades.kit.complaints import MAX_PROMPT, no_bool, not_blank, writable
from server.facades.kit.forms import MULTIPART, URLENCODED
from server.facades.kit.samples import BLUE, RED

DEFAULT_SECONDS = 4
DEFAULT_SIZE = "720x480"
PURPOSES = ("user_data", "vision", "assistants", "batch", "fine-tune", "evals")
FORMS = (MULTIPART, URLENCODED)  # OpenAI's clients send forms, even without a file
MEMBER = re.compile(r"(\w+)\[(\w+)\]")
SIZE = re.compile(r"(\d{2,5})x(\d{2,5})", re.ASCII)
NO_SOUND = "CogVideoX makes silent videos"
ONE_TRANSFORMER = "CogVideoX samples with one transformer; guidance_scale is its scale"
INTERPOLATION = "the server uses its own network to interpolate frames"
IGNORED: dict[str, tuple[Any, str]] = {  # vLLM-Omni's fields without effect: a value that needs no note, and the reason
    "flow_shift": (None, "CogVideoX's schedulers have no shift"),
    "guidance_scale_2": (None, ONE_TRANSFORMER),
    "boundary_ratio": (None, ONE_TRANSFORMER),
    "true_cfg_scale": (None, "guidance_scale is CogVideoX's own"),
    "generate_sound": (False, NO_SOUND),
    "sound_duration": (None, NO_SOUND),
    "frame_interpolation_scale": (1, INTERPOLATION),
    "frame_interpolation_model_path": (None, INTERPOLATION),
    "user": (None, "keys tell users apart"),
}


@dataclass(frozen=True)
class FileId:
    """The id of an uploaded file."""

    id: str


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{wrong}", {"wrong": message})


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Converts the form's `name[member]` fields to objects."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        member = MEMBER.fullmatch(name)
        if member is None:
            found[name] = value
        elif isinstance(within := found.setdefault(member[1], {}), dict):
            within[member[2]] = value
    return found


def opened(value: Any) -> Any:
    """Parses an object that a form contains as JSON text; leaves other values unchanged."""
    if isinstance(value, str) and value[:MAX_PROMPT].lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _object(value: Any) -> Any:
    value = opened(value)
    if not isinstance(value, dict):
        raise _wrong("must be an object, or an object as JSON text")
    return value


def _picture(value: Any) -> Any:
    """Converts a reference image to str (URL, data URI, base64), bytes, or FileId."""
    value = opened(value)
    if isinstance(value, dict):
        given = {name: value[name] for name in ("image_url", "file_id") if value.get(name) is not None}
        if len(given) != 1:
            raise _wrong("must have either image_url or file_id")
        ((name, value),) = given.items()
        if not isinstance(value, str):
            raise _wrong(f"must have text as its {name}")
        if name == "file_id":
            return FileId(not_blank(writable(value)))
    if isinstance(value, str):
        return not_blank(writable(value))
    if not isinstance(value, bytes):
        raise _wrong("must be a file, a URL, a data URI, or an object with image_url or file_id")
    return value


def _lora(value: Any) -> Any:
    """Accepts vLLM-Omni's alternative names for the path and the scale of a LoRA."""
    value = opened(value)
    if isinstance(value, str):
        return {"path": value}
    if not isinstance(value, dict):
        raise _wrong("must be an object with path and scale, or the path alone")
    given = {name: one for name, one in value.items() if one is not None and one != ""}
    members = {"path": LORA_PATHS + LORA_NAMES, "scale": ("scale", "lora_scale")}
    found = {here: next((given[name] for name in names if name in given), None) for here, names in members.items()}
    return {name: one for name, one in found.items() if one is not None}


def _size(size: str) -> str:
    found = SIZE.fullmatch(size.strip().lower())
    if found is None or not all(MIN_SIDE <= int(side) <= MAX_SIDE for side in found.groups()):
        raise _wrong(f"must be WIDTHxHEIGHT with sides of {MIN_SIDE} to {MAX_SIDE} pixels, like 720x480")
    return found[0]


NO_BOOL = BeforeValidator(no_bool)
Seconds = Annotated[int, Field(ge=1, le=60), NO_BOOL]
Steps = Annotated[int, Field(ge=1, le=200), NO_BOOL]
Guidance = Annotated[float, Field(ge=0, le=20), NO_BOOL]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), NO_BOOL]
Frames = Annotated[int, Field(ge=1, le=MAX_FRAMES), NO_BOOL]
Rate = Annotated[int, Field(ge=1, le=MAX_FPS), NO_BOOL]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE), NO_BOOL]
Lifetime = Annotated[int, Field(ge=3600, le=2592000), NO_BOOL]
Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(writable)]
Prompt = Annotated[Text, AfterValidator(not_blank)]
_REFERENCE: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "description": "a URL, a data URI, base64, or the file itself in a form"},
        {"type": "object", "properties": {"image_url": {"type": "string"}}, "required": ["image_url"]},
        {"type": "object", "properties": {"file_id": {"type": "string"}}, "required": ["file_id"]},
    ]
}
Picture = Annotated[Any, BeforeValidator(_picture), WithJsonSchema(_REFERENCE)]
LORA_PATHS = ("path", "lora_path", "local_path")
LORA_NAMES = ("name", "lora_name", "adapter")


class Adapter(BaseModel):
    """`path`: a URL, or the name of a LoRA that is installed here."""

    model_config = ConfigDict(allow_inf_nan=False)

    path: Annotated[str, AfterValidator(writable), AfterValidator(not_blank)]
    scale: Annotated[float, Field(ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE), NO_BOOL] = 1.0


_ADAPTER: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "description": "a URL, or the name of a LoRA that is installed here"},
        {"type": "object", "properties": {"path": {"type": "string"}, "scale": {"type": "number"}}},
    ]
}
Bag = Annotated[
    dict[str, Any],
    BeforeValidator(_object),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]}),
]


class CreateVideo(BaseModel):
    """Fields without effect are named in `notes`, null means absent. In a form, an object is written with bracketed
    names or as JSON text."""

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=())

    prompt: Prompt = Field(examples=["a red circle moves to the left", "a blue square"])
    model: Text | None = Field(None, examples=["sora-2", "sora-2-pro"])
    seconds: Seconds = Field(DEFAULT_SECONDS, examples=[4, 8])
    size: Annotated[str, AfterValidator(_size)] | None = Field(
        None, description=f"WIDTHxHEIGHT; {DEFAULT_SIZE} by default", examples=["720x480", "1280x720"]
    )
    input_reference: Picture | None = Field(None, examples=[RED, {"image_url": BLUE}])
    negative_prompt: Text = Field("", examples=["low quality", "blurry"])
    num_inference_steps: Steps | None = Field(None, examples=[50, 20])
    guidance_scale: Guidance | None = Field(None, examples=[6, 7.5])
    seed: Seed | None = Field(None, examples=[42, 7])
    num_frames: Frames | None = Field(None, examples=[49, 25])
    fps: Rate | None = Field(None, examples=[8, 16])
    width: Side | None = Field(None, examples=[720, 480])
    height: Side | None = Field(None, examples=[480, 720])
    fit: Literal["crop", "pad", "stretch"] | None = Field(None, examples=["pad", "stretch"])
    extend: bool | None = Field(None, examples=[True, False])
    image_reference: Picture | None = Field(None, examples=[{"image_url": RED}, {"image_url": BLUE}])
    lora: Annotated[Adapter, BeforeValidator(_lora), WithJsonSchema(_ADAPTER)] | None = Field(
        None, examples=[{"name": "style", "scale": 0.5}, "style"]
    )
    enable_frame_interpolation: bool = Field(False, examples=[True, False])
    frame_interpolation_exp: Annotated[int, Field(ge=1, le=4), NO_BOOL] = Field(
        1, description="multiplies the frame rate by 2 to this power", examples=[1, 2]
    )
    video_params: Bag | None = Field(None, examples=[{"num_frames": 49, "fps": 8}, '{"num_frames": 25}'])
    extra_params: Bag | None = Field(None, examples=[{"seed": 42}, '{"seed": 7}'])
    flow_shift: Any = Field(None, examples=[3, 5])
    guidance_scale_2: Any = Field(None, examples=[3, 5])
    boundary_ratio: Any = Field(None, examples=[0.5, 0.9])
    true_cfg_scale: Any = Field(None, examples=[3, 5])
    generate_sound: Any = Field(None, examples=[True, "true"])
    sound_duration: Any = Field(None, examples=[2, 4])
    frame_interpolation_scale: Any = Field(None, examples=[0.5, 2])
    frame_interpolation_model_path: Any = Field(None, examples=["owner/rife", "another/rife"])
    user: Any = Field(None, examples=["somebody", "somebody else"])


class RemixVideo(BaseModel):
    prompt: Prompt = Field(examples=["the same in blue", "the same at night"])


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: Lifetime


class CreateFile(BaseModel):
    """A multipart form."""

    file: bytes = Field(json_schema_extra={"format": "binary"}, examples=["a picture", "another picture"])
    purpose: Literal["user_data", "vision", "assistants", "batch", "fine-tune", "evals"] = Field(
        examples=["user_data", "vision"]
    )
    expires_after: ExpiresAfter | None = Field(
        None, examples=[{"anchor": "created_at", "seconds": 3600}, {"anchor": "created_at", "seconds": 86400}]
    )
