# knowsub: `make repro` sets up what is missing and runs the pipeline; `make test` the same for the tests.
# TORCH picks the build of torch: `make repro TORCH=torch==2.13.0` takes the one with CUDA on Linux.
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev repro test quick check ui docs tour torture real bench lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifeq ($(shell uname -s),Darwin)
TORCH ?= torch==2.13.0
else
TORCH ?= torch==2.13.0+cpu
endif
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
SOLVE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header $(UPGRADE) --override requirements/no-torch.txt

# nothing leaves the machine unasked; output arrives line by line
export DVC_NO_ANALYTICS := true
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export PYTHONUNBUFFERED := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(VENV)/.torch-$(TORCH)  ## install what the pipeline needs into .venv

setup-dev: setup $(VENV)/.dev  ## and what the tests and checks need

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit("knowsub needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; make PYTHON=python3.12 picks another" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.run: $(VENV)/.python requirements/run.lock pyproject.toml
	@echo "installing requirements/run.lock"
	$(PIP) --no-deps --require-hashes -r requirements/run.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.torch-$(TORCH): $(VENV)/.run
	@echo "installing $(TORCH)"
	$(PIP) '$(TORCH)' || $(PIP) '$(TORCH)' --index-url $(TORCH_INDEX)
	rm -f $(VENV)/.torch-* && touch '$@'

$(VENV)/.dev: $(VENV)/.run requirements/dev.lock
	@echo "installing requirements/dev.lock"
	$(PIP) --no-deps --require-hashes -r requirements/dev.lock
	touch $@

repro: setup  ## run the stages that are out of date; JOBS=1 one after the other, LAUNCHER=slurm as jobs
	python -m knowsub.repro --jobs $(or $(JOBS),0) $(if $(LAUNCHER),--launcher $(LAUNCHER)) $(ARGS)

test: setup-dev  ## run the tests
	pytest -n auto --dist loadfile --no-loadscope-reorder

quick: setup-dev  ## run the tests that take less than ten seconds each
	pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

check: setup-dev  ## run what the pre-commit hooks run: style, types, arrows, docstrings
	ruff check
	ruff format --check
	mypy
	lint-imports
	pydoclint --quiet knowsub stages

ui: setup  ## compare runs: prints and opens the saved view, at http://127.0.0.1:5000
	knowsub ui --port $(or $(PORT),5000) $(ARGS)

docs: setup-dev  ## build the documentation into .cache/site, without the network
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet
	@echo ".cache/site/index.html"

tour: setup-dev  ## try dvc exp, queues and MLflow on tiny settings in a scratch clone, and check each result
	python -m tests.tour

torture: setup-dev  ## kill, damage, fill disks and feed nonsense on tiny settings; writes docs/reliability.md
	python -m tests.torture --write docs/reliability.md

real: setup  ## a pretrained model, Gemma 3 270M, through every stage; TEXT=folder, ARGS=--plan
	$(PIP) 'gguf>=0.17'
	python -m benchmarks.real $(if $(TEXT),--text $(TEXT)) $(ARGS)

bench: setup  ## measure speed and memory; writes benchmarks/results.json
	python -m benchmarks

lock:  ## solve the lock files within the ranges of pyproject.toml; UPGRADE=--upgrade takes the newest
	$(BIN)/python -m pip install --quiet uv
	$(SOLVE) --extra pipeline pyproject.toml requirements/torch-needs.in -o requirements/run.lock
	$(SOLVE) --group dev -c requirements/run.lock -o requirements/dev.lock

clean:  ## remove caches and results of the tools; keeps .venv, data, mlflow and the DVC cache
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .checkpoints *.egg-info
	find knowsub stages tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
