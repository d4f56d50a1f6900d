# Everything a newcomer needs: `make quickstart`, then `make test`.
VENV ?= .venv
PEERS ?= .peers
PYTHON ?= python3.11
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install quickstart test interop peers soak check style generate bench clean

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 14

# --no-compile: Python compiles what is imported, which is a small part, when that is first imported.
install: $(VENV)/.installed ## Install mistudio and its tools into .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $@

quickstart: install ## From nothing to the features of a sparse autoencoder, in a few minutes
	$(BIN)/mistudio quickstart

test: install ## Run the tests, with a real Redis, real workers and real training
	$(BIN)/python -m pytest -n 4 --dist loadfile

peers: $(PEERS)/.installed ## Install SAELens, dictionary_learning and sparsify into .peers: some gigabytes

# torchvision is asked for by nnsight, which does not import it, and breaks transformers beside a torch built otherwise.
$(PEERS)/.installed: constraints-peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -c constraints-peers.txt \
		torch sae-lens dictionary-learning eai-sparsify pytest pytest-timeout
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

interop: peers ## Hold formulas and files to those of the peers; writes benchmarks/results/interop.md
	$(PEERS)/bin/python -m pytest -c tests/interop/pytest.ini tests/interop \
		--result benchmarks/results/interop.md

soak: install ## Kill every process again and again under load: ROUNDS=200 JOBS=1000, SEED=... repeats a run; visit more states
	MISTUDIO_TEST_DEEPER=1 $(BIN)/python -m pytest tests/ledger/test_state_machine.py tests/redis_client/test_random_replies.py \
		tests/ledger/test_random_damage.py tests/messaging/test_broadcasts.py
	MISTUDIO_TEST_ROUNDS=$(or $(ROUNDS),200) MISTUDIO_TEST_SEED=$(or $(SEED),$(shell date +%s)) \
		MISTUDIO_TEST_CHAOS_JOBS=$(or $(JOBS),1000) \
		$(BIN)/python -m pytest -s tests/supervisor/test_kills.py tests/supervisor/test_chaos.py
	MISTUDIO_TEST_DEEPER=1 $(BIN)/python -m pytest -s tests/supervisor/test_failover.py
	MISTUDIO_TEST_REFUSALS_S=600 MISTUDIO_TEST_SEED=$(or $(SEED),$(shell date +%s)) \
		$(BIN)/python -m pytest -s tests/supervisor/test_refusals.py
	MISTUDIO_TEST_DEEPER=1 MISTUDIO_TEST_SEED=$(or $(SEED),$(shell date +%s)) \
		$(BIN)/python -m pytest tests/train_job/test_resume.py tests/sae/test_broken_saes.py \
		tests/models/test_every_family.py tests/models/test_model_config.py tests/sae/test_calibration.py \
		tests/worker/test_killed_training.py tests/jobs/test_memory.py \
		tests/cli/test_fuzzed_input.py tests/parsing/test_documents.py

check: install ## Style, words, types and the floors of the architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m docs.word_check
	$(BIN)/mypy
	$(BIN)/lint-imports

style: install ## Put the code into the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: install ## Write what derives from the tables: reference tables in docs, files in deploy/
	$(BIN)/python -m docs.generate

bench: install ## Measure against peers and floors; writes benchmarks/results/
	$(BIN)/python -m benchmarks

clean: ## Remove what was built
	rm -rf build dist *.egg-info $(VENV) $(PEERS)
