# Every target sets up what it needs; CI calls the same ones (.ci/run).
PYTHON ?= python3
# cpu or cuda; auto looks for an NVIDIA driver
TORCH ?= auto
# an index of torch builds, such as one of https://download.pytorch.org/whl for an older NVIDIA driver
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(TORCH)
DEV := $(VENV)/.ready-dev

.PHONY: help setup setup-dev serve test test-slow attacks fuzz soak check fix test-gpu bench demo-eval demo-sheet demo-model \
        structure lock audit image image-digest clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock requirements-setup.lock pyproject.toml scripts/setup_environment.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, e.g. make PYTHON=python3.12")'
	@rm -f $(VENV)/.installed $(VENV)/.ready-*
	@$(PYTHON) scripts/setup_environment.py --venv $(VENV) --torch $(TORCH) --torch-index "$(TORCH_INDEX)"
	@touch $@ $(VENV)/.ready-auto

$(DEV): $(STAMP) requirements-dev.lock
	@rm -f $@
	@$(PYTHON) scripts/setup_environment.py --venv $(VENV) --dev
	@touch $@

setup: $(STAMP)  ## the virtual environment for serving, with pinned packages; TORCH=cpu or TORCH=cuda decides

setup-dev: $(DEV)  ## the same, with what tests and checks need

serve: $(STAMP)  ## start the server on http://127.0.0.1:8000
	@$(BIN)/cogvideox serve

# four workers on any machine: many of these tests wait for other processes; every client's test is slow
test: $(DEV)  ## the tests, all but the slow ones
	$(BIN)/python -m pytest -n 4 -m "not slow" --ignore tests/clients

# three workers on any machine: the attacks mostly wait
test-slow: $(DEV)  ## the slow tests: every vendor's own client, the docs' commands, killed processes
	$(BIN)/python -m pytest -n 3 -m slow

attacks: $(DEV)  ## what one hostile client costs another, one attack at a time: at most half a second
	STRICT_ATTACKS=1 $(BIN)/python -m pytest tests/attacks

fuzz: $(DEV)  ## 2,000 requests nobody would send, to each API
	FUZZ_REQUESTS=2000 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/server/facades/test_api_fuzz.py

soak: $(DEV)  ## kill the server's processes at random over a hundred jobs
	$(BIN)/python -m tests.rigs.soak --jobs 100

check: $(DEV)  ## format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(DEV)  ## format and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-gpu: $(DEV)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests/gpu

bench: $(DEV)  ## benchmarks on this machine, results under benchmarks/results
	$(BIN)/python -m benchmarks

demo-eval: $(DEV)  ## measure the demo model through HTTP (about an hour)
	$(BIN)/python -m training.evaluate

demo-sheet: $(DEV)  ## the demo model's pictures in the README
	$(BIN)/python -m training.sheet docs/demo.png

demo-model: $(DEV)  ## train weights/demo from scratch (hours on a CPU)
	$(BIN)/python -m training
	$(BIN)/python -m training.train_lora

structure:  ## figures of the code's structure; redraws the picture in docs/structure.md
	@$(PYTHON) scripts/structure.py

# one version of each package for every Python and platform; UPGRADE=--upgrade takes newer ones
COMPILE = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
          --generate-hashes --custom-compile-command 'make lock' $(UPGRADE)
CUDA_ONLY := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton

lock: $(STAMP)  ## write requirements*.lock anew from pyproject.toml
	printf '%s\n' $(CUDA_ONLY) | $(COMPILE) pyproject.toml --extra postgres --extra s3 \
	  --no-emit-package torch --excludes /dev/stdin -o requirements.lock
	$(COMPILE) --group setup -c requirements.lock -o requirements-setup.lock
	$(COMPILE) --group cuda -c requirements.lock -o requirements-cuda.lock
	printf '%s\n' torch torchvision | $(COMPILE) --group dev -c requirements.lock --excludes /dev/stdin -o requirements-dev.lock

audit: $(DEV)  ## known vulnerabilities in what the locks name (exit code 1: some; 3: the database cannot be reached)
	@$(BIN)/python scripts/audit.py requirements*.lock

image-digest:  ## pin the base image of Dockerfile.cuda to what its tag names today
	@$(PYTHON) scripts/image_digest.py Dockerfile.cuda

image:  ## the CUDA image
	docker build -f Dockerfile.cuda -t cogvideox-server .

clean:  ## remove what the other targets made
	rm -rf $(VENV) .cache build dist *.egg-info
