# make demo     shrink and restore the example photograph, with numbers and a comparison picture
# make test     lint, types, import directions, tests
# make results  the tables of README.md and docs/results.md; with CAR_DATA=datasets accuracy is measured anew
# make bench    time and memory of models and op on this machine (let nothing else run)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test results bench lint format clean

demo: $(VENV)/.installed
	$(BIN)/car compare examples/street.webp --scale 4 --output demo-out --overwrite

test: $(VENV)/.installed-dev web/node_modules/.package-lock.json
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadgroup

results: $(VENV)/.installed-dev
	$(BIN)/python tools/results.py $(if $(CAR_DATA),--img-dir $(CAR_DATA))

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run.py models op startup

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	touch $@

# TypeScript, which checks the types of the viewer; its test is skipped where there is no npm
web/node_modules/.package-lock.json: web/package-lock.json
	if command -v npm >/dev/null; then cd web && npm ci --silent --no-audit --no-fund; fi

clean:
	rm -rf $(VENV) web/node_modules demo-out build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
