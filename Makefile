# What a developer does here; `make` alone lists it. Needs Python 3.11 or newer, pip and make, nothing else.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
STAMP := .venv/.installed
# The locks are made for 3.11, so it is preferred; `make setup PYTHONS=/path/to/python` takes another.
PYTHONS ?= python3.11 python3 python3.12 python3.13 python3.14
IS_NEW_ENOUGH := 'import sys; sys.exit(sys.version_info < (3, 11))'

.PHONY: calibrate check-calibration help setup demo test test-crash test-models test-compat lint types contracts deploy-lint format lock bench bench-quick clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with the locked dependencies and the command faregate
	@:

demo: setup ## Run the main job on two real models and print its bill (KEEP=1 leaves it running)
	@$(BIN)/faregate demo $(if $(KEEP),--keep)

calibrate: setup ## Ask the demo's two models 850 questions and fit their judge again (40 minutes, resumable)
	@$(BIN)/faregate demo --calibrate router/calibrations/qwen2.5-coder-0.5b-1.5b.json

check-calibration: setup ## Hold the shipped calibration against 220 fresh questions (about 10 minutes, resumable)
	@$(BIN)/python -m router.train_questions --seed 20261122 --without router/questions.jsonl --count 220 > .venv/fresh.jsonl
	@$(BIN)/faregate demo --check-calibration .venv/fresh.jsonl

test: setup ## Run the tests that need no model
	@$(BIN)/pytest -m "not models" -n auto --dist loadfile

KILLS ?= 1000

test-crash: setup ## Kill a gateway under load KILLS (1,000) times, then hold its ledger against what was answered
	@$(BIN)/pytest tests/crash -m crash --kills $(KILLS) -s

test-models: setup ## Run the tests on the demo's two real models (fetched once, 1.6 GB)
	@$(BIN)/pytest -m models

test-compat: setup ## Run openai-node and the Vercel AI SDK against a gateway (needs Node 20 or newer and npm)
	@npm ci --prefix tests/compat/node --no-audit --no-fund --silent
	@$(BIN)/pytest tests/compat/node_clients.py

lint: setup ## Check format and style
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup ## Check types (mypy strict)
	@$(BIN)/mypy
	@$(BIN)/mypy load_tests/bench.py load_tests/endure.py load_tests/bare_proxy.py load_tests/hot_path.py

contracts: setup ## Check which package may import which
	@$(BIN)/lint-imports --no-logo

deploy-lint: setup ## Check the Dockerfile and the compose file
	@$(BIN)/hadolint deploy/Dockerfile && echo "deploy/Dockerfile: no findings"
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml

format: setup ## Format the code and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: setup ## Pin all dependencies again, with their hashes
	@$(BIN)/uv pip compile --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
	  pyproject.toml -o requirements.lock >/dev/null
	@$(BIN)/uv pip compile --generate-hashes --no-header --no-emit-index-url --python-version 3.11 \
	  --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock >/dev/null

bench: setup ## Measure the gateway against a native mock upstream (needs a C compiler and taskset)
	@$(BIN)/python load_tests/bench.py

bench-quick: setup ## The same in one short round: it shows that it works, not how fast it is
	@$(BIN)/python load_tests/bench.py --quick

clean: ## Remove what was built; fetched models and the ledger stay
	@rm -rf .venv dist load_tests/bin load_tests/results .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@rm -rf .hypothesis .coverage tests/compat/node/node_modules
	@find backends gateway load_tests policies router semantic_cache tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment that works is kept and brought up to date, so that what runs from it goes on running.
$(STAMP): requirements-dev.lock requirements.lock pyproject.toml
	@if ! $(BIN)/python -c $(IS_NEW_ENOUGH) 2>/dev/null; then \
	  for candidate in $(PYTHONS); do \
	    if "$$candidate" -c $(IS_NEW_ENOUGH) 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$${python:-}" ]; then \
	    echo "setup: none of '$(PYTHONS)' is Python 3.11 or newer; install one, or: make setup PYTHONS=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "setup: $$("$$python" --version) makes .venv"; \
	  "$$python" -m venv --clear .venv; \
	fi
	@echo "setup: fetching and installing the locked dependencies (about a minute, once)"
	@if ! $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements-dev.lock 2>&1 \
	  | tee .venv/install.log \
	  | awk -v all="$$(grep -cE '^[a-z0-9]' requirements-dev.lock)" \
	    '/^(Collecting|Processing|Requirement already satisfied:) .* \(line/ { n++; if (n % 20 == 0) { print "setup: " n " of " all; fflush() } }'; \
	then cat .venv/install.log >&2; exit 1; fi
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e . 2>>.venv/install.log \
	  || { cat .venv/install.log >&2; exit 1; }
	@touch $@
