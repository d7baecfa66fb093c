"""Read a LoRA file without torch: the shapes of its tensors, and its alpha from the first of several places that states
it.

effect of one module:  W + scale x alpha / rank x B A      (arXiv 2106.09685, section 4.1; LoHa and LoKr likewise)
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from pipelines.lora.layout import Layers, LoraError, Match, Part, Shape, match
from pipelines.lora.names import bare
from weights.record import sha256
from weights.safetensors_header import BrokenFile, read_whole_header

AlphaSource = Literal[
    "sidecar", "metadata", "adapter_config.json", "alpha tensors", "request", "nothing, so alpha = rank"
]
NOWHERE: AlphaSource = "nothing, so alpha = rank"
FLOATS = {"F64": "<d", "F32": "<f", "F16": "<e"}
FLOATING = {*FLOATS, "BF16", "F8_E4M3", "F8_E5M2"}
SIDECAR_BYTES = 2**20
NUMBER_LENGTH = 100  # longest text of a number, in characters
MOST_ALPHA = 1e6  # the largest alpha in a request or a command
HEX = re.compile(r"[0-9a-f]{64}")
PLAIN = re.compile(r"[\w.-]*")
HEAD = 300  # bytes, enough for `kind_of`


class Kind(NamedTuple):
    """A kind of file that is not a LoRA. `hint` says what the user should do."""

    name: str
    hint: str


PICKLE = Kind(
    "a pickle (.pt, .bin, .ckpt), which can run code when it is read",
    "`cogvideox lora add` converts it where COGVIDEOX_LORA_PICKLE=true",
)
_KINDS = (
    ((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), PICKLE),
    ((b"PK\x03\x04", b"PK\x05\x06"), Kind("an archive (.zip)", "give the file that is in it")),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), Kind("a compressed file", "give the file that is in it")),
    ((b"7z\xbc\xaf", b"Rar!"), Kind("an archive (.7z, .rar)", "give the file that is in it")),
    ((b"GGUF",), Kind("a GGUF file", "give the LoRA's safetensors file")),
    ((b"<",), Kind("a web page", "give the URL of the file itself")),
    ((b"{",), Kind("a JSON text", "give the URL of the file itself")),
)


@dataclass(frozen=True)
class LoraFile:
    """A safetensors file that was complete when it was read. `metadata` is from the file's header."""

    path: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    scalars: dict[str, float]  # values of the tensors with one element

    @property
    def size(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True)
class Alpha:
    """`values` by module. `source` is part of every report, because alpha decides how strong a LoRA is."""

    source: AlphaSource
    values: dict[str, float]

    @property
    def common(self) -> float | None:
        """The alpha of all modules; None if modules differ."""
        found = set(self.values.values())
        return found.pop() if len(found) == 1 else None


def read(path: Path) -> LoraFile:
    """Raises LoraError unless both the name and the content show a complete safetensors file."""
    if path.suffix.lower() == ".safetensors":
        return content(path)
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(HEAD))
    except OSError as e:
        raise LoraError(f"cannot be read: {e.strerror}") from e
    if kind is None:
        raise LoraError("a LoRA must be a .safetensors file, also by its name; rename it if it is one")
    raise LoraError(f"a LoRA must be a .safetensors file, this is {kind.name}; {kind.hint}")


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file that starts with `head`, if it is certainly not a safetensors file."""
    if head[8:9] == b"{":  # a safetensors header, after eight bytes of its length
        return None
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]  # the name of a zip's first entry
    if head.startswith(b"PK\x03\x04") and first.endswith((b"/data.pkl", b"/version", b"/byteorder")):
        return PICKLE
    if head[257:262] == b"ustar":
        return Kind("an archive (.tar)", "give the file that is in it")
    return next((kind for starts, kind in _KINDS if head.lstrip().startswith(starts)), None)


def content(path: Path) -> LoraFile:
    """Like `read`, but accepts any file name."""
    try:
        with path.open("rb") as file:
            if (kind := kind_of(file.read(HEAD))) is not None:
                raise LoraError(f"cannot be read: it is {kind.name}; {kind.hint}")
        header = read_whole_header(path)
        found, scalars = header.tensors, {}
        with path.open("rb") as file:
            for name, tensor in found.items():
                if math.prod(tensor.shape) == 1 and tensor.dtype in (*FLOATS, "BF16"):
                    file.seek(tensor.begin)
                    scalars[name] = _number(file.read(8), tensor.dtype)
    except BrokenFile as e:
        raise LoraError(f"cannot be read: {e}") from e
    except OSError as e:
        raise LoraError(f"cannot be read: {e.strerror}") from e
    shapes, dtypes = {n: t.shape for n, t in found.items()}, {n: t.dtype for n, t in found.items()}
    return LoraFile(path, shapes, dtypes, header.metadata, scalars)


def matched(file: LoraFile, layers: Layers) -> Match:
    """Raises LoraError unless every tensor for the transformer fits."""
    found = match(file.shapes, layers)
    for part in found.parts.values():
        for key in part.keys.values():
            if file.dtypes[key] not in FLOATING:
                raise LoraError(f"{key}: its tensors must be floating-point matrices, not {file.dtypes[key]}")
    return found


def alpha_of(file: LoraFile, found: Match, asked: float | None = None) -> Alpha:
    """The alpha from the first of these places that states it: sidecar, metadata, adapter_config.json, alpha tensors,
    `asked`. If none states it, alpha = rank.

    Raises LoraError if the alpha is invalid in the place from which it is taken.
    """
    parts, usual = found.parts, {module: float(part.rank) for module, part in found.parts.items()}
    scaled = {module for module, part in parts.items() if not part.is_whole}
    beside = sidecar(file.path)
    if beside.is_file() and (values := _from_config(_text(beside), beside.name, parts)):
        return Alpha("sidecar", values)
    if (own := file.metadata.get("lora_adapter_metadata")) and (values := _from_config(own, "its metadata", parts)):
        return Alpha("metadata", values)
    for key in ("ss_network_alpha", "lora_alpha", "alpha"):
        if (text := file.metadata.get(key)) not in (None, "", "None"):  # kohya writes None
            value = _finite(text, f"{key} in its metadata")
            return Alpha("metadata", usual | dict.fromkeys(scaled, value) if value else usual)
    config = file.path.with_name("adapter_config.json")
    if config.is_file() and (values := _from_config(_text(config), config.name, parts)):
        return Alpha("adapter_config.json", values)
    if found.alphas:  # a module without an alpha, or with alpha 0, has the factor 1, as in kohya's own loader
        read = {m: _tensor(file, found, m, rank) for m, rank in usual.items() if m in scaled}
        return Alpha("alpha tensors", {m: read.get(m) or rank for m, rank in usual.items()})
    if asked is not None:
        return Alpha("request", usual | dict.fromkeys(scaled, asked))
    return Alpha(NOWHERE, usual)


def doubts(found: Match, alpha: Alpha, asked: float | None = None) -> list[str]:
    """Warnings: parts that have no effect, an alpha that was guessed or ignored."""
    warnings = []
    if found.text:
        warnings.append(
            f"its part for the text encoder ({found.text_layers}) is not applied; the transformer's part is"
        )
    if asked is not None and alpha.source != "request":
        warnings.append(f"alpha {asked:g} of the request is not used: alpha is known from {alpha.source}")
    if not any(alpha.values.values()):
        warnings.append(f"alpha is 0 (from {alpha.source}), so that it does nothing")
    if alpha.source == NOWHERE and found.is_bare and found.kinds == ["LoRA"]:
        warnings.append(
            "alpha is not in the file; exports of the original SAT trainer are meant with alpha 1:"
            " `cogvideox lora add FILE --alpha 1`, or #alpha=1 in a request"
        )
    return warnings


def options(text: str) -> tuple[str | None, float | None]:
    """SHA-256 and alpha from the part after # of a LoRA's name or URL. Raises LoraError."""
    more: dict[str, str] = {}
    for one in filter(None, text.split("&")):
        key, _, value = one.partition("=")
        if key not in ("sha256", "alpha") or key in more:
            raise LoraError(f"after # only sha256=HEX and alpha=NUMBER may stand, each once; got {one[:80]!r}")
        more[key] = unquote(value)
    pin, alpha = more.get("sha256"), more.get("alpha")
    if pin is not None and not HEX.fullmatch(pin := pin.lower()):
        raise LoraError("#sha256 must be 64 hexadecimal digits")
    if alpha is None:
        return pin, None
    try:
        number = float(alpha)
        check_alpha(number)
    except ValueError:  # LoraError is one
        message = f"#alpha must be a number above 0, at most {MOST_ALPHA:.0f}, got {alpha[:40]!r}"
        raise LoraError(message) from None
    return pin, number


def check_alpha(alpha: float) -> None:
    """Check an alpha from a request or a command. Raises LoraError."""
    if not 0 < alpha <= MOST_ALPHA:  # NaN too
        raise LoraError(f"alpha must be a number above 0, at most {MOST_ALPHA:.0f}")


def sidecar(path: Path) -> Path:
    """The JSON file with the owner's `alpha` beside a LoRA file."""
    return path.with_name(f"{path.name}.json")


def beside(path: Path) -> tuple[Path, ...]:
    """The files next to the LoRA at `path` that may state its alpha."""
    return sidecar(path), path.with_name("adapter_config.json")


def digest(path: Path) -> str:
    """SHA-256 of the file, computed again only when it has changed."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=256)
def _digest(path: Path, *changed: int) -> str:
    return sha256(path)


def _number(data: bytes, dtype: str) -> float:
    if dtype == "BF16":
        data, dtype = bytes(2) + data[:2], "F32"
    form = FLOATS[dtype]
    return float(struct.unpack(form, data[: struct.calcsize(form)])[0])


def _tensor(file: LoraFile, found: Match, module: str, usual: float) -> float:
    key = found.alphas.get(module)
    if key is None:
        return usual
    if key not in file.scalars:
        raise LoraError(f"{key} is {file.dtypes[key]} of {len(file.shapes[key])} dimensions, not one floating number")
    return _finite(file.scalars[key], key)


def _finite(value: Any, where: str) -> float:
    if isinstance(value, str) and len(value) > NUMBER_LENGTH:
        raise LoraError(f"{where} is a text of {len(value)} characters, not a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise LoraError(f"{where} is {str(value)[:80]!r}, not a number")
    return number


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(SIDECAR_BYTES).decode("utf-8", "replace")
    except OSError as e:
        raise LoraError(f"{path.name} cannot be read: {e.strerror}") from e


def _from_config(text: str, where: str, parts: Mapping[str, Part]) -> dict[str, float]:
    """Alpha per module from a PEFT configuration or a sidecar (JSON); empty if it has none. Keys may start with
    `transformer.`; the alpha is called lora_alpha for LoRA, and alpha for LoHa, LoKr and sidecars."""
    try:
        config = {str(k).removeprefix("transformer."): v for k, v in json.loads(text).items()}
        name = next((one for one in ("lora_alpha", "alpha") if config.get(one) is not None), None)
        patterns = dict(config.get("alpha_pattern") or {})
        ranks = dict(config.get("rank_pattern") or {})
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise LoraError(f"{where} is not a PEFT configuration: {e}") from e
    if name is None:
        return {}
    alpha = _finite(config[name], f"{name} in {where}")
    alphas = _by_module(patterns, parts, alpha, f"alpha_pattern in {where}")
    if any(part.is_whole for part in parts.values()) and config.get("r") is not None:  # no tensor states the rank
        ranks_of = _by_module(ranks, parts, _finite(config["r"], f"r in {where}"), f"rank_pattern in {where}")
    else:
        ranks_of = dict.fromkeys(parts, 1.0)
    out = {}
    for module, part in parts.items():
        # rank-stabilised LoRA divides by the square root of the rank, arXiv 2312.03732
        out[module] = alphas[module] * (math.sqrt(part.rank) if config.get("use_rslora") else 1)
        if part.is_whole:
            if ranks_of[module] < 1:
                raise LoraError(f"r in {where} is {ranks_of[module]:g}, less than 1")
            out[module] /= ranks_of[module]
    return out


def _by_module(patterns: Mapping[Any, Any], modules: Iterable[str], usual: float, where: str) -> dict[str, float]:
    """The value of the first pattern that equals a module's name or the end of the name, as in PEFT; else `usual`."""
    values: dict[str, float] = {}
    for pattern, value in patterns.items():
        # patterns are compared as text, because regular expressions of untrusted files are not evaluated
        plain = bare(str(pattern).removeprefix("^").removesuffix("$").replace("\\.", ".")).removeprefix("transformer.")
        if not PLAIN.fullmatch(plain):
            raise LoraError(
                f"{where} holds a regular expression, {str(pattern)[:80]!r}, which is not followed;"
                " `cogvideox lora add FILE --alpha NUMBER` sets alpha instead"
            )
        values.setdefault(plain, _finite(value, f"{plain[:80]} of {where}"))
    order = {pattern: n for n, pattern in enumerate(values)}
    out = {}
    for module in modules:
        parts = module.split(".")
        ends = [end for n in range(len(parts)) if (end := ".".join(parts[n:])) in order]
        out[module] = values[min(ends, key=order.__getitem__)] if ends else usual
    return out
