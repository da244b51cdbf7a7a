# Everything a visitor or a contributor does. `make help` lists it; nothing is needed but Python, make and the network.

PYTHON ?= python3
OUT    ?= runs/quickstart
# Processes that tests are spread over, a file at a time: as many as there are cores. Each takes up to 5 GB, most of it for
# converters that stay in memory.
JOBS   ?= auto
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder

# uv rather than pip: it resolves quickly, and it takes torch and torchvision from one index, so that they fit together.
UV     := .venv/bin/uv
BIN    := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test fast check format lint types mutants clean
.DELETE_ON_ERROR:

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

# --- set-up: done once, and again when what is installed changes -----------------------------------

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "Limbeck needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

# Compiled at once: uv leaves that to the first import, which then takes twice as long, and always does where Python is told
# to write no compiled files.
.venv/.installed: $(UV) pyproject.toml constraints.txt
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[onnx,litert]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[onnx,litert,executorch,openvino,keras,tensorboard]' --group dev
	@touch $@

install: .venv/.installed-dev  ## set up .venv with everything the tests need

# --- for a visitor ---------------------------------------------------------------------------------

demo: .venv/.installed  ## from a recipe to a distilled student, its files and a report, on data shipped in a package
	$(BIN)/limbeck run quickstart --out $(OUT)

# --- for a contributor -----------------------------------------------------------------------------

test: .venv/.installed-dev  ## all tests
	$(BIN)/python -m pytest $(SPREAD)

fast: .venv/.installed-dev  ## the tests that take a few seconds at most
	$(BIN)/python -m pytest $(SPREAD) -m 'not slow'

lint: .venv/.installed-dev  ## formatting and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.installed-dev  ## static types, strict
	$(BIN)/mypy

check: lint types test  ## what must pass before a commit: format, lint, types, tests

format: .venv/.installed-dev  ## put the sources into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: .venv/.installed-dev  ## break the sources on purpose; every breakage must turn a test red
	JOBS=$(JOBS) $(BIN)/python tests/mutants.py

clean:  ## remove the environment and everything made here except runs/
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
