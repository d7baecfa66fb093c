"""Small upscalers of architectures that spandrel reads, and a way to import spandrel without torchvision."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Literal

import pytest
from torch import nn

Architecture = Literal["Compact", "ESRGAN"]
SCALE = 4


def spandrel(patch: pytest.MonkeyPatch) -> ModuleType:
    """Imports the real spandrel. Two of spandrel's architectures import three names from torchvision, and PyPI has no
    torchvision for the CPU build of torch. The tests do not use these names, so empty modules replace a missing
    torchvision."""
    if importlib.util.find_spec("torchvision") is None and "spandrel" not in sys.modules:
        parts = "torchvision", "torchvision.transforms", "torchvision.transforms.functional"
        for name in parts:
            patch.setitem(sys.modules, name, ModuleType(name))
        for name in ("InterpolationMode", "rotate", "normalize"):
            setattr(sys.modules[parts[-1]], name, None)
    return importlib.import_module("spandrel")


def small(architecture: Architecture) -> nn.Module:
    """A 4x network with random weights. Call `spandrel` first."""
    if architecture == "Compact":
        arch = importlib.import_module("spandrel.architectures.Compact.__arch.SRVGG")
        return arch.SRVGGNetCompact(num_feat=8, num_conv=2, upscale=SCALE)  # type: ignore[no-any-return]
    arch = importlib.import_module("spandrel.architectures.ESRGAN.__arch.RRDB")
    return arch.RRDBNet(num_filters=8, num_blocks=1, scale=SCALE)  # type: ignore[no-any-return]
