# make demo     shrink and restore the example photograph, with numbers and a comparison picture
# make test     the checks (lint, types, import directions), then the tests (make pytest)
# make test-installed  build the wheel, and try it in bare environments, with the newest and the lowest dependencies
# make dist     the wheel, the source archive and the npm package, in dist/
# make docs     the documentation site, in site/
# make results  the tables of README.md and docs/results.md; with CAR_DATA=datasets accuracy is measured anew
# make bench    time and memory of models and op on this machine (let nothing else run)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv keeps what it has unpacked, so that the next environment takes seconds; it does not read pip's variables itself
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
RESOLUTIONS := highest lowest-direct

.PHONY: demo test checks pytest test-installed $(RESOLUTIONS:%=test-installed-%) dist docs results bench format clean

demo: $(VENV)/.installed
	$(BIN)/car compare examples/street.webp --scale 4 --output demo-out --overwrite

test: checks
	$(MAKE) pytest

checks: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

pytest: $(VENV)/.installed-dev web/node_modules/.package-lock.json
	$(BIN)/pytest -n 2 --dist loadgroup

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist
	if command -v npm >/dev/null; then $(BIN)/python web/pack.py dist; fi
	$(BIN)/uvx --quiet twine==7.0.0 check --strict dist/*.whl dist/*.tar.gz

# nothing but the wheel is in these environments; the script runs elsewhere, so that it cannot find the checkout
test-installed: $(RESOLUTIONS:%=test-installed-%)

test-installed-highest: FROM := --constraint constraints.txt
test-installed-lowest-direct: EXTRAS := serve formats
test-installed-lowest-direct: FROM := --extra serve --extra formats --extra bulk --extra stream
$(RESOLUTIONS:%=test-installed-%): test-installed-%: $(VENV)/wheel
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/$*
	$(BIN)/uv pip install --quiet --python $(VENV)/$* --resolution $* $(FROM) --requirements pyproject.toml
	$(BIN)/uv pip install --quiet --python $(VENV)/$* --no-deps $(VENV)/wheel/*.whl
	$(VENV)/$*/bin/python tests/installed.py $(EXTRAS)

.PHONY: $(VENV)/wheel
$(VENV)/wheel: $(VENV)/.installed-dev
	rm -rf $@
	$(BIN)/python -m hatchling build --target wheel --directory $@

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	touch $(VENV)/.installed $@

# TypeScript, Vite and React, with which the viewer and its npm package are tested, and axe for the pages of the site;
# these tests are skipped where there is no npm
web/node_modules/.package-lock.json: web/package-lock.json
	if command -v npm >/dev/null; then cd web && npm ci --silent --no-audit --no-fund; fi

clean:
	rm -rf $(VENV) web/node_modules demo-out build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
