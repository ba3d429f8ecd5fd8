# Two commands do everything: `make quickstart` and `make test`. Both make .venv if it is missing.
PYTHON ?= python3
# The torch build, as pip understands it, e.g. TORCH='torch==2.13.0'.
TORCH ?= torch
BIN := .venv/bin
WORDS := yes,no,up,down,left,right,on,off,stop,go
INSTALLED := .venv/installed

.PHONY: quickstart test lint format install clean

quickstart: install
	$(BIN)/python tools/make_shards.py synth --words $(WORDS) --out data/quickstart
	$(BIN)/accelerate launch launch/train.py --config configs/quickstart.yaml

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[quickstart]' --group dev
	touch $@

clean:
	rm -rf .venv
