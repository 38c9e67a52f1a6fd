# `make` lists the targets. Everything is installed into .venv, from requirements.lock; nothing else is touched,
# but that `make test` installs Chromium where it is root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# torch is needed to export models and in tests, never to serve. It is not in the lock: see scripts/install_torch.py.
TORCH := torch==2.13.0
TORCH_FLAGS ?=

PICTURES ?=
# The shell takes it from there, whatever characters are in it.
export PICTURES
LISTEN ?= 127.0.0.1:50051
PAGE ?= 127.0.0.1:7860
PYTEST_ARGS ?=
# Half of the tests' time is waiting; more processes than four would need more memory than they save time.
TEST_PROCESSES ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n < 4 ? n + 1 : 4 )))

DEMO = $(BIN)/python scripts/demo.py --listen $(LISTEN) --page $(PAGE) $(if $(PICTURES),--pictures "$$PICTURES")

##@ Use
.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables: PICTURES=folder, LISTEN=host:port and PAGE=host:port for run and demo, PYTEST_ARGS for test,\n  PYTHON for the interpreter (3.11 or newer).\n'

.PHONY: run
run: install ## Get a model, start a server, import pictures, search them, open the page, and stay until Ctrl-C
	@$(DEMO) --stay

.PHONY: demo
demo: install ## The same, but end with exit code 0 if the searches found what they should
	@$(DEMO)

##@ Develop
.PHONY: install
install: $(VENV)/.installed ## Make .venv with everything (the other targets do it too)

.PHONY: test
test: install $(VENV)/.chromium $(VENV)/.openvino ## Run all tests; PYTEST_ARGS="-k name" for some
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

.PHONY: bench
bench: install ## Measure on this machine, which must have nothing else to do; takes about twelve minutes
	$(BIN)/python -m benchmarks short
	$(BIN)/python -m benchmarks.report build/bench/short.json --output build/bench/performance.md --plots build/bench

.PHONY: bench-full
bench-full: install ## The same for longer, with int8, 300,000 pictures and a Milvus server; takes hours
	$(BIN)/python -m benchmarks full
	$(BIN)/python -m benchmarks.report build/bench/full.json --output build/bench/performance.md --plots build/bench

.PHONY: lint
lint: install ## Check format, lint, types, layers, contract, stubs and lock files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy scripts
	$(BIN)/mypy -p benchmarks
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python scripts/check_breaking.py
	$(BIN)/python scripts/generate_stubs.py --check client
	$(BIN)/python scripts/generate_sync_client.py --check client
	$(BIN)/python scripts/settings_table.py --check
	$(BIN)/python -m benchmarks.report --check
	$(BIN)/python scripts/lock.py --check

.PHONY: format
format: install ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: proto
proto: install ## Generate the Python stubs from proto/, and the synchronous client from the asynchronous one
	$(BIN)/python scripts/generate_stubs.py client
	$(BIN)/python scripts/generate_sync_client.py client

.PHONY: lock
lock: $(VENV)/.uv ## Write the lock files from pyproject.toml; LOCK_ARGS=--upgrade for the newest versions
	$(BIN)/python scripts/lock.py $(LOCK_ARGS)

.PHONY: clean
clean: ## Remove .venv and caches; models and data stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each step leaves a stamp, so that a second run does nothing.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'clipseek needs Python 3.11 or newer: make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'Python cannot make virtual environments here: sudo apt-get install python3-venv' >&2; exit 1; }
	@echo '== Making $(VENV)'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# uv itself comes from the lock too, checked by its hash like everything else.
$(VENV)/.uv: $(VENV)/.made
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r $(VENV)/uv.lock
	@touch $@

$(VENV)/.locked: requirements.lock | $(VENV)/.uv
	@echo '== Installing what requirements.lock pins'
	$(BIN)/uv pip install --system-certs --python $(BIN)/python --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.torch: $(VENV)/.locked scripts/install_torch.py
	@echo '== Installing $(TORCH) for the CPU'
	$(BIN)/python scripts/install_torch.py $(TORCH) $(TORCH_FLAGS)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/uv pip install --system-certs --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Beside the environment, since it would overwrite the ONNX Runtime in it. Where it cannot be had, its tests are skipped.
$(VENV)/.openvino: requirements-server-openvino.lock | $(VENV)/.uv
	@echo "== Installing OpenVINO's ONNX Runtime, for its tests"
	@sed -n '/^onnxruntime-openvino==/,/[^\\]$$/p' requirements-server-openvino.lock > $(VENV)/openvino.lock
	$(BIN)/uv pip install --system-certs --python $(BIN)/python --no-deps --require-hashes --target $(VENV)/openvino \
		-r $(VENV)/openvino.lock && touch $@ || echo 'There is no ONNX Runtime with OpenVINO to be had here.'

# Where this cannot be had, the tests of the page are skipped.
CHROMIUM := chromium fonts-noto-cjk
$(VENV)/.chromium: $(VENV)/.made
	@if command -v chromium > /dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		echo '== Installing $(CHROMIUM), for the tests of the page'; \
		apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 \
			--no-install-recommends $(CHROMIUM) > /dev/null || echo 'There is no Chromium to be had here.'; \
	else echo 'For the tests of the page too: sudo apt-get install $(CHROMIUM)'; fi
	@if command -v chromium > /dev/null; then touch $@; fi
