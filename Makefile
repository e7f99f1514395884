# One command per task; CI calls these and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More options for pip, such as an index of CPU builds of torch.
PIP_OPTIONS ?=

# Tests start hundreds of Python processes: what they import is compiled once.
unexport PYTHONDONTWRITEBYTECODE

# Environments of the newest releases, beside the pinned one: what users have that we do not.
STRANGERS := .venv-strangers
PROTOBUF7 := .venv-protobuf7
NEWEST := -m pip install --quiet --disable-pip-version-check --progress-bar on $(PIP_OPTIONS) \
	--upgrade --upgrade-strategy eager
# TensorFlow pins what others want newer, so what needs it is tested apart.
FLAVORS := .venv-flavors
FLAVORS_TESTS := $(addprefix tests/server/adapters/test_,adapters.py keras.py tensorflow.py)
# By number, so that pip takes the build of `make setup` and not a newer one for CUDA.
TORCH := $(shell grep '^torch==' constraints.txt)
STRANGERS_TESTS := tests/client tests/e2e/test_clients.py tests/e2e/test_kserve.py \
	$(wildcard tests/conformance)

.PHONY: help setup demo check format test test-faults differential test-flavors test-environments test-strangers \
	test-node test-go test-java soak bench bench-client bench-flavors gpu-check protos clean

help:
	@echo "make demo    train three models, serve them, ask them, print a table"
	@echo "make test    run the tests"
	@echo "make test-faults     the longer tests: things broken under a stream of requests, the gallery, stubs"
	@echo "make differential    answers beside those of MLflow itself, 100000 of them (ANSWERS=1000000, SEED=1)"
	@echo "make test-strangers  the tests of clients with the newest tritonclient, kserve and protobuf"
	@echo "make test-environments  models in environments made from their own requirements, from PyPI"
	@echo "make test-node  clients from npm: Node by the .proto file, buf curl by reflection (needs node and npm)"
	@echo "make test-go, test-java  the guides of Go and Java, followed (need packages of Debian: docs/guides)"
	@echo "make test-flavors    the tests of the flavors that need TensorFlow, in an environment with it"
	@echo "make soak    five mixed minutes: each request accounted for, memory flat (SOAK_S=20 for 20 s)"
	@echo "make check   format, lint, types, import contracts, generated files, the image"
	@echo "make bench   measure costs, rates, growth and memory beside a bare transport, and batches under load"
	@echo "make bench-client    what a call costs the client, beside a bare stub and tritonclient"
	@echo "make bench-flavors   measure one row by every flavor: its own call, adapter, pyfunc, served"
	@echo "make gpu-check       on a host with a GPU: its tests and a benchmark, into benchmarks/results/gpu.json"
	@echo "make protos  regenerate Python from the .proto files"
	@echo "make clean   remove the virtual environment and what the demo made"

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV). This downloads about 0.7 GB of Python packages with torch's CPU build;"
	@echo "where pip finds only torch's CUDA build, several GB more."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on $(PIP_OPTIONS) \
		--no-compile --constraint constraints.txt --editable ".[demo,dev]"
	@# On all cores, where pip has one; what does not compile is no module for this Python.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

demo: setup
	$(BIN)/headrace demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/hadolint Dockerfile.gpu

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-faults: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m long

# As in: make differential ANSWERS=1000000 SEED=7 FAMILIES="rank|softmax"
differential: export DIFFERENTIAL_ANSWERS := $(or $(ANSWERS),100000)
differential: export DIFFERENTIAL_SEED := $(or $(SEED),0)
differential: export DIFFERENTIAL_FAMILIES := $(FAMILIES)
differential: setup
	$(BIN)/python -m pytest -m long -s tests/differential

test-strangers: $(STRANGERS)/installed $(PROTOBUF7)/installed
	@# Their tests skip where they are not installed: here they must be.
	$(STRANGERS)/bin/python -c 'import tritonclient.grpc'
	$(STRANGERS)/bin/python -c 'import kserve'
	$(STRANGERS)/bin/python -m pytest --numprocesses 2 --dist loadfile $(STRANGERS_TESTS)
	$(PROTOBUF7)/bin/python -m pytest --numprocesses 2 --dist loadfile $(STRANGERS_TESTS) \
		tests/protos tests/contract tests/server/transport

$(STRANGERS)/installed: pyproject.toml
	$(PYTHON) -m venv $(STRANGERS)
	$(STRANGERS)/bin/python $(NEWEST) --editable ".[demo,test]" $(TORCH) "tritonclient[grpc]" kserve
	@touch $@

# tritonclient and kserve allow protobuf 6 alone.
$(PROTOBUF7)/installed: pyproject.toml
	$(PYTHON) -m venv $(PROTOBUF7)
	$(PROTOBUF7)/bin/python $(NEWEST) --editable ".[demo,test]" $(TORCH) "protobuf>=7" \
		grpcio grpcio-health-checking grpcio-reflection
	@touch $@

test-environments: setup
	$(BIN)/python -m pytest -m environments tests/environments

test-node: setup tests/node/node_modules
	$(BIN)/python -m pytest tests/node

tests/node/node_modules: tests/node/package.json
	npm install --prefix tests/node --no-audit --no-fund --no-package-lock
	@touch $@

# Their tests skip where their tools are not there: here they must be.
test-go: setup
	@for tool in go protoc protoc-gen-go protoc-gen-go-grpc; do command -v $$tool >/dev/null \
		|| { echo "test-go: no $$tool; docs/guides/go.md says which packages it needs" >&2; exit 1; }; done
	$(BIN)/python -m pytest tests/go

test-java: setup
	@for tool in javac protoc grpc_java_plugin; do command -v $$tool >/dev/null \
		|| { echo "test-java: no $$tool; docs/guides/java.md says which packages it needs" >&2; exit 1; }; done
	$(BIN)/python -m pytest tests/java

test-flavors: $(FLAVORS)/installed
	@# Their tests skip where it is not installed: here it must be.
	$(FLAVORS)/bin/python -c 'import tensorflow'
	KERAS_BACKEND=tensorflow $(FLAVORS)/bin/python -m pytest $(FLAVORS_TESTS) -k "keras or tensorflow or tf_"

# By number as above, and the build without CUDA, which brings the same module.
$(FLAVORS)/installed: pyproject.toml
	$(PYTHON) -m venv $(FLAVORS)
	$(FLAVORS)/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar on $(PIP_OPTIONS) \
		--editable ".[demo,test,keras]" $(TORCH) "tensorflow-cpu>=2.18"
	@touch $@

soak: setup
	$(BIN)/python -m pytest -m soak -s tests/soak

bench: setup
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/poisson.py
	$(BIN)/python benchmarks/cnn.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/flood.py
	$(BIN)/python benchmarks/large.py
	$(BIN)/python benchmarks/typed.py
	$(BIN)/python benchmarks/plots.py

bench-flavors: setup
	$(BIN)/python benchmarks/flavors.py
	$(BIN)/python benchmarks/plots.py

# Into an environment with CUDA builds: they are what `make setup` finds without an index of CPU builds.
gpu-check: setup
	$(BIN)/python -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else \
		f"gpu-check: torch {torch.__version__} finds no CUDA device; see docs/guides/gpu.md")'
	$(BIN)/python -m pytest -m "" tests/gpu tests/server/devices tests/server/gpus
	$(BIN)/python benchmarks/gpu.py

bench-client: setup
	$(BIN)/python benchmarks/client.py
	$(BIN)/python benchmarks/plots.py

protos: setup
	$(BIN)/python protos/generate.py

clean:
	rm -rf $(VENV) $(STRANGERS) $(PROTOBUF7) $(FLAVORS) demo demo.json
