"""3D convolutions on a CPU through oneDNN, also for the few channels of a small VAE.

torch takes its own kernel where batch * channels * frames * height is at most 20,480 (`use_mkldnn` in ATen's
Convolution.cpp), as in the demo's decoder. Measured on one core: 16 channels, 11x66x98, 139 ms against 9 ms. That
kernel also uses one core however many there are. Results differ in rounding only (5e-6 of values around 1).
"""

from __future__ import annotations

from typing import Any

import torch


def prefer_onednn(module: torch.nn.Module) -> None:
    """Compute the 3D convolutions in `module` with oneDNN wherever their input is float32 on a CPU."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for part in module.modules():
        if isinstance(part, torch.nn.Conv3d) and part.padding_mode == "zeros" and part.kernel_size != (1, 1, 1):
            part._conv_forward = _Convolution(part)  # type: ignore[assignment]


class _Convolution:
    def __init__(self, layer: torch.nn.Conv3d) -> None:
        self._options: tuple[Any, ...] = (layer.padding, layer.stride, layer.dilation, layer.groups)

    def __call__(self, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padding, stride, dilation, groups = self._options
        if values.device.type == "cpu" and values.dtype == torch.float32:
            return torch.mkldnn_convolution(values, weight, bias, padding, stride, dilation, groups)
        return torch.nn.functional.conv3d(values, weight, bias, stride, padding, dilation, groups)
