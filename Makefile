# Two commands matter: `make demo` and `make test`. Each builds .venv from the pinned lock first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0

.PHONY: demo install test lint types unit lock clean benchmarks long hosts engines browser

demo: $(VENV)/.base
	$(BIN)/fedhealth demo

install: $(VENV)/.base

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

benchmarks: $(VENV)/.studies
	$(BIN)/python benchmarks/heart.py
	$(BIN)/python benchmarks/heart_flamby.py
	$(BIN)/python benchmarks/xanomeline.py
	$(BIN)/python benchmarks/survival.py
	$(BIN)/python benchmarks/molecules.py
	$(BIN)/python benchmarks/brain_lgg.py
	$(BIN)/python benchmarks/volumes.py
	$(BIN)/python benchmarks/rounds.py
	$(BIN)/python benchmarks/simulate.py
	$(BIN)/python benchmarks/link.py
	$(BIN)/python benchmarks/noise.py
	$(BIN)/python benchmarks/accounting.py
	$(BIN)/python benchmarks/intervals.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/revocation.py
	$(BIN)/python benchmarks/rotation.py
	$(BIN)/python benchmarks/enrolment.py
	$(BIN)/python benchmarks/egress.py
	$(BIN)/python benchmarks/counts.py
	$(BIN)/python benchmarks/search_language.py
	$(BIN)/python benchmarks/search_federated.py
	$(BIN)/python benchmarks/completion.py
	$(BIN)/python benchmarks/tampering.py --bundle
	$(BIN)/python benchmarks/audit.py 10

long: $(VENV)/.studies
	$(BIN)/python benchmarks/power_cuts.py
	$(BIN)/python benchmarks/claims.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/tune_heart.py
	$(BIN)/python benchmarks/tune_molecules.py
	$(BIN)/python benchmarks/brain_lgg_network.py
	$(BIN)/python benchmarks/tune_brain_lgg.py slices
	$(BIN)/python benchmarks/tune_brain_lgg.py clusters
	$(BIN)/python benchmarks/search.py --quality
	$(BIN)/python benchmarks/search_scale.py --cache build/search-scale
	$(BIN)/python benchmarks/attacks.py
	$(BIN)/python benchmarks/tampering.py
	$(BIN)/python benchmarks/audit.py

# A study over separate hosts: needs root, iproute2 and util-linux, and says so where one is missing.
hosts: $(VENV)/.dev
	$(BIN)/python -m pytest -m hosts tests/hosts

# One study over the link and over a stock Flower SuperLink whose processes are all killed: the same bytes.
engines: $(VENV)/.dev
	$(BIN)/python -m pytest -m engines tests/engine

# The clinician's page in the machine's Chromium, by keyboard alone; says so where there is none.
browser: $(VENV)/.dev
	$(BIN)/python -m pytest -m browser tests/page

# The lock holds everything except torch, with hashes. torch comes second, pinned by version only: its build
# differs from machine to machine (CPU or CUDA), and its own requirements are in the lock already.
$(VENV)/.base: requirements/base.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"FedHealth needs Python 3.11 or newer; $(PYTHON) is {v.major}.{v.minor}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes --no-deps -r requirements/base.lock
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base requirements/dev.lock
	$(PIP) install --quiet --require-hashes --no-deps -r requirements/dev.lock
	@touch $@

# What benchmarks compare with: data of studies, and the methods of others.
$(VENV)/.studies: $(VENV)/.dev requirements/studies.lock
	$(PIP) install --quiet --require-hashes --no-deps -r requirements/studies.lock
	@touch $@

# Resolve the lock again (needs uv); review the difference before you commit it.
lock: $(VENV)/.dev
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-package torch --no-annotate pyproject.toml requirements/build.in -o requirements/base.lock
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-package torch --no-annotate --extra dev -c requirements/base.lock pyproject.toml requirements/build.in -o requirements/dev.lock
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-package torch --no-annotate --extra studies -c requirements/dev.lock pyproject.toml requirements/build.in -o requirements/studies.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
