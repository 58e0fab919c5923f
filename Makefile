# make run     set up what is missing, run the espinosa study on simulated cells, say where to look
# make test    set up what is missing, check the code and run the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)
# Machines that forbid bytecode would compile every package again in every job.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test test-cluster test-environments lint format lock setup clean

run: setup
	@$(BIN)/python -m stainfree.restart
	@$(BIN)/snakemake
	@echo "Done. Open results/index.html in a browser: it leads to the report, its figures and its tables."

# Two files of tests at a time: most tests wait for a process of their own, and most of those use one core.
test: setup lint
	@$(BIN)/python -m pytest -n 2 --dist loadfile

# Starts a real Slurm on this machine and runs the workflow through it; says which packages are missing.
test-cluster: setup
	@$(BIN)/python -m pytest -m cluster

# Builds the environment of every step from the package index (7 GB of links into uv's cache) and runs each step in its own.
test-environments: setup
	@$(BIN)/python -m pytest -m environments tests/test_built_environments.py

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/mypy
	@$(BIN)/snakemake --lint

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

setup: $(READY)

# The environment, exactly as locked; made anew whenever the lock changes.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stainfree needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 run")'
	@echo "Setting up $(VENV) (about two minutes and 5 GB, most of it torch) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $(READY)

# After a change of pyproject.toml: resolve anew, for all systems and Python versions at once; then pin the steps' environments.
lock:
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev pyproject.toml -o requirements.lock
	@$(BIN)/python envs/pin.py

clean:
	rm -rf data results work logs .snakemake
