# `make demo` and `make test` need Python >= 3.11 with pip, and nothing else: they make their own
# environment in .venv. Use another interpreter with `make demo PYTHON=python3.12`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
DEMO ?= runs/demo
DEMO_ARGS ?=
METHODS_ARGS ?=
# A file's tests stay in one process, for they share what is slow to make; the slow files come first.
TEST_ARGS ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS)
# TensorFlow, which only feeds the data, must not fill the terminal with its start-up notes.
export TF_CPP_MIN_LOG_LEVEL := 3
export TF_ENABLE_ONEDNN_OPTS := 0

help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/'

demo: $(VENV)/.installed ## generate videos, train, evaluate on unseen classes (10 minutes on 2 cores)
	$(BIN)/python -m molo_jax.prepare --dataset=synthetic --out=$(DEMO)/data
	$(BIN)/python -m molo_jax.main --config=configs/synthetic.py --workdir=$(DEMO) \
	  --config.data.prepared=$(DEMO)/data $(DEMO_ARGS)

methods: $(VENV)/.installed ## train and evaluate all methods as the demo does, print one table (an hour on 2 cores)
	$(BIN)/python benchmarks/methods.py $(METHODS_ARGS)

test: lint ## lint, check the formatting, run all tests
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(VENV)/.installed-test ## ruff check and ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(VENV)/.installed ## only make the environment

# What an earlier build has left in build/ would go into the wheel, also modules that are gone.
wheel: | $(VENV)/bin/python ## build the wheel in dist/, which needs no checkout where it is installed
	rm -rf build
	$(BIN)/python -m pip wheel --quiet $(PIP_ARGS) --no-deps --wheel-dir=dist .
	rm -rf build

clean: ## remove the environment and caches, not the runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: molo-jax needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1 | head -n 1 || true). Name another: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install python3-venv first" >&2; \
	  rm -rf $(VENV); exit 2; }

# The stamps remember what was installed: a second `make` installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing molo-jax into $(VENV) (a few minutes the first time)"
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing molo-jax with what its tests need into $(VENV)"
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed

.PHONY: help demo methods test lint install wheel clean
