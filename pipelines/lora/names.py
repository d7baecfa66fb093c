"""Parse the names of tensors in LoRA files: the layer and the role, in the naming of every trainer. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.", "module.")
KOHYA = re.compile(r"(?:lora_(?:unet|transformer)|lycoris)_+(?=\w)")
_KOHYA_PREFIXES = ("base_model_model_", "transformer_", "diffusion_model_", "model_", "module_")
# torch.compile, FSDP, activation checkpointing, Lightning, DDP and DeepSpeed, PEFT's own layers
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module")
_WRAPPED = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(_WRAPPERS)}|module|base_layer)\.")
_WRAPPED_KOHYA = re.compile(rf"_{{0,3}}(?:(?:{'|'.join(w.strip('_') for w in _WRAPPERS)})_{{1,3}})+")

# PEFT's `lora_A.weight`, also with an adapter's name inside (raw dumps), or other trainers' lora_down and lora_up
_LORA = re.compile(
    r"(?P<module>.+)\.lora[_.](?P<half>A|B|down|up)(?P<dump>\.[^.]+)?\.(?P<kind>weight|bias)|"
    r"(?P<norm>.+)\.(?:lora_magnitude_vector(?P<norm_dump>\.(?!weight)[^.]+)?(?:\.weight)?|dora_scale)|"
    r"(?P<lycoris>.+)\.(?P<what>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?P<lycoris_dump>\.[^.]+)?"
)
_ALPHA = re.compile(r"(?P<module>.+?)(?:\.lora)?\.alpha")
_TEXT = re.compile(
    r"(?:base_model\.model\.)?(?:text_encoder|text_model|t5xxl|cond_stage_model|encoder\.block\.)|(?:lora|lycoris)_te\d*_"
)

MAGNITUDE = "lora_magnitude_vector"
ALPHA = "alpha"
_UNSUPPORTED = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"\.lora_mid\.", "LoCon with a middle layer"),
        (r"\.lora_embedding_[AB]", "an embedding LoRA"),
        (r"\.(?:lora_E|ranknum)\b", "AdaLoRA"),
        (r"\.(?:ia3_l|on_input)\b", "(IA)3"),
        (r"\.boft_", "BOFT"),
        (r"\.oft_", "OFT"),
        (r"\.vera_lambda_", "VeRA"),
        (r"\.(?:diff|diff_b|diff_m|set_weight)$", "a difference of whole weights (.diff)"),
        (r"\.(?:w_norm|b_norm)$", "a LyCORIS that changes norms (w_norm)"),
        (r"\.[ab][12]\.weight$", "GLoRA"),
        (r"\.matrix_[AB]\b", "a LoRA as the SAT trainer saves it; its tools/export_sat_lora_weight.py makes it usable"),
        (r"\.modules_to_save\.", "a LoRA with whole layers beside it (modules_to_save)"),
        (r"\.base_layer\.(?:weight|bias)$", "an adapter with the layers it was trained on; save the adapter alone"),
    )
)
_FOREIGN = tuple(
    (re.compile(pattern), model)
    for pattern, model in (  # for names that have _ instead of .
        (r"(?:^|_)(?:down|up|mid|input|middle|output)_blocks?_\d|motion_modules", "Stable Diffusion (a UNet)"),
        (r"(?:double|single)_blocks_\d|single_transformer_blocks_\d", "Flux or HunyuanVideo"),
        (r"joint_blocks_\d|transformer_blocks_\d+_attn1?_(?:add_|to_add_)", "Stable Diffusion 3, Qwen-Image or Mochi"),
        (r"transformer_blocks_\d+_attn_", "Flux or Qwen-Image"),
        (r"transformer_blocks_\d+_attn2_", "LTX-Video, PixArt or Sana"),
        (r"(?:^|(?<!transformer)_)blocks_\d+_(?:self_attn|cross_attn|attn[12]|ffn)_", "Wan"),
    )
)


def bare(key: str) -> str:
    """The name without the parts that torch.compile, FSDP, checkpointing, DDP and nested PEFT layers insert."""
    return _WRAPPED.sub("", key)


def is_of_text_encoder(key: str) -> bool:
    return _TEXT.match(bare(key)) is not None


def parsed(key: str, underscored: Mapping[str, str]) -> tuple[str, str] | None:
    """The name of the layer (spelled as in the transformer, if the transformer has that layer), and PEFT's name of the
    tensor or `ALPHA`.

    `underscored` maps the transformer's names with _ instead of . to the names with dots. Returns None if `key` is not
    the name of an adapter's tensor.
    """
    key = bare(key)
    if (found := _LORA.fullmatch(key)) is None:
        alpha = _ALPHA.fullmatch(key)
        return None if alpha is None else (_module(alpha["module"], underscored), ALPHA)
    if found["module"]:
        half = "A" if found["half"] in ("A", "down") else "B"
        return _module(found["module"], underscored), f"lora_{half}.{found['kind']}"
    if found["norm"]:
        return _module(found["norm"], underscored), MAGNITUDE
    return _module(found["lycoris"], underscored), found["what"]


def unsupported(keys: Iterable[str]) -> str | None:
    """The known but unsupported kind of adapter that one of these keys belongs to."""
    return next((kind for key in keys for pattern, kind in _UNSUPPORTED if pattern.search(key)), None)


def foreign(keys: Iterable[str]) -> str | None:
    """The other model whose layers have such names."""
    names = [bare(key).replace(".", "_") for key in keys]
    return next((model for pattern, model in _FOREIGN if any(pattern.search(name) for name in names)), None)


def layout(key: str) -> str:
    """The layout as text: the prefix and the naming."""
    wrapped, key = key != bare(key), bare(key)
    found = _LORA.fullmatch(key)
    if found is None:
        return "unknown"
    if found["half"]:
        words = "lora_A/lora_B" if found["half"] in ("A", "B") else "lora_down/lora_up"
    else:
        words = str(found["what"] or MAGNITUDE).partition("_")[0]
    if found["dump"] or found["norm_dump"] or found["lycoris_dump"]:
        text = f"raw PEFT dump, {words}"
    elif kohya := KOHYA.match(key):
        text = f"{kohya[0]}, {words} ({'LyCORIS' if kohya[0].startswith('lycoris') else 'kohya, VideoX-Fun'})"
    else:
        text = f"{next((one for one in PREFIXES if key.startswith(one)), 'no prefix')}, {words}"
    return f"{text}, wrapped names" if wrapped else text


def _module(name: str, underscored: Mapping[str, str]) -> str:
    if kohya := KOHYA.match(name):
        return _of_kohya(name[kohya.end() :], underscored) or name
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _of_kohya(name: str, underscored: Mapping[str, str]) -> str | None:
    name = _WRAPPED_KOHYA.sub("_", f"_{name}").lstrip("_")
    while name not in underscored:
        prefix = next((one for one in _KOHYA_PREFIXES if name.startswith(one)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return underscored[name]
