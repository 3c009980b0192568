# make run    sets up and runs the main job: LeNet-5 on an emulated Nucleo-F746ZG
# make test   sets up and passes the tests
# make setup  their common part; every target is idempotent
#
# PIP_ARGS goes to pip: PIP_ARGS='--index-url URL' takes torch from a CPU-only index, for instance.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.harness-setup

.PHONY: run test test-slow setup system lint gate bench clean

run: setup
	$(BIN)/harness run lenet5 --board nucleo-f746

test: setup lint
	$(BIN)/python -m pytest -n 2
	$(MAKE) --no-print-directory gate

# What takes minutes: the docs' every block, big sweeps and reports, the page in a real browser.
test-slow: setup
	$(BIN)/python -m pytest -m slow

gate: setup
	$(BIN)/harness regress --baseline results/baselines/ci.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/figures.py

setup: system $(STAMP)

# Compilers and QEMU, from the system's packages where they are missing and apt-get may be used.
system:
	@sh scripts/system-packages.sh

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist results/runs
