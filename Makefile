# Each target is one command on a bare machine with Python 3.11 or newer: it makes .venv and installs what it needs.
VENV := .venv
BIN := $(VENV)/bin
export FLASK_APP := bankportal
RUNTIME := $(VENV)/.runtime-installed
DEVELOPMENT := $(VENV)/.development-installed

.PHONY: up test mutants check format docs lock bench clean
.DEFAULT_GOAL := up

up: $(RUNTIME)  ## bring the portal up: install, database, data, models, serve
	@$(BIN)/flask up $(if $(ENGINE),--engine=$(ENGINE)) $(if $(PORT),--port=$(PORT))

# What is compiled once serves all processes that tests start, and the next run, even where Python keeps nothing else.
test: $(DEVELOPMENT)  ## run all tests, on all processors
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n logical --dist worksteal $(ARGS)

check: $(DEVELOPMENT)  ## format, lint, strict types, import contracts, stale documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(DEVELOPMENT)  ## repair format and lint where it can be done by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEVELOPMENT)  ## generate the reference documents
	$(BIN)/python docs/generate.py

mutants: $(DEVELOPMENT)  ## change the code at one spot at a time: which share of the changes do the tests notice?
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[mutants]
	$(BIN)/python .ci/mutants.py $(ARGS)

lock: $(DEVELOPMENT)  ## resolve setup.cfg into the lock files
	$(BIN)/python .ci/lock.py

bench: $(DEVELOPMENT)  ## measure, beside the peers and against the real data where it is at hand
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[bench]
	$(BIN)/python benchmarks/figures.py
	$(BIN)/python benchmarks/realism.py
	$(BIN)/python benchmarks/score.py
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/recourse.py
	$(BIN)/python benchmarks/batch.py
	$(BIN)/python benchmarks/api.py
	$(BIN)/python benchmarks/lone.py
	$(BIN)/python benchmarks/contention.py
	$(BIN)/python benchmarks/audit.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/migrate.py

clean:  ## remove the virtual environment; instance/ stays
	rm -rf $(VENV)

$(VENV)/bin/python:
	@sh .ci/venv $(VENV)

$(RUNTIME): requirements.lock setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEVELOPMENT): requirements-dev.lock setup.cfg | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(RUNTIME)
