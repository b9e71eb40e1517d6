# The environment is .venv, with Python 3.11 or 3.12. To choose the interpreter: make PYTHON=/path/to/python …
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
BIN := .venv/bin
WORKERS ?= auto

.PHONY: demo test test-slow lint docs dist lock clean

demo: .venv/ready
	$(BIN)/ser-batch infer tests/data/emodb -o preds.csv --restart
	@$(BIN)/python tools/show_table.py preds.csv

test: .venv/ready lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: .venv/ready
	$(BIN)/pytest -n $(WORKERS) -m slow

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/docs

# Wheel and sdist of a release.
dist: .venv/ready
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*

# The environment, with exactly the versions that were tested.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Update requirements.txt (needs uv).
lock:
	uv pip compile pyproject.toml --extra dev --extra onnx --extra ray --universal --python-version 3.11 --generate-hashes \
		--no-annotate --quiet --output-file requirements.txt

clean:
	rm -rf .venv build preds.csv .preds.csv.parts dist
