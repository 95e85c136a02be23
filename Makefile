# make demo     shrink and restore the example photograph, with numbers and a comparison picture
# make test     lint, types, import directions, tests
# make test-installed  build the wheel, and try it in bare environments, with the newest and the lowest dependencies
# make dist     the wheel, the source archive and the npm package, in dist/
# make docs     the documentation site, in site/
# make results  the tables of README.md and docs/results.md; with CAR_DATA=datasets accuracy is measured anew
# make bench    time and memory of models and op on this machine (let nothing else run)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-installed dist docs results bench lint format clean

demo: $(VENV)/.installed
	$(BIN)/car compare examples/street.webp --scale 4 --output demo-out --overwrite

test: $(VENV)/.installed-dev web/node_modules/.package-lock.json
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadgroup

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist
	if command -v npm >/dev/null; then $(BIN)/python web/pack.py dist; fi
	$(BIN)/uvx --quiet twine==7.0.0 check --strict dist/*.whl dist/*.tar.gz

# nothing but the wheel is in these environments; the script runs elsewhere, so that it cannot find the checkout
test-installed: $(VENV)/.installed-dev
	rm -rf $(VENV)/wheel
	$(BIN)/python -m hatchling build --target wheel --directory $(VENV)/wheel
	set -e; for resolution in highest lowest-direct; do \
	  $(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/bare; \
	  $(BIN)/uv pip install --quiet --python $(VENV)/bare --resolution $$resolution \
	    $$([ $$resolution = highest ] && echo --constraint constraints.txt || echo --extra serve --extra formats --extra bulk --extra stream) \
	    --requirements pyproject.toml; \
	  $(BIN)/uv pip install --quiet --python $(VENV)/bare --no-deps $(VENV)/wheel/*.whl; \
	  $(VENV)/bare/bin/python tests/installed.py $$([ $$resolution = highest ] || echo serve formats); \
	done

# the documentation site, in site/; `.venv/bin/mkdocs serve` shows it while you write
docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

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

# TypeScript, Vite and React, with which the viewer and its npm package are tested; skipped where there is no npm
web/node_modules/.package-lock.json: web/package-lock.json
	if command -v npm >/dev/null; then cd web && npm ci --silent --no-audit --no-fund; fi

clean:
	rm -rf $(VENV) web/node_modules demo-out build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
