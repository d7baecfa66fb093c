"""Converts a CogVideoX transformer's tensors from another layout to diffusers', by copying bytes, without torch.

Knows: the original (SAT) layout with its names and joint tensors, and the prefixes that trainers add to names.
Does not know: configs, folders.

Source of the names and the joint tensors: scripts/convert_cogvideox_to_diffusers.py of diffusers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from weights.safetensors_header import Tensor

Layout = Literal["diffusers", "original"]
_MARKS: Mapping[Layout, str] = {
    "diffusers": "transformer_blocks.0.attn1.to_q.weight",
    "original": "transformer.layers.0.attention.query_key_value.weight",
}
# names of wrapper modules that trainers add
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)")
_LISTED = re.compile(r"mixins\.adaln_layer\.(query_layernorm_list|key_layernorm_list|adaLN_modulations)\.(\d+)\.(.+)")
_IN_LAYER = {
    "attention.dense": "attn1.to_out.0",
    "mlp.dense_h_to_4h": "ff.net.0.proj",
    "mlp.dense_4h_to_h": "ff.net.2",
    "input_layernorm": "norm1.norm",
    "post_attention_layernorm": "norm2.norm",
}
_ELSEWHERE = {
    "transformer.final_layernorm": "norm_final",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "ofs_embed.0": "ofs_embedding.linear_1",
    "ofs_embed.2": "ofs_embedding.linear_2",
    "mixins.patch_embed.proj": "patch_embed.proj",
    "mixins.patch_embed.text_proj": "patch_embed.text_proj",
    "mixins.final_layer.norm_final": "norm_out.norm",
    "mixins.final_layer.linear": "proj_out",
    "mixins.final_layer.adaLN_modulation.1": "norm_out.linear",
}
_POSITIONS = "mixins.pos_embed.pos_embedding"
_COMPUTED = ("embed_tokens", "freqs_sin", "freqs_cos", "position_embedding")  # computed from the config
_COPY = 2**22


@dataclass(frozen=True)
class Piece:
    """A tensor in a file, or a part of this tensor: number `number` of `of` equal parts along the first dimension."""

    file: Path
    tensor: Tensor
    number: int = 0
    of: int = 1


def layout_of(names: Iterable[str]) -> tuple[Layout, str] | None:
    """The layout of the tensor names and their prefix; None if the names are not those of a CogVideoX transformer."""
    for name in map(_unwrapped, names):
        for layout, mark in _MARKS.items():
            if name == mark or name.endswith("." + mark):
                return layout, name.removesuffix(mark)
    return None


def _unwrapped(name: str) -> str:
    return _WRAPPERS.sub("", name)


def plan(tensors: Mapping[str, tuple[Path, Tensor]], layout: Layout, prefix: str) -> dict[str, list[Piece]]:
    """diffusers' name -> pieces to join along the first dimension. Names without the prefix belong to another model."""
    wanted: dict[str, list[Piece]] = {}
    for name, (file, tensor) in tensors.items():
        if (short := _unwrapped(name)).startswith(prefix):
            short = short.removeprefix(prefix)
            pairs = _renamed(short) if layout == "original" else [(short, [(0, 1)])]
            for new, shares in pairs:
                wanted[new] = [Piece(file, tensor, number, of) for number, of in shares]
    return wanted


def _renamed(name: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """diffusers' names for an original name, each with its parts of the original tensor: (number, total)."""
    if name == _POSITIONS:
        yield "patch_embed.pos_embedding", [(0, 1)]
        return
    if any(word in name for word in _COMPUTED):
        return
    stem, _, kind = name.rpartition(".")
    if match := _LAYER.fullmatch(stem):
        block, part = f"transformer_blocks.{match[1]}", match[2]
        if part == "attention.query_key_value":
            for number, to in enumerate(("to_q", "to_k", "to_v")):
                yield f"{block}.attn1.{to}.{kind}", [(number, 3)]
        else:
            yield f"{block}.{_IN_LAYER.get(part, part)}.{kind}", [(0, 1)]
    elif match := _LISTED.fullmatch(name):
        block = f"transformer_blocks.{match[2]}"
        # twelve parts: six for the video, then six for the text; in each six, three for norm1 and then three for norm2
        if match[1] == "adaLN_modulations":
            yield f"{block}.norm1.linear.{kind}", [(n, 12) for n in (0, 1, 2, 6, 7, 8)]
            yield f"{block}.norm2.linear.{kind}", [(n, 12) for n in (3, 4, 5, 9, 10, 11)]
        else:
            yield f"{block}.attn1.norm_{match[1][0]}.{kind}", [(0, 1)]
    else:
        yield f"{_ELSEWHERE.get(stem, stem)}.{kind}", [(0, 1)]


def write(wanted: Mapping[str, list[Piece]], target: Path) -> None:
    """Write one safetensors file. Raises ValueError for a tensor that cannot be split as its layout requires."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, pieces in wanted.items():
        tensor, of = pieces[0].tensor, pieces[0].of
        if of > 1 and (not tensor.shape or tensor.shape[0] % of):
            raise ValueError(f"{name} cannot be split from a tensor of shape {list(tensor.shape)}")
        shape = list(tensor.shape)
        if of > 1:
            shape[0] = shape[0] // of * len(pieces)
        begin, end = end, end + (tensor.end - tensor.begin) // of * len(pieces)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)  # aligns the tensors' bytes
    with target.open("wb") as out:
        out.write(len(said).to_bytes(8, "little") + said)
        for pieces in wanted.values():
            for piece in pieces:
                size = (piece.tensor.end - piece.tensor.begin) // piece.of
                with piece.file.open("rb") as source:
                    source.seek(piece.tensor.begin + piece.number * size)
                    _copy(source, out, size)


def _copy(source: BinaryIO, out: BinaryIO, size: int) -> None:
    while size:
        data = source.read(min(size, _COPY))
        if not data:
            raise ValueError(f"{source.name} is shorter than its header says")
        out.write(data)
        size -= len(data)
