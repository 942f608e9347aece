# Everything a bare machine needs: `make demo` and `make test` make their own .venv first, once.
#
# torch is pinned in the constraints file, so that every machine runs the same release.  Where pip would take a build with
# CUDA (gigabytes) for a machine without a GPU, name PyTorch's index of CPU builds: make setup PIP_ARGS='--extra-index-url ...'

PYTHON ?= python3
PIP_ARGS ?=
CONSTRAINTS := constraints/py311-cpu.txt
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := build/installed
WORLDS := $(patsubst wcsim/assets/%/world.json,%,$(wildcard wcsim/assets/*/world.json))
DEMO := runs/demo
DOCS := build/docs
DOCS_PINS := constraints/docs.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo play test test-slow lower bench lint types docs wheel installed smoke check clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## .venv with wcsim (editable) and the development tools

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		f"wcsim needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# First and alone: a looser request for torch, in the company of the others, may fetch another build.
	$(BIN)/pip install $(PIP_ARGS) -c $(CONSTRAINTS) "$$(grep '^torch==' $(CONSTRAINTS))"
	$(BIN)/pip install $(PIP_ARGS) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

# A killed demo goes on where it stopped, a finished one only has its report written again.
demo: setup  ## an agent pushes the T inside the shipped world; writes runs/demo/report.html
	$(BIN)/wcsim run configs/pusht_mpc.yaml --out $(DEMO)
	@echo "Open $(DEMO)/report.html in a browser; the numbers are in $(DEMO)/summary.json"

play: setup  ## drive the shipped worlds by hand, in a browser
	$(BIN)/wcsim serve pusht-96 pendulum-64 --recordings data/driven

test: setup  ## the fast tests, on every core
	$(BIN)/pytest -n auto --dist loadfile

test-slow: setup  ## the tests that take minutes
	$(BIN)/pytest -n auto --dist loadfile -m slow

LOWER := build/lower
LOWER_PINS := constraints/lower.txt

$(LOWER)/.ready: pyproject.toml $(LOWER_PINS)
	$(PYTHON) -m venv $(LOWER)
	$(LOWER)/bin/pip install $(PIP_ARGS) -c $(LOWER_PINS) "$$(grep '^torch==' $(LOWER_PINS))"
	$(LOWER)/bin/pip install $(PIP_ARGS) -c $(LOWER_PINS) -e . pytest pytest-timeout hypothesis
	@touch $@

lower: $(LOWER)/.ready  ## the tests of environments at the lowest versions of what wcsim needs
	$(LOWER)/bin/python -m pytest tests/envs tests/contracts/test_environments.py

bench: setup  ## ratios of timings; no part of `check`
	$(BIN)/pytest -m bench

lint: setup  ## ruff and codespell
	$(BIN)/ruff check .
	$(BIN)/codespell

# Types are checked on the installed wheel, from its own folder: there envs/, agents/ and configs/ have the names under
# which they are imported, and the type checker cannot fall back on the checkout.
MYPY = cd $(INSTALLED) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
	--python-executable bin/python --cache-dir $(CURDIR)/.mypy_cache

types: installed  ## mypy --strict on the installed copy, the scripts and the examples
	$(MYPY) -p wcsim
	$(MYPY) $(CURDIR)/scripts
	$(MYPY) $(CURDIR)/examples

# The site has an environment of its own, without torch: it needs Python and the package index, not `make setup`.
$(DOCS)/.ready: pyproject.toml $(DOCS_PINS)
	$(PYTHON) -m venv $(DOCS)
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], \
		sep="\n")' > $(DOCS)/requirements.txt
	$(DOCS)/bin/pip install --quiet $(PIP_ARGS) -c $(DOCS_PINS) -r $(DOCS)/requirements.txt
	@touch $@

docs: $(DOCS)/.ready  ## the documentation site, strictly, into build/site
	@# The API pages read an installed copy; setuptools packs whatever an earlier build left in build/lib.
	rm -rf build/lib build/bdist.* $(DOCS)/package
	$(DOCS)/bin/pip install --quiet $(PIP_ARGS) --no-deps --target $(DOCS)/package .
	$(DOCS)/bin/zensical build --strict --clean

wheel: setup  ## dist/wcsim-*.whl
	@# setuptools packs whatever an earlier build left in build/lib, deleted modules included.
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --wheel

# A second environment: the wheel's own files beside the dependencies of the first, in which wcsim is only a link.
installed: wheel
	@test -x $(INSTALLED)/bin/python || $(PYTHON) -m venv --without-pip $(INSTALLED)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(INSTALLED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth
	$(BIN)/pip --python $(INSTALLED)/bin/python install --quiet --no-deps --force-reinstall dist/wcsim-*.whl

smoke: installed  ## use the built wheel from another folder
	cp .ci/smoke.py build/smoke.py
	cd $(INSTALLED) && bin/python ../smoke.py $(WORLDS)

check:  ## all of the above, as CI does it
	.ci/run

clean:  ## remove .venv and what was built; data/ and runs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find agents configs envs examples scripts tests wcsim -name __pycache__ -prune -exec rm -rf {} +
