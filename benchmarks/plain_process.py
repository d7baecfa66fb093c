"""The plain diffusers pipeline in its own process: reads one JSON request per line and writes one JSON response per
line.

It uses diffusers as a script would, and nothing of this project. A request has prompt, negative_prompt, steps, frames,
guidance_scale, seed, fps, size (of the file, in pixels) and file. If it also has `raw`, the path of a .npy file, the
model's own frames are written to that file; writing them is not timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from diffusers.utils import logging
from PIL import ImageOps

from benchmarks.export import export


def answer(pipe: Any, request: dict[str, Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    pictures = pipe(
        prompt=request["prompt"],
        negative_prompt=request["negative_prompt"],
        num_frames=request["frames"],
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance_scale"],
        generator=torch.Generator().manual_seed(request["seed"]),
        max_sequence_length=pipe.transformer.config.max_text_seq_length,
    ).frames[0]
    made = time.perf_counter()
    size = tuple(request["size"])
    sized = pictures if pictures[0].size == size else [ImageOps.fit(one, size) for one in pictures]
    export(sized, Path(request["file"]), request["fps"])
    done = time.perf_counter()
    if request.get("raw"):
        np.save(request["raw"], np.stack([np.asarray(one) for one in pictures]))
    return {"seconds": done - begin, "pipeline_seconds": made - begin, "export_seconds": done - made}


def main(folder: str) -> None:
    begin = time.perf_counter()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = CogVideoXPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    print(json.dumps({"load_seconds": time.perf_counter() - begin}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(pipe, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
