# The environment is .venv. To choose the interpreter: make PYTHON=/path/to/python …
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto

.PHONY: demo test test-slow lint docs dist lock clean

demo: $(VENV)/ready
	$(BIN)/ser-batch infer tests/data/emodb -o preds.csv --restart
	@$(BIN)/python tools/show_table.py preds.csv

test: $(VENV)/ready lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(VENV)/ready
	$(BIN)/pytest -n $(WORKERS) -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/docs

# Wheel and sdist of a release.
dist: $(VENV)/ready
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*

# The environment, with exactly the versions that were tested.
$(VENV)/ready: requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Update the pinned versions (needs uv): of the package, and of its tests with all extras.
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
lock:
	$(LOCK) --extra dev --extra onnx --extra ray --output-file requirements-dev.txt
	$(LOCK) --constraint requirements-dev.txt --output-file requirements.txt

clean:
	rm -rf $(VENV) build preds.csv .preds.csv.parts dist
