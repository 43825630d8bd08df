# One command per need. Each makes its own virtual environment (python3 >= 3.10 with venv is all that must be there).
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
RUN     = $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help demo test slow extras lint format bench clean

help:
	@echo 'make demo    fetch a pretrained text recogniser, halve its MACs, and let both read the same lines'
	@echo 'make test    the test suite'
	@echo 'make slow    the slow tests'
	@echo 'make extras  the tests that need PyTorch, TVM or Jinja'
	@echo 'make lint    style and types'
	@echo 'make format  put the style right'
	@echo 'make bench   the benchmarks'

# Environments: pip runs again only when pyproject.toml changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'pruneopt needs Python 3.10 or later: make PYTHON=/path/to/python3.x'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -f $(BIN)/python; echo 'python3 -m venv failed: on Debian and Ubuntu, install python3-venv'; exit 1; }

$(VENV)/.user: pyproject.toml | $(BIN)/python
	$(RUN) pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(RUN) pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.user

# TORCH: where plain `torch` would bring gigabytes of CUDA, name a build for the CPU, `TORCH=torch==2.13.0` for example.
TORCH ?= torch
$(VENV)/.extras: pyproject.toml | $(BIN)/python
	$(RUN) pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(RUN) pip install --quiet --disable-pip-version-check --editable '.[dev,torch,tvm,report]'
	@touch $@ $(VENV)/.dev $(VENV)/.user

$(VENV)/.demo: $(VENV)/.user
	$(RUN) pip install --quiet --disable-pip-version-check 'pillow>=10.1'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	$(RUN) pytest -q -n $(JOBS) -m 'not slow'

slow: $(VENV)/.dev
	$(RUN) pytest -q -m slow

extras: $(VENV)/.extras
	$(RUN) pytest -q -n $(JOBS) -m 'not slow' $$(grep -rl --include='test_*.py' importorskip tests)

lint: $(VENV)/.dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: $(VENV)/.dev
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# MODELS: files or folders of ONNX models, for example `make bench MODELS=~/models`; without it, growth with depth only.
bench: $(VENV)/.user
	$(RUN) benchmarks.scaling
	$(if $(MODELS),$(RUN) benchmarks.zoo $(MODELS) --out bench.md --json bench.json)

clean:
	rm -rf .venv .cache demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
