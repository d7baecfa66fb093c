"""On import, makes torch use oneDNN for the 3D convolutions of the tests' small VAEs, as it does for real checkpoints.

torch uses its own kernel if batch * channels * frames * height is at most 20,480 (`use_mkldnn` in ATen's
Convolution.cpp). Measured on one core, 16 channels of 11x66x98 take 139 ms with torch's kernel and 9 ms with oneDNN.
With torch's kernel, such convolutions take two thirds of the time of a demo model's video. Comparisons stay valid,
because all code in a process uses the same kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

_torchs_own = F.conv3d


def _triple(value: Any) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)


def conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    small = input.dtype == torch.float32 and input.device.type == "cpu" and weight.shape[2:] != (1, 1, 1)
    if not small or torch.is_grad_enabled() or isinstance(padding, str):
        return _torchs_own(input, weight, bias, stride, padding, dilation, groups)
    return torch.mkldnn_convolution(input, weight, bias, _triple(padding), _triple(stride), _triple(dilation), groups)


if torch.backends.mkldnn.is_available():
    F.conv3d = conv3d
