# Each target does its own set-up: a .venv in this folder, filled by pip with the pinned versions of constraints.txt.
# pip is the only thing here that uses the network.

PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet
TESTS ?= tests --ignore=tests/faults --ignore=tests/cluster
PYTEST_ARGS ?=

# Real recordings for the tests, if they lie beside the checkout; without them those tests are skipped, with the reason.
ifneq ($(wildcard ../shared/data),)
SESSIONWISE_DATA ?= $(abspath ../shared/data)
export SESSIONWISE_DATA
endif

.PHONY: help install demo test faults cluster check bench clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

install: .venv/.installed-dev ## .venv with the library, the tools and the extras hdf5, nwb, arrow, ibl, slurm, dask

demo: .venv/.installed ## rank simulated sessions, compare selections, write demo/report (minutes)
	$(BIN)/sessionwise demo --to demo

# One process: the tests of workers, signals and kills start processes of their own and want the other core. Those of
# make faults mostly wait, so two files at a time.
test: .venv/.installed-dev ## the test suite (TESTS=tests/data, PYTEST_ARGS="-k split")
	$(BIN)/python -m pytest $(TESTS) $(PYTEST_ARGS)

faults: .venv/.installed-dev ## what is slow to break: kills, signals, full disks, every crash point (minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/faults $(PYTEST_ARGS)

cluster: .venv/.installed-dev ## studies on a real Dask cluster and, where slurmctld is installed, a real Slurm (minutes)
	$(BIN)/python -m pytest -rs tests/cluster $(PYTEST_ARGS)

bench: .venv/.installed-dev ## how fast a training step is: tables, and bench.json (10 minutes, best on a quiet machine)
	$(BIN)/python benchmarks/step.py --json bench.json

check: .venv/.installed-dev ## formatting, lint, types, and the directions of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

.PHONY: bench-ranking
bench-ranking: .venv/.installed ## how busy a ranking keeps the cores, alone and beside a busy process (about 15 minutes)
	$(BIN)/python benchmarks/ranking.py --rival --json bench-ranking.json

clean: ## remove caches, build outputs and demo/ (remove .venv yourself for a new one)
	rm -rf demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make pip run again only when what it read has changed.
.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[dev,hdf5,nwb,arrow,ibl,slurm,dask]'
	@touch $@

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "sessionwise needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: about a minute where pip has the packages, several where it must fetch torch."
	$(PIP) -e .
	@touch $@
