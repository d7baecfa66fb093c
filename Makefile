# Every target sets up what it needs; CI calls the same ones (.ci/run).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup serve test test-slow fuzz soak check fix test-gpu bench demo-eval demo-sheet demo-model image clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, e.g. make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP)  ## virtual environment with the pinned dependencies

serve: $(STAMP)  ## start the server on http://127.0.0.1:8000
	@$(BIN)/cogvideox serve

test: $(STAMP)  ## the tests, all but the slow ones
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow"

test-slow: $(STAMP)  ## the slow tests: every vendor's own client, the docs' commands, killed processes
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m slow

fuzz: $(STAMP)  ## 2,000 requests nobody would send, to each API
	FUZZ_REQUESTS=2000 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/server/test_api_fuzz.py

soak: $(STAMP)  ## kill the server's processes at random over a hundred jobs
	$(BIN)/python -m tests.server.soak --jobs 100

check: $(STAMP)  ## format, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(STAMP)  ## format and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu tests/gpu

bench: $(STAMP)  ## benchmarks on this machine, results under benchmarks/results
	$(BIN)/python -m benchmarks

demo-eval: $(STAMP)  ## measure the demo model through HTTP (about an hour)
	$(BIN)/python -m weights.training.evaluate

demo-sheet: $(STAMP)  ## the demo model's pictures in the README
	$(BIN)/python -m weights.training.sheet docs/demo.png

demo-model: $(STAMP)  ## train weights/demo from scratch (hours on a CPU)
	$(BIN)/python -m weights.training
	$(BIN)/python -m weights.training.train_lora

image:  ## the CUDA image
	docker build -f Dockerfile.cuda -t cogvideox-server .

clean:  ## remove what the other targets made
	rm -rf $(VENV) .cache build dist *.egg-info
