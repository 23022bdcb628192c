PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-all clean

install: .venv/installed

.venv/installed: setup.cfg requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,parquet]'
	touch $@

# Pretrains SimCLR on scikit-learn's digits, scores it and writes a report: under 3 minutes on 2 cores.
demo: install
	$(BIN)/jssl train --config experiments/simclr.py:demo --workdir runs/demo
	$(BIN)/jssl eval --workdir runs/demo --draws 20
	$(BIN)/jssl report --workdir runs/demo

PYTEST := $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) -m 'not slow'

# Also what repeats, for every method, what a few of them show.
test-all: install
	$(PYTEST)

clean:
	rm -rf .venv runs .jax_cache .pytest_cache .ruff_cache
