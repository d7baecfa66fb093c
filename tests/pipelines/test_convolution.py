"""The kernel that a small VAE's convolutions take on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.convolution import prefer_onednn
from pipelines.loader import Loader
from tests import checkpoints


@pytest.mark.parametrize(("padding", "stride", "groups"), [(0, 1, 1), ((0, 1, 1), 1, 1), (1, 2, 2)])
def test_the_same_values_up_to_rounding(padding: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(4, 8, 3, padding=padding, stride=stride, groups=groups)
    values = torch.randn(1, 4, 5, 8, 9)
    plain = layer(values)
    prefer_onednn(layer)
    torch.testing.assert_close(layer(values), plain, atol=1e-5, rtol=1e-5)
    assert layer.bfloat16()(values.bfloat16()).dtype is torch.bfloat16, "other types go torch's own way"


def test_what_it_does_not_know_is_left_alone() -> None:
    for layer in (torch.nn.Conv3d(2, 2, 3, padding=1, padding_mode="reflect"), torch.nn.Conv3d(2, 2, 1)):
        before = layer._conv_forward
        prefer_onednn(layer)
        assert layer._conv_forward == before


def test_no_slow_kernel_is_left_in_a_loaded_decoder() -> None:
    model = Loader(torch.device("cpu")).load(Path(checkpoints.cached("5b")))
    latents = torch.zeros(1, 16, 2, 6, 8)
    with torch.no_grad(), torch.profiler.profile(record_shapes=True) as profile:
        model.vae.decode(latents)
    slow = [e for e in profile.events() if e.name == "aten::slow_conv3d_forward"]
    assert all(e.input_shapes[1][2:] == [1, 1, 1] for e in slow), "torch is quick at those on one core"
    assert any(e.name == "aten::mkldnn_convolution" for e in profile.events())
