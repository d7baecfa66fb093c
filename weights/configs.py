"""Checks that our pipelines can run a checkpoint's configs correctly.

Knows: the classes, and the allowed values of each field (`weights.fields`), alone and in combination. The most
dangerous fields are those on which no tensor's name or shape depends: with a wrong value the checkpoint loads, but
makes wrong videos. Does not know: the weights (`weights.expected`), torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from weights.catalog import COMPONENTS, MODEL_INDEX
from weights.fields import DEFAULTS, FIXED, USUAL, WHOLE, Config
from weights.problem import Problem, read_json

TASKS = {"CogVideoXPipeline": 16, "CogVideoXVideoToVideoPipeline": 16, "CogVideoXImageToVideoPipeline": 32}
CLASSES: Mapping[str, tuple[str, ...]] = {
    "scheduler": ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
    "text_encoder": ("T5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
    "transformer": ("CogVideoXTransformer3DModel",),
    "vae": ("AutoencoderKLCogVideoX",),
}
FILES = {
    "scheduler": "scheduler/scheduler_config.json",
    "text_encoder": "text_encoder/config.json",
    "transformer": "transformer/config.json",
    "vae": "vae/config.json",
}
OTHER_MODELS = ("add_noise_in_inpaint_model",)  # these need other pipelines, even if their channels match
_SWITCHES = ("use_rotary_positional_embeddings", "use_learned_positional_embeddings", "patch_bias")
_ROTARY = {(30, 30): False, (42, 48): True}  # the published sizes: layers and heads -> rotary positions
_SCALES = {True: 0.7, False: 1.15258426}  # published VAEs: with rotary positions (5B, 1.5) and without (2B)
_SHIFTS = {True: 1.0, False: 3.0}  # snr_shift_scale, likewise
NOT_OURS = "not supported; `cogvideox weights list` shows the supported models"
OTHER_CHANNELS = "other numbers belong to CogVideoX-Fun and models with control inputs"
_MEND = "restore the published value, or download the checkpoint again: cogvideox weights pull NAME"


def whole(part: str, config: Config) -> Config:
    """`config` with the library's defaults for missing fields."""
    return DEFAULTS[part] | config


def quantised(part: str, config: Config) -> Problem | None:
    """A problem if the config says that the weights are quantised."""
    if (how := config.get("quantization_config")) is None:
        return None
    library = how.get("quant_method") if isinstance(how, dict) else None
    what = f"its weights are quantised by {_shown(library or 'some library')}, expected F32, F16 or BF16"
    return Problem(FILES[part], what, "use the unquantised checkpoint: cogvideox weights pull NAME")


def problems(folder: Path) -> Iterator[Problem]:
    """Yield every unsupported value in the configs. All configs must exist and be readable."""
    index = read_json(folder, MODEL_INDEX)[0]
    read = {part: read_json(folder, name)[0] for part, name in FILES.items()}
    found = [*_index(index), *(p for part, config in read.items() for p in _part(part, config))]
    yield from found
    if not found:
        yield from _together(index, {part: whole(part, config) for part, config in read.items()})


def unusual(folder: Path) -> Iterator[str]:
    """Unusual values of fields on which no weight depends. Nothing in the weights shows whether the model was trained
    with these values.
    """
    for part, usual in USUAL.items():
        found = read_json(folder, FILES[part])[0]
        config = whole(part, found)
        for key, value in usual.items():
            if key not in found:
                yield f"{FILES[part]}: {key} is missing, which means {_shown(config[key])}"
            elif not _same(config[key], value) and config[key] != _SCALES[False]:
                yield f"{FILES[part]}: {key} is {_shown(config[key])}, CogVideoX-5B has {_shown(value)}"


def unknown(folder: Path) -> Iterator[str]:
    """Fields that the pinned classes do not have. diffusers ignores these fields, because other versions of the classes
    may have them."""
    for part, names in CLASSES.items():
        if part in ("text_encoder", "tokenizer"):
            continue
        for key, value in read_json(folder, FILES[part])[0].items():
            if value and key not in DEFAULTS[part] and key not in OTHER_MODELS and not key.startswith("_"):
                yield f"{FILES[part]}: {_shown(key)} is {_shown(value)}, which {names[0]} does not use"


def wrong_pipeline(index: Config) -> Problem | None:
    if (name := index.get("_class_name")) in [*TASKS]:
        return None
    return Problem(MODEL_INDEX, f"is for a {_shown(name)}, expected {', '.join(TASKS)}", NOT_OURS)


def _index(index: Config) -> Iterator[Problem]:
    for part in COMPONENTS:
        entry = index.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[1] in CLASSES[part]):
            yield Problem(MODEL_INDEX, f"names {_shown(entry)} as its {part}, expected {_or(CLASSES[part])}", NOT_OURS)
    more = (k for k, v in index.items() if k not in COMPONENTS and isinstance(v, list) and any(v))
    for part in more:
        yield Problem(MODEL_INDEX, f"has a {_shown(part)}, which CogVideoX does not have", NOT_OURS)


def _part(part: str, config: Config) -> Iterator[Problem]:
    path, full = FILES[part], whole(part, config)
    if part == "text_encoder":
        names = config.get("architectures") or ["T5EncoderModel"]
        if not (
            isinstance(names, list) and str(names[0]) in ("T5EncoderModel", "T5Model", "T5ForConditionalGeneration")
        ):
            yield Problem(path, f"is a {_shown(names)}, expected T5EncoderModel", NOT_OURS)
    elif (name := config.get("_class_name")) not in CLASSES[part]:
        yield Problem(path, f"is a {_shown(name)}, expected {_or(CLASSES[part])}", NOT_OURS)
        return
    else:
        if "_use_default_values" in config:  # diffusers replaces these fields with its defaults
            yield Problem(path, "has _use_default_values, which overrides its other fields", "remove this field")
        for key in OTHER_MODELS:
            if config.get(key):
                yield Problem(path, f"{key} is {_shown(config[key])}, a field of CogVideoX-Fun", NOT_OURS)
    yield from _values(part, path, full)


def _values(part: str, path: str, full: Config) -> Iterator[Problem]:
    for key, value in FIXED[part].items():
        if not _same(full[key], value):
            yield Problem(path, f"{key} is {_shown(full[key])}, expected {_shown(value)}", _MEND)
    for key, (least, most) in WHOLE[part].items():
        if not _is_whole(full[key], least, most):
            what = f"{key} is {_shown(full[key])}, expected a whole number from {least} to {most}"
            yield Problem(path, what, _MEND)
    if part == "transformer":
        yield from _transformer(path, full)
    elif part == "vae":
        widths, groups = full["block_out_channels"], full["norm_num_groups"]
        if not (isinstance(widths, list) and len(widths) == 4 and all(_is_whole(w, 1, 65536) for w in widths)):
            yield Problem(path, f"block_out_channels is {_shown(widths)}, expected four whole numbers", _MEND)
        elif _is_whole(groups, 1, 1024) and any(w % groups for w in widths):
            what = f"norm_num_groups is {groups}, which does not divide the block_out_channels {widths}"
            yield Problem(path, what, _MEND)
        if not _is_number(full["scaling_factor"]) or not 0 < full["scaling_factor"] < 1000:
            what = f"scaling_factor is {_shown(full['scaling_factor'])}, expected a number above 0"
            yield Problem(path, what, _MEND)
        if not isinstance(full["invert_scale_latents"], bool):
            yield Problem(
                path, f"invert_scale_latents is {_shown(full['invert_scale_latents'])}, expected true or false"
            )
    elif part == "scheduler" and not _is_number(full["snr_shift_scale"]):
        yield Problem(path, f"snr_shift_scale is {_shown(full['snr_shift_scale'])}, expected 1.0 or 3.0", _MEND)


def _transformer(path: str, full: Config) -> Iterator[Problem]:
    channels = full["in_channels"]
    if not _same(channels, 16) and not _same(channels, 32):
        what = f"in_channels is {_shown(channels)}, expected 16 (text to video) or 32 (image to video)"
        if _is_whole(channels, 17, 1000):
            what += f"; {OTHER_CHANNELS}"
        yield Problem(path, what, NOT_OURS)
    if full["patch_size_t"] is not None and not _same(full["patch_size_t"], 2):
        yield Problem(path, f"patch_size_t is {_shown(full['patch_size_t'])}, expected null (1.0) or 2 (1.5)", NOT_OURS)
    if full["ofs_embed_dim"] is not None and not _is_whole(full["ofs_embed_dim"], 2, 65536):
        yield Problem(path, f"ofs_embed_dim is {_shown(full['ofs_embed_dim'])}, expected null or a whole number", _MEND)
    for key in ("sample_height", "sample_width"):
        if _is_whole(full[key], 1, 1024) and full[key] % 2:
            yield Problem(path, f"{key} is {full[key]}, expected an even number, because a patch has two", _MEND)
    for key in _SWITCHES:
        if not isinstance(full[key], bool):
            yield Problem(path, f"{key} is {_shown(full[key])}, expected true or false", _MEND)
    if not _is_number(full["dropout"]) or not 0 <= full["dropout"] <= 1:
        yield Problem(path, f"dropout is {_shown(full['dropout'])}, expected a number from 0 to 1", _MEND)
    if full["use_learned_positional_embeddings"] is True and full["use_rotary_positional_embeddings"] is not True:
        what = "use_learned_positional_embeddings is true, expected use_rotary_positional_embeddings to be true as well"
        yield Problem(path, what, _MEND)


def _together(index: Config, full: dict[str, Config]) -> Iterator[Problem]:
    """Checks across the parts: a mismatch means that they come from different models."""
    transformer, vae, scheduler = full["transformer"], full["vae"], full["scheduler"]
    channels, name = transformer["in_channels"], index["_class_name"]
    if TASKS[name] != channels:
        what = f"is for a {name}: expected in_channels {TASKS[name]}, transformer/config.json says {channels}"
        yield Problem(MODEL_INDEX, what, NOT_OURS)
    if transformer["text_embed_dim"] != full["text_encoder"]["d_model"]:
        what = f"d_model is {full['text_encoder']['d_model']}, expected {transformer['text_embed_dim']}"
        yield Problem(FILES["text_encoder"], f"{what}, the transformer's text_embed_dim", _MEND)
    rotary, learned = (transformer[k] for k in _SWITCHES[:2])
    second = transformer["patch_size_t"] is not None
    size = (transformer["num_layers"], transformer["num_attention_heads"])
    if size in _ROTARY:
        wanted = (_ROTARY[size], _ROTARY[size] and channels == 32 and not second)
        for key, value, expected in zip(_SWITCHES, (rotary, learned), wanted, strict=False):
            if value is not expected:
                what = f"{key} is {str(value).lower()}, expected {str(expected).lower()} in a model of {size[0]} layers"
                yield Problem(FILES["transformer"], what, _MEND)
    elif full["scheduler"]["_class_name"] != index["scheduler"][1]:
        what = f"is a {full['scheduler']['_class_name']}, expected {index['scheduler'][1]} as in {MODEL_INDEX}"
        yield Problem(FILES["scheduler"], what, _MEND)
    whose = f"of a transformer {'with' if rotary else 'without'} rotary positions"
    if not _same(scheduler["snr_shift_scale"], _SHIFTS[rotary]):
        what = f"snr_shift_scale is {scheduler['snr_shift_scale']}, expected {_SHIFTS[rotary]}, that {whose}"
        yield Problem(FILES["scheduler"], what, _MEND)
    if _same(vae["scaling_factor"], _SCALES[not rotary]):
        what = f"scaling_factor is {vae['scaling_factor']}, expected {_SCALES[rotary]}, that {whose}"
        yield Problem(FILES["vae"], what, _MEND)
    if channels == 32 and vae["invert_scale_latents"] is not second:
        what = f"invert_scale_latents is {str(not second).lower()}, expected {str(second).lower()}"
        yield Problem(FILES["vae"], f"{what}, as in CogVideoX {'1.5' if second else '1.0'}", _MEND)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(found: Any, wanted: Any) -> bool:
    """Whether the values are equal, and `value` is an integer where an integer is expected. Libraries count with such a
    value, so 2.0 is not accepted for 2."""
    return bool(found == wanted) and (type(found) is type(wanted) or (isinstance(wanted, float) and _is_number(found)))


def _shown(value: Any) -> str:
    """`value` as JSON, shortened, for a message."""
    text = {None: "null", True: "true", False: "false"}.get(value, "") if isinstance(value, bool | None) else ""
    if isinstance(value, int) and abs(value) > 10**15:
        return "a number of very many digits"
    text = text or str(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(names)
