# make install | demo | test | test-all | docs | soak   (PYTHON=python3.12 chooses another interpreter, PHOTOS=folder the demo's photographs)
PYTHON ?= python3
VENV := .venv
OUT ?= runs/demo$(if $(PHOTOS),.$(notdir $(PHOTOS:/=)))

.PHONY: install demo test test-all docs soak clean
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fra needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	@touch $@

demo: install
	$(VENV)/bin/fra demo --out "$(OUT)" $(if $(PHOTOS),--photos "$(PHOTOS)")

test: install
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" scripts/check

test-all: install
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" scripts/check -m "slow or not slow"

docs: install
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" scripts/docs site
	@echo "the documentation is site/index.html"

soak: install
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" OMP_NUM_THREADS=1 MPLBACKEND=Agg python scripts/soak.py --out docs/dev/reliability.md

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
