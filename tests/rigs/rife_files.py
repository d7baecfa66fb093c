"""Files with RIFE's weights, whole and broken."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.rigs.pickled import Code
from weights.interpolation import SHIPPED


def files(folder: Path) -> dict[Path, str]:
    torch.save({"block0.conv0.0.0.weight": Code(folder / "code-ran")}, folder / "code.pkl")
    (folder / "plain-code.pkl").write_bytes(pickle.dumps(Code(folder / "code-ran")))
    save_file({"transformer.a.lora_A.weight": torch.zeros(4, 4)}, folder / "style.safetensors")
    (folder / "torn.safetensors").write_bytes(SHIPPED.read_bytes()[:-9])
    (folder / "text.pth").write_text("not weights")
    return {
        folder / "gone.pkl": "there is no such file",
        folder / "net.onnx": "its name must end in .safetensors",
        folder / "code.pkl": "not a pickle of plain tensors",
        folder / "plain-code.pkl": "not a pickle of plain tensors",
        folder / "style.safetensors": "no RIFE weights; get flownet 4.25",
        folder / "torn.safetensors": "is not a file of tensors",
        folder / "text.pth": "not a pickle of plain tensors",
    }
