# Everything a newcomer needs: `make demo`, then `make ui`. Variables can be set on the command line:
#   make demo PYTHON=python3.12 VENV=/tmp/venv STORE=/tmp/store
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
STORE ?= store
RECIPE ?= recipes/sample.yaml
PORT ?= 5000
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) -c constraints.txt
TORCH := $(shell grep '^torch==' constraints.txt)
# Whole files go to a worker, so that what a file shares is made once; the folders that take longest come first.
TESTS := -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/faults tests/flows tests/docs tests/unit
QUIET := DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1 GX_ANALYTICS_ENABLED=false

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-stack coverage lint format docs docs-serve ui secrets lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# torch first and by itself: it is the one large download, and the rest then finds it installed.
$(VENV)/.installed: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) '$(TORCH)'
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-stack: $(VENV)/.installed
	$(PIP) -e '.[stack,serve]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev,docs,serve,stack,quantized,onnx]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[docs,serve]'
	@touch $@

install: $(VENV)/.installed-dev ## everything a contributor needs, into .venv

# The sample is the same byte for byte wherever constraints.txt is installed, so data.dvc can pin it.
data/dataset.json: | $(VENV)/.installed
	test -d raw/sample || $(BIN)/notellm2 sample raw/sample
	$(BIN)/notellm2 import raw/sample --into data

# The version that data.dvc names goes into DVC's cache too, else `dvc status` says "not in cache"; another one is told.
demo: $(VENV)/.installed data/dataset.json ## install, make the sample data, train, evaluate, register, publish
	if $(BIN)/notellm2 data status data; then $(BIN)/notellm2 data pin data; fi
	$(QUIET) $(BIN)/dvc status data.dvc
	$(BIN)/notellm2 retrain --recipe $(RECIPE) --store $(STORE)

test: $(VENV)/.installed-dev ## the tests, but for those on real servers, in WORKERS processes
	$(BIN)/python -m pytest $(TESTS) $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-dev ## the unit tests that need neither torch, servers nor databases: under 90 seconds
	$(BIN)/python -m pytest tests/unit --fast -m "not shared and not browser" $(PYTEST_ARGS)

coverage: $(VENV)/.installed-dev ## `make test` with the share of lines and branches it runs
	$(BIN)/python -m pytest $(TESTS) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

test-stack: $(VENV)/.installed-dev ## the tests on real servers: PostgreSQL, MLflow, Prefect, an S3 API, a worker
	$(BIN)/python -m pytest tests/stack $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## style, types, import contracts, the compose file and the Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/hadolint Dockerfile mlflow/Dockerfile

format: $(VENV)/.installed-dev ## rewrite the code in the project's style, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-docs ## the documentation site into site/, strictly: a broken link fails; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

docs-serve: $(VENV)/.installed-docs ## the site at http://127.0.0.1:8000, made again at every change
	$(BIN)/python -m mkdocs serve

# One worker, no job execution: seven processes fewer, and nothing here needs them.
ui: $(VENV)/.installed ## MLflow's pages on the demo's store, http://127.0.0.1:5000
	$(QUIET) MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri sqlite:///$(abspath $(STORE))/_mlflow/mlflow.db \
		--default-artifact-root $(abspath $(STORE))/_mlflow/artifacts

secrets: $(VENV)/.installed-stack ## what the team's servers need: packages, and .env with a secret for each empty one
	$(BIN)/notellm2 stack secrets

lock: ## refresh constraints.txt from the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --upgrade $(PIP_ARGS) '$(TORCH)'
	$(VENV)-lock/bin/python -m pip install --quiet --upgrade $(PIP_ARGS) '$(TORCH)' -e '.[dev,docs,serve,stack,quantized,onnx]'
	$(VENV)-lock/bin/python -m pip check
	grep '^#' constraints.txt > constraints.txt.new
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools \
		| sed 's/+cpu$$//' >> constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf $(VENV)-lock

clean: ## remove what runs leave behind (store, sample, caches); keeps the environment
	rm -rf $(STORE) raw data site build dist .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
