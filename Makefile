# make quickstart    finds a subnetwork in a random network, on real digits, in about a minute
# make test          runs the tests
# make test-slurm    runs those of slurm/, on a SLURM cluster of two nodes that it starts on this machine
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
FFCV := $(VENV)/ffcv

.PHONY: quickstart test test-slurm test-long lint setup clean

quickstart: $(INSTALLED)
	$(BIN)/lightning fit -c configs/quickstart.yaml

# Each of the processes computes with one thread, or they would stand in each other's way.
test: $(INSTALLED) $(FFCV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "not long and not slurm"

# With the two that make test has of them, where SLURM is installed.
test-slurm: $(INSTALLED)
	@if tests/slurm/install.sh; then $(BIN)/pytest tests/slurm; fi

test-long: $(INSTALLED) $(FFCV)
	$(BIN)/pytest --hypothesis-profile=exploring

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(INSTALLED) $(FFCV)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV), once: about 6 GB with PyTorch, a few minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(INSTALLED)

# FFCV is for ImageNet; without it the rest works, and its tests say that they are skipped.
$(FFCV): $(INSTALLED) data/install_ffcv.sh
	@data/install_ffcv.sh $(BIN)/python && touch $(FFCV) || true

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
