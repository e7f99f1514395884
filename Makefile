# One command per task; CI calls these and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More options for pip, such as an index of CPU builds of torch.
PIP_OPTIONS ?=

.PHONY: help setup demo check format test bench protos clean

help:
	@echo "make demo    train three models, serve them, ask them, print a table"
	@echo "make test    run the tests"
	@echo "make check   format, lint, types, import contracts, generated files"
	@echo "make bench   measure the cost of a request beside a bare transport"
	@echo "make protos  regenerate Python from the .proto files"
	@echo "make clean   remove the virtual environment and what the demo made"

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV). This downloads about 0.7 GB of Python packages with torch's CPU build;"
	@echo "where pip finds only torch's CUDA build, several GB more."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on $(PIP_OPTIONS) \
		--constraint constraints.txt --editable ".[demo,dev]"
	@touch $@

demo: setup
	$(BIN)/headrace demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

bench: setup
	$(BIN)/python benchmarks/overhead.py

protos: setup
	$(BIN)/python protos/generate.py

clean:
	rm -rf $(VENV) demo demo.json
