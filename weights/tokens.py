"""Checks that a checkpoint's tokenizer is T5's and fits the text encoder: every id needs a row in the embedding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from weights.problem import Problem, read_json

_FIXED = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_IDS = {"<pad>": 0, "</s>": 1, "<unk>": 2}
_ADDED = re.compile(r"<extra_id_\d+>|<pad>|</?s>|<unk>")
_SIDES = ("padding_side", "truncation_side")
_EXTRA = 100  # <extra_id_0> to <extra_id_99>
_SHAPES: Mapping[str, tuple[type, ...]] = {  # types of fields that the library reads; it fails on others
    "added_tokens_decoder": (dict,),
    "additional_special_tokens": (list, dict),
    "extra_special_tokens": (list, dict),
    "model_max_length": (int, float),
    "chat_template": (str,),
    "model_input_names": (list,),
    "model_specific_special_tokens": (dict,),
}
_NEVER_NULL = ("added_tokens_decoder", "model_input_names")
_OTHERS = ("bos_token", "mask_token", "sep_token", "cls_token")
_A = {dict: "an object", list: "a list", int: "a number", str: "a string"}
_SPARE = 512  # at most this many embedding rows have no token; in T5 128 (100 extra ids, padding)


def problems(folder: Path, rows: int) -> Iterator[Problem]:
    """`rows`: number of rows of the text encoder's embedding."""
    for name in ("tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json"):
        config = read_json(folder, name)[0] if (folder / name).is_file() else {}
        for key, wanted in _FIXED.items():
            if key in config and _text(config[key]) != wanted:
                yield Problem(name, f"{key} is {_text(config[key])[:80]}, expected {wanted}")
        for key in _SIDES:
            if config.get(key, "right") != "right":
                yield Problem(name, f"{key} is {str(config[key])[:80]}, expected right")
        for key, value in config.items():  # the library treats every string under such a key as a special token
            named = key.endswith("_token") and (key in _OTHERS or isinstance(value, str | dict))
            if named and key not in _FIXED and value is not None and not _ADDED.fullmatch(_text(value)):
                yield Problem(name, f"{key} is {_text(value)[:80]}, expected none")
        for key, kinds in _SHAPES.items():
            bad = not isinstance(config.get(key), kinds) or isinstance(config[key], bool)
            if key in config and bad and not (config[key] is None and key not in _NEVER_NULL):
                yield Problem(name, f"{key} is {str(config[key])[:80]}, expected {_A[kinds[0]]}")
        if config.get("split_special_tokens", False) is not False:
            yield Problem(name, f"split_special_tokens is {str(config['split_special_tokens'])[:80]}, expected false")
        if config.get("extra_ids", _EXTRA) not in (0, _EXTRA) or isinstance(config.get("extra_ids"), bool | float):
            yield Problem(name, f"extra_ids is {str(config['extra_ids'])[:80]}, expected {_EXTRA}")
        yield from _added(name, config)
    if (folder / "tokenizer/added_tokens.json").is_file():
        added, problem = read_json(folder, "tokenizer/added_tokens.json")
        if problem:
            yield problem
        yield from _tokens("tokenizer/added_tokens.json", added.items())
    counted = {n: c for n, c in (("spiece.model", _pieces), ("tokenizer.json", _vocabulary))
               if (folder / "tokenizer" / n).is_file()}  # fmt: skip
    for name, count in counted.items():
        tokens = count(folder / "tokenizer" / name)
        path = f"tokenizer/{name}"
        if tokens is None:
            yield Problem(path, "cannot be read as a T5 tokenizer")
        elif not tokens <= rows <= tokens + _SPARE:
            what = f"has {tokens} tokens, which do not fit text_encoder/config.json: its vocab_size is {rows}"
            yield Problem(path, what)


def _added(name: str, config: dict[str, Any]) -> Iterator[Problem]:
    decoder = config.get("added_tokens_decoder") or {}
    if isinstance(decoder, dict):
        yield from _tokens(name, ((_text(token), number) for number, token in decoder.items()))
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed = config.get(key)
        listed = list(listed.values()) if isinstance(listed, dict) else listed
        if isinstance(listed, list):
            yield from _tokens(name, ((_text(token), None) for token in listed))


def _tokens(name: str, pairs: Iterable[tuple[str, Any]]) -> Iterator[Problem]:
    """Problems for added tokens other than T5's, which would be removed from every prompt."""
    for token, number in pairs:
        if not _ADDED.fullmatch(token):
            yield Problem(name, f"adds the token {token[:80]}, expected those of T5 only")
        elif number is not None and token in _IDS and str(number) != str(_IDS[token]):
            yield Problem(name, f"gives {token} the number {str(number)[:20]}, expected {_IDS[token]}")


def _text(token: Any) -> str:
    """The text of a special token, which may be an object."""
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _pieces(path: Path) -> int | None:
    import sentencepiece

    try:
        return int(sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size())
    except (OSError, RuntimeError):
        return None


def _vocabulary(path: Path) -> int | None:
    import tokenizers

    try:
        return int(tokenizers.Tokenizer.from_file(str(path)).get_vocab_size())
    except Exception:  # the library raises a bare Exception for unreadable files
        return None
