"""The bodies of ModelsLab's calls. ModelsLab's clients send numbers and booleans as text, and empty strings for absent
values.

Values above ModelsLab's maximum are reduced to the maximum, because ModelsLab's own SDK sends such values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pipelines.request import MAX_SEED, Task
from server.facades.kit.complaints import MAX_PROMPT, is_callable, no_bool, not_blank, shown, writable
from server.facades.kit.samples import BLUE, RED
from weights.catalog import published

RANDOM_SEED = -1
MAX_URL = 8192
TEXT_MODELS = ("cogvideox", "cogvideox-2", "cogvideox-5b", "wanx")
IMAGE_MODELS = (*TEXT_MODELS, "svd")


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _address(url: str) -> str:
    if not is_callable(url.strip()):
        raise PydanticCustomError("address", "must be an http or https URL")
    return url.strip()


def _one_of(known: tuple[str, ...], task: Task) -> Callable[[str], str]:
    """Returns a check that accepts the names in `known`, and the names of published checkpoints for `task`."""

    def check(name: str) -> str:
        checkpoint = published(name)
        if name not in known and (checkpoint is None or task not in checkpoint.tasks):
            raise PydanticCustomError("unknown_model", "Model not found: {name}", {"name": shown(name)})
        return name

    return check


Int = Annotated[int, BeforeValidator(no_bool)]
Number = Annotated[float, BeforeValidator(no_bool)]
Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(writable)]
Prompt = Annotated[Text, AfterValidator(not_blank)]
Picture = Annotated[str, AfterValidator(writable), AfterValidator(not_blank)]
Address = Annotated[str, Field(max_length=MAX_URL), AfterValidator(writable), AfterValidator(_address)]
OutputType = Annotated[Literal["mp4", "gif"], BeforeValidator(_lower)]
TextModel = Annotated[
    str, BeforeValidator(_lower), AfterValidator(writable), AfterValidator(_one_of(TEXT_MODELS, Task.T2V))
]
ImageModel = Annotated[
    str, BeforeValidator(_lower), AfterValidator(writable), AfterValidator(_one_of(IMAGE_MODELS, Task.I2V))
]
TrackId = Annotated[str, BeforeValidator(_number_as_text), Field(max_length=1000), AfterValidator(writable)]
Share = Annotated[Number, Field(ge=0)]
Positive = Annotated[Int, Field(ge=1)]
Side = Annotated[Int, Field(ge=16)]


class Body(BaseModel):
    """Fields of all generations. Unknown fields are ignored; null and empty text mean absent. `MOST`: the maxima of
    fields; a larger value is reduced to the maximum. `IGNORED`: fields without effect, each with the vendor's default
    and the reason."""

    model_config = ConfigDict(allow_inf_nan=False)
    MOST: ClassVar[Mapping[str, float]] = {}
    IGNORED: ClassVar[Mapping[str, tuple[Any, str]]] = {}

    key: str | None = Field(
        None, description="API key; or in a header: Authorization, x-api-key", examples=["YOUR_API_KEY", "K"]
    )
    prompt: Prompt = Field(examples=["A red circle moves to the left", "Space station in space"])
    negative_prompt: Text = Field("", examples=["low quality", "blurry"])
    seed: Annotated[Int, Field(ge=RANDOM_SEED, le=MAX_SEED)] | None = Field(
        None, description="-1 or absent: random", examples=[42, 7]
    )
    fps: Positive = Field(8, description="16 at most", examples=[8, 16])
    output_type: OutputType = Field("mp4", examples=["mp4", "gif"])
    instant_response: bool = Field(
        False, description="respond at once instead of waiting for the video", examples=[True, False]
    )
    temp: bool = Field(False, description="delete the file after a day", examples=[True, False])
    webhook: Address | None = Field(
        None,
        description="URL to call when the job has ended",
        examples=["https://example.com/hook", "http://example.org/"],
    )
    track_id: TrackId | None = Field(None, description="repeated in the webhook", examples=["clip-1", "clip-2"])


class Sized(Body):
    """The common fields of text2video and img2video."""

    height: Side = Field(512, description="512 at most", examples=[512, 256])
    width: Side = Field(512, description="512 at most", examples=[512, 384])
    num_frames: Positive = Field(25, description="25 at most", examples=[25, 17])
    num_inference_steps: Positive = Field(20, description="50 at most", examples=[20, 5])
    guidance_scale: Share = Field(7, description="8 at most", examples=[7, 5.5])


SIZED = {"height": 512, "width": 512, "num_frames": 25, "num_inference_steps": 50, "guidance_scale": 8, "fps": 16}
SECOND_PASS = (None, "CogVideoX has no second pass")  # None, the default, requests no second pass
SVD = "an SVD-only parameter"
DISTILLED = "the value is for a distilled model; CogVideoX's default is used"


class TextToVideo(Sized):
    """`text2video`."""

    MOST = {**SIZED, "upscale_height": 1024, "upscale_width": 1024}
    IGNORED = {
        "upscale_strength": SECOND_PASS,
        "upscale_guidance_scale": SECOND_PASS,
        "upscale_num_inference_steps": SECOND_PASS,
        "clip_skip": (None, "CogVideoX reads prompts with T5; there is no CLIP"),
        "use_improved_sampling": (False, "CogVideoX samples all frames together already"),
        "improved_sampling_seed": (None, "it belongs to use_improved_sampling; use seed"),
    }

    model_id: TextModel = Field(
        description=f"{', '.join(TEXT_MODELS)}; all select the model served here", examples=["cogvideox", "wanx"]
    )
    output_type: OutputType = Field("gif", examples=["mp4", "gif"])
    upscale_height: Side | None = Field(None, description="1024 at most", examples=[1024, 640])
    upscale_width: Side | None = Field(None, description="1024 at most", examples=[1024, 768])
    upscale_strength: Share | None = Field(None, examples=[0.6, 0.5])
    upscale_guidance_scale: Share | None = Field(None, examples=[12, 7.5])
    upscale_num_inference_steps: Positive | None = Field(None, examples=[20, 40])
    clip_skip: Annotated[Int, Field(ge=0)] | None = Field(None, examples=[2, 1])
    use_improved_sampling: bool = Field(False, examples=[True, "yes"])
    improved_sampling_seed: Int | None = Field(None, examples=[42, 43])


class TextToVideoFusion(TextToVideo):
    """The body of `text-to-video` in API v7. Clients of this call name the file `.mp4`."""

    output_type: OutputType = Field("mp4", examples=["mp4", "gif"])


class ImageToVideo(Sized):
    """`img2video`. The prompt is optional."""

    MOST = SIZED
    IGNORED = {
        "min_guidance_scale": (1, SVD),
        "max_guidance_scale": (3, SVD),
        "motion_bucket_id": (127, SVD),
        "noise_aug_strength": (None, SVD),
        "base64": (False, "base64 is recognised as such; the response always contains a URL"),
    }

    model_id: ImageModel = Field(
        description=f"{', '.join(IMAGE_MODELS)}; all select the model served here", examples=["cogvideox", "svd"]
    )
    init_image: Picture = Field(description="http(s) URL, data: URI or base64", examples=[RED, BLUE])
    prompt: Text = Field("", examples=["A red circle moves to the left", "Space station in space"])
    num_frames: Positive = Field(16, description="25 at most", examples=[25, 17])
    min_guidance_scale: Share | None = Field(None, examples=[2, 1.5])
    max_guidance_scale: Share | None = Field(None, examples=[4, 5])
    motion_bucket_id: Annotated[Int, Field(ge=0)] | None = Field(None, examples=[20, 180])
    noise_aug_strength: Share | None = Field(None, examples=[0.02, 0.1])
    base64: bool = Field(False, examples=[True, "yes"])


class TextToVideoUltra(Body):
    """`text2video_ultra`: the parameters of a distilled model."""

    MOST = {"resolution": 480, "num_frames": 161, "fps": 18}
    IGNORED = {  # the defaults are those of the vendor's own client
        "model_id": ("", "any name means the model served here"),
        "num_inference_steps": (8, DISTILLED),
        "guidance_scale": (1, DISTILLED),
        "sample_shift": (3, "CogVideoX's schedulers have no shift"),
    }

    model_id: Text = Field("", description="any name selects the model served here", examples=["wan2.1", "wan2.2"])
    resolution: Side = Field(480, description="short side in pixels, 480 at most", examples=[480, 320])
    num_frames: Positive = Field(92, description="161 at most", examples=[92, 82])
    fps: Positive = Field(16, description="18 at most", examples=[16, 18])
    portrait: bool = Field(False, description="portrait instead of landscape orientation", examples=[True, False])
    num_inference_steps: Positive | None = Field(None, examples=[6, 4])
    guidance_scale: Share | None = Field(None, examples=[1.5, 2])
    sample_shift: Number | None = Field(None, examples=[5, 8])


class ImageToVideoUltra(TextToVideoUltra):
    """`img2video_ultra`."""

    init_image: Picture = Field(description="http(s) URL, data: URI or base64", examples=[RED, BLUE])
    prompt: Text = Field("", examples=["A red circle moves to the left", "Space station in space"])
    resolution: Side = Field(320, description="short side in pixels, 480 at most", examples=[480, 320])


Given = TextToVideo | ImageToVideo | TextToVideoUltra | ImageToVideoUltra


class Fetch(BaseModel):
    """`fetch/{id}`."""

    key: str | None = Field(None, description="API key; or in a header", examples=["YOUR_API_KEY", "K"])


class FetchById(Fetch):
    """`fetch`."""

    request_id: int | str = Field(description="`id` in the response to the generation", examples=[1, "2"])


class Upload(BaseModel):
    """`base64_to_url`. Either field contains the file."""

    key: str | None = Field(None, description="API key; or in a header", examples=["YOUR_API_KEY", "K"])
    base64_string: str | None = Field(None, description="data: URI or base64", examples=[RED, BLUE])
    init_obj: str | None = Field(None, description="data: URI or base64", examples=[RED, BLUE])


def present(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` without the key, nulls and empty text."""
    return {name: value for name, value in fields.items() if name != "key" and value is not None and value != ""}
