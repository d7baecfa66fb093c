# Every target installs what it needs. CI runs the same targets (.ci/run).
PYTHON ?= python3
# cpu or cuda; auto checks for an NVIDIA driver
TORCH ?= auto
# an index of torch builds for an older NVIDIA driver, such as those at https://download.pytorch.org/whl
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

setup: $(STAMP)  ## create the virtual environment for serving, with pinned packages (TORCH=cpu|cuda)

setup-dev: $(DEV)  ## the same, plus packages for tests and checks

serve: $(STAMP)  ## start the server on http://127.0.0.1:8000
	@$(BIN)/cogvideox serve

# four workers on any machine, because many tests wait for other processes; all tests of clients are slow
test: $(DEV)  ## run the fast tests
	$(BIN)/python -m pytest -n 4 -m "not slow" --ignore tests/clients

# three workers on any machine, because the attacks mostly wait
test-slow: $(DEV)  ## run the slow tests: every vendor's clients, commands in the docs, killed processes
	$(BIN)/python -m pytest -n 3 -m slow

attacks: $(DEV)  ## check that no attack delays another client by more than half a second
	STRICT_ATTACKS=1 $(BIN)/python -m pytest tests/attacks

fuzz: $(DEV)  ## send 2,000 random and invalid requests to each API
	FUZZ_REQUESTS=2000 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/server/facades/test_api_fuzz.py

soak: $(DEV)  ## kill the server's processes at random during a hundred jobs
	$(BIN)/python -m tests.rigs.soak --jobs 100

check: $(DEV)  ## check format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(DEV)  ## format, and apply lint's automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-gpu: $(DEV)  ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests/gpu

bench: $(DEV)  ## run the benchmarks; results go to benchmarks/results
	$(BIN)/python -m benchmarks

demo-eval: $(DEV)  ## measure the demo model through HTTP (about an hour)
	$(BIN)/python -m training.evaluate

demo-sheet: $(DEV)  ## draw the README's image of the demo model
	$(BIN)/python -m training.sheet docs/demo.png

demo-model: $(DEV)  ## train weights/demo from scratch (hours on a CPU)
	$(BIN)/python -m training
	$(BIN)/python -m training.train_lora

structure:  ## print figures of the code's structure, and redraw the picture in docs/structure.md
	@$(PYTHON) scripts/structure.py

# one version of each package for all Pythons and platforms; UPGRADE=--upgrade takes newer versions
COMPILE = $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
          --generate-hashes --custom-compile-command 'make lock' $(UPGRADE)
CUDA_ONLY := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton

lock: $(STAMP)  ## regenerate requirements*.lock from pyproject.toml
	printf '%s\n' $(CUDA_ONLY) | $(COMPILE) pyproject.toml --extra postgres --extra s3 \
	  --no-emit-package torch --excludes /dev/stdin -o requirements.lock
	$(COMPILE) --group setup -c requirements.lock -o requirements-setup.lock
	$(COMPILE) --group cuda -c requirements.lock -o requirements-cuda.lock
	printf '%s\n' torch torchvision | $(COMPILE) --group dev -c requirements.lock --excludes /dev/stdin -o requirements-dev.lock

audit: $(DEV)  ## check the locks for known vulnerabilities (exit code 1: some; 3: database unreachable)
	@$(BIN)/python scripts/audit.py requirements*.lock

image-digest:  ## pin the base image of Dockerfile.cuda to its tag's current digest
	@$(PYTHON) scripts/image_digest.py Dockerfile.cuda

image:  ## build the CUDA image
	docker build -f Dockerfile.cuda -t cogvideox-server .

clean:  ## remove everything that the other targets created
	rm -rf $(VENV) .cache build dist *.egg-info
