# Two commands do everything on a fresh machine with Python 3.10 or later and a package registry:
#   make demo    sets up, runs the oracle through Meta-World and prints the table
#   make test    sets up and passes lint, type checks and all tests that can run here
# While you work on it:
#   make fast    lint, type checks and the tests that need neither simulator nor torch nor patience: under a minute
#   make quick   lint, type checks and all tests but those with real simulators
PYTHON ?= python3
VENV ?= .venv
# For the tests of models; TORCH= goes without them. Any torch from 2.6 on will do, a CPU build is enough.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# A process of tests per core, each with a file at a time: what tests of one file share is made once.
SIDE_BY_SIDE = $(BIN)/pytest -n auto --dist loadfile
comma := ,

# LIBERO's assets, CALVIN's and SimplerEnv's code are on no package registry; their tests run where copies are found: in
# EVALKIT_LIBERO_ASSETS, EVALKIT_CALVIN_SOURCE and EVALKIT_SIMPLER_SOURCE. The authors' own evaluation loops are found in
# EVALKIT_XIAOMI_SOURCE.
LIBERO_ASSETS := $(abspath $(or $(EVALKIT_LIBERO_ASSETS),$(wildcard ../shared/data/libero_assets)))

# The evaluation logs that came with the released checkpoints; their tests run where a copy is found.
export EVALKIT_PUBLISHED_LOGS := $(abspath $(or $(EVALKIT_PUBLISHED_LOGS),$(wildcard ../shared/data/published_logs)))

.PHONY: demo test fast quick lint clean

demo: $(VENV)/installed
	$(BIN)/evalkit setup metaworld
	$(BIN)/evalkit run metaworld --checkpoint oracle

test: $(VENV)/installed-dev lint
	$(BIN)/evalkit setup metaworld
ifdef EVALKIT_CALVIN_SOURCE
	$(BIN)/evalkit setup calvin
endif
ifdef EVALKIT_SIMPLER_SOURCE
	$(BIN)/evalkit setup simpler
endif
ifneq ($(LIBERO_ASSETS),)
	EVALKIT_LIBERO_ASSETS=$(LIBERO_ASSETS) $(BIN)/evalkit setup libero
endif
	$(if $(LIBERO_ASSETS),EVALKIT_LIBERO_ASSETS=$(LIBERO_ASSETS)) $(SIDE_BY_SIDE)

fast: $(VENV)/installed-fast lint
	$(SIDE_BY_SIDE) -m "not sim and not torch and not slow"

quick: $(VENV)/installed-dev lint
	$(SIDE_BY_SIDE) -m "not sim"

lint: $(VENV)/installed-fast
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "evalkit needs Python 3.10 or later: make PYTHON=python3.11 demo")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-fast: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev$(if $(TORCH),$(comma)xiaomi)]' $(TORCH)
	touch $@ $(VENV)/installed $(VENV)/installed-fast

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
