"""Finds the devices for the workers, without importing torch: CUDA devices, or the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from server.errors import BadSetting

DRIVER = Path("/proc/driver/nvidia/gpus")


def find_devices(
    device: str,
    environ: Mapping[str, str] = os.environ,
    count: Callable[[], int] | None = None,
    called: str = "COGVIDEOX_DEVICE",
) -> tuple[str, ...]:
    """The devices to start a worker on; "auto" is every CUDA device, or the CPU when no CUDA device exists.

    Raises BadSetting for a CUDA device that does not exist.
    """
    if device == "cpu":
        return ("cpu",)
    available = (count or count_cuda_devices)()
    if (visible := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        available = min(available, len([one for one in visible.split(",") if one.strip() not in ("", "-1")]))
    if device == "auto":
        return tuple(f"cuda:{n}" for n in range(available)) or ("cpu",)
    named = tuple(device.split(","))
    for one in named:
        if int(one.partition(":")[2] or 0) >= available:
            existing = (
                f"cuda:0 to cuda:{available - 1} exist"
                if available
                else "no CUDA device is visible, or torch has no CUDA"
            )
            raise BadSetting(f"{called}={device}: there is no {one}; {existing}")
    return named


def count_cuda_devices() -> int:
    """The number of CUDA devices that torch would find, without importing torch."""
    try:
        if version("torch").endswith("+cpu"):
            return 0
    except PackageNotFoundError:
        return 0
    if (command := shutil.which("nvidia-smi")) is not None:
        try:
            listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return 0
        return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    # NOTE: in a container this may list devices of the host that it cannot use
    return len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
