"""All façades, by the name that the setting COGVIDEOX_APIS uses."""

from __future__ import annotations

from server.facades import fal, huggingface, modelslab, openai, replicate, segmind, zhipu
from server.facades.facade import Facade

FACADES: dict[str, Facade] = {
    "fal": fal.FACADE,
    "segmind": segmind.FACADE,
    "zhipu": zhipu.FACADE,
    "modelslab": modelslab.FACADE,
    "openai": openai.FACADE,
    "replicate": replicate.FACADE,
    "huggingface": huggingface.FACADE,
}
