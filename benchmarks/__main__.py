"""`make bench`: http_vs_plain and load, and gpu if there is a CUDA device."""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks import gpu, http_vs_plain, load


def main() -> int:
    argparse.ArgumentParser(prog="benchmarks", description=__doc__).parse_args()  # so that --help runs nothing
    failed = http_vs_plain.main([]) or load.main([])
    if torch.cuda.is_available():
        return gpu.main([]) or failed
    print("no CUDA device: benchmarks.gpu was not run")
    return failed


if __name__ == "__main__":
    sys.exit(main())
