# `make demo` and `make test` need Python 3.11, 3.12 or 3.13 with pip, and nothing else: they make
# their own environment in .venv. Use another interpreter with `make demo PYTHON=python3.12`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The Pythons that pyproject.toml allows, and a program that ends with 0 in one of these.
PYTHONS := 3.11, 3.12 or 3.13
ALLOWED := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
# The first of some commands that is such a Python; nothing if none is.
first = $(shell for p in $(1); do if $$p $(ALLOWED) 2>/dev/null; then echo $$p; break; fi; done)

PYTHON ?= $(call first,python3 python3.13 python3.12 python3.11)
VENV ?= .venv
PIP_ARGS ?=
DEMO ?= runs/demo
DEMO_ARGS ?=
METHODS_ARGS ?=
# A file's tests stay in one process, for they share what is slow to make; the slow files come first.
TEST_ARGS ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# `make test-oldest` and `make test-newest`: the interpreters, since the newest JAX has no wheels for
# Python 3.11, and the oldest NumPy none for 3.13; and the tests, which leave out the comparisons
# with PyTorch, the pages in a browser, the exports and the benchmarks.
PYTHON_OLDEST ?= $(call first,python3.11)
PYTHON_NEWEST ?= $(call first,python3.13 python3.12)
CORE_TESTS ?= \
  tests/test_build.py tests/test_files.py \
  tests/test_train.py tests/analysis tests/backbones tests/bank tests/data tests/engine \
  tests/methods tests/nn/test_attention.py tests/nn/test_layers.py \
  tests/nn/test_matching.py tests/nn/test_normalization.py tests/nn/test_positions.py \
  tests/prediction/test_archive.py tests/prediction/test_classifier.py \
  tests/prediction/test_embedder.py tests/reporting/test_plots.py \
  tests/weights/test_torch_map.py \
  --ignore=tests/engine/test_cost.py \
  --ignore=tests/data/store/test_beam.py --ignore=tests/data/store/test_dask_cluster.py \
  --deselect=tests/data/store/test_tfds_builder.py::test_beam_gives_the_same_bytes

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS)
# TensorFlow, which only feeds the data, must not fill the terminal with its start-up notes.
export TF_CPP_MIN_LOG_LEVEL := 3
export TF_ENABLE_ONEDNN_OPTS := 0

help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/'

demo: $(VENV)/.installed ## generate videos, train, evaluate on unseen classes (12 minutes on 2 cores)
	$(BIN)/python -m molo_jax.prepare --dataset=synthetic --out=$(DEMO)/data
	$(BIN)/python -m molo_jax.main --config=configs/synthetic.py --workdir=$(DEMO) \
	  --config.data.prepared=$(DEMO)/data $(DEMO_ARGS)

methods: $(VENV)/.installed ## train and evaluate all methods as the demo does, print one table (an hour on 2 cores)
	$(BIN)/python benchmarks/methods.py $(METHODS_ARGS)

test: lint ## lint, check the formatting, run all tests
	$(BIN)/python -m pytest $(TEST_ARGS)

test-oldest: ## run the core's tests with the oldest packages that are allowed (in .venv-oldest)
	$(call test-with,oldest,$(PYTHON_OLDEST),3.11)

test-newest: ## run the core's tests with the newest packages that are allowed (in .venv-newest)
	$(call test-with,newest,$(PYTHON_NEWEST),3.12 or 3.13)

# Installs anew what has a newer version by now, and runs the tests.
define test-with
	$(call make-venv,$(2),$(VENV)-$(1),PYTHON_$(shell echo $(1) | tr a-z A-Z),$(3))
	$(VENV)-$(1)/bin/python -m pip install --quiet --upgrade --upgrade-strategy=eager \
	  --constraint constraints-$(1).txt $(PIP_ARGS) --editable '.[test-core]'
	$(VENV)-$(1)/bin/python -m pip list
	$(VENV)-$(1)/bin/python -m pytest $(TEST_ARGS) $(CORE_TESTS)
endef

lint: $(VENV)/.installed-test ## ruff check and ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(VENV)/.installed ## only make the environment

# What an earlier build has left in build/ would go into the wheel, also modules that are gone.
wheel: | $(VENV)/bin/python ## build the wheel in dist/, which needs no checkout where it is installed
	rm -rf build dist/molo_jax-*.whl
	$(BIN)/python -m pip wheel --quiet $(PIP_ARGS) --no-deps --wheel-dir=dist .
	rm -rf build

clean: ## remove the environment and caches, not the runs
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Makes the environment $(2) with the interpreter $(1), one of the Pythons $(4), which the variable $(3) names.
define make-venv
	@[ -n "$(1)" ] || { \
	  echo "error: no Python $(4) was found; install one, or name it:" \
	    "make $(3)=/path/to/python$(lastword $(4))" >&2; exit 2; }
	@command -v "$(1)" >/dev/null || { \
	  echo "error: '$(1)' was not found. Name a Python $(4): make $(3)=/path/to/python$(lastword $(4))" >&2; exit 2; }
	@$(1) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(4)".replace(",", "").split())' 2>/dev/null || { \
	  echo "error: molo-jax needs Python $(4) here; '$(1)' is" \
	    "$$($(1) --version 2>&1 | head -n 1 || true). Name another: make $(3)=/path/to/python$(lastword $(4))" >&2; exit 2; }
	@[ -x $(2)/bin/python ] || $(1) -m venv $(2) || { \
	  echo "error: '$(1) -m venv' failed; on Debian and Ubuntu install python3-venv first" >&2; \
	  rm -rf $(2); exit 2; }
endef

$(VENV)/bin/python:
	$(call make-venv,$(PYTHON),$(VENV),PYTHON,$(PYTHONS))

# An environment that was there already may be of another Python.
define check-venv
@$(BIN)/python $(ALLOWED) 2>/dev/null || { \
	  echo "error: molo-jax needs Python $(PYTHONS), and $(VENV) was made with" \
	    "$$($(BIN)/python --version 2>&1 | head -n 1 || true); remove $(VENV), then run make again" >&2; exit 2; }
endef

# The stamps remember what was installed: a second `make` installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(check-venv)
	@echo "installing molo-jax into $(VENV) (a few minutes the first time)"
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(check-venv)
	@echo "installing molo-jax with what its tests need into $(VENV)"
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed

.PHONY: help demo methods test test-oldest test-newest lint install wheel clean
