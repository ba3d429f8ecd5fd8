# Two commands do everything: `make quickstart` and `make test`. Both make .venv if it is missing.
PYTHON ?= python3
# The torch build, as pip understands it, e.g. TORCH='torch==2.13.0'.
TORCH ?= torch
BIN := .venv/bin
WORDS := yes,no,up,down,left,right,on,off,stop,go
# The shards that the benchmarks of `make gpu` read.
SHARDS ?= data/real10
INSTALLED := .venv/installed

.PHONY: quickstart test gpu lint format install clean

quickstart: install
	$(BIN)/python tools/make_shards.py synth --words $(WORDS) --out data/quickstart
	$(BIN)/accelerate launch launch/train.py --config configs/quickstart.yaml

# A file of tests stays on one process, and so do its fixtures; each process computes with one thread. tests/conftest.py has
# the order.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 12

# What only a CUDA device can show: its tests, and figures for docs/benchmarks.md, in gpu/.
gpu: install
	mkdir -p gpu
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python tools/bench.py pipeline --json gpu/pipeline.json
	$(BIN)/python tools/bench.py features --json gpu/features.json
	$(BIN)/python tools/bench.py data --data.shards $(SHARDS) --json gpu/data.json
	$(BIN)/python tools/bench.py train --config configs/bcresnet1.yaml --data.shards $(SHARDS) --train.global_batch 2048 \
		--steps 50 --json gpu/train.json
	$(BIN)/accelerate launch launch/train.py --config configs/bcresnet1.yaml --data.shards $(SHARDS) --run_dir gpu/run \
		--train.epochs 3 --train.precision bf16
	$(BIN)/accelerate launch launch/train.py --config configs/bcresnet1.yaml --data.shards $(SHARDS) --run_dir gpu/graph \
		--train.epochs 3 --train.precision bf16 --train.cuda_graph --train.profile 20
	$(BIN)/python tools/bench.py ddp --config configs/bcresnet1.yaml --json gpu/ddp.json
	$(BIN)/python tools/runs.py models --json gpu/models.json
	$(BIN)/python tools/sweep.py configs/sweeps/one_epoch.yaml --out gpu/one_epoch
	$(BIN)/python tools/sweep.py configs/sweeps/one_epoch_compiled.yaml --out gpu/one_epoch_compiled

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
