# Everything runs in a virtual environment inside the checkout; nothing here needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := hub,agent,runtime,postgresql
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-rollout wheelhouse simulate fuzz quality gallery mouth lint format proto docs bench clean

help: ## Show what can be made.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS),dev]'
	@touch $@

$(VENV)/.models: $(VENV)/.installed
	$(BIN)/sonic models fetch face-mesh
	@touch $@

setup: $(VENV)/.installed-dev $(VENV)/.models ## Install everything into .venv.

demo: $(VENV)/.installed $(VENV)/.models ## Render out/demo.mp4 through a hub and two agents (PORTRAIT=… AUDIO=… for your own).
	$(BIN)/sonic demo --out out/demo.mp4 $(if $(PORTRAIT),--portrait '$(PORTRAIT)') $(if $(AUDIO),--audio '$(AUDIO)')

test: setup ## Run every test.
	$(BIN)/sonic models fetch sonic-tiny
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test-rollout: setup ## Roll out to boxes with systemd, and upgrade them under load; needs root, systemd-nspawn and mmdebstrap.
	$(BIN)/python -m pytest -p no:cacheprovider --override-ini addopts=-ra --timeout 3600 tests/rollout

wheelhouse: $(VENV)/.installed $(VENV)/.models ## Pack what boxes without an index need (RUNTIMES, PYTHON_VERSION, MACHINE).
	$(BIN)/python -m scripts.wheelhouse $(addprefix --runtime ,$(RUNTIMES)) --model face-mesh $(addprefix --model ,$(MODELS)) --python $(or $(PYTHON_VERSION),3.11) --machine $(or $(MACHINE),x86_64)

simulate: $(VENV)/.installed ## Run the hub's decisions through drawn faults for MINUTES (10).
	$(BIN)/python -m hub.simulation --minutes $(or $(MINUTES),10)

fuzz: setup ## Try inputs on every reader of bytes from outside for MINUTES (5).
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),5)

quality: setup ## Judge rendered videos: a table, and contact sheets in out/quality.
	$(BIN)/python -m tests.quality

mouth: $(VENV)/.installed ## Train the mouth model anew; an hour or more.
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS),training]'
	$(BIN)/python -m training.mouth

gallery: setup ## Make the pictures and clips of docs/ anew.
	$(BIN)/python -m scripts.generate_gallery

lint: $(VENV)/.installed-dev ## Check format, lint, types and the wire contract.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/buf lint proto
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/breaking.sh

format: $(VENV)/.installed-dev ## Rewrite the code in the agreed format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/.installed-dev ## Generate sonic/v1 from proto/.
	$(BIN)/python scripts/generate_stubs.py

docs: $(VENV)/.installed-dev ## Generate the pages and the dashboards that follow from the code.
	$(BIN)/python scripts/generate_docs.py
	$(BIN)/python -m monitoring.dashboards

bench: $(VENV)/.installed-dev $(VENV)/.models ## Run every benchmark; each prints one JSON object last.
	@for f in bench/[a-z]*.py; do $(BIN)/python -m bench.$$(basename $$f .py) || exit 1; done

clean: ## Remove what the targets above have made.
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
