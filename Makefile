# make quickstart    find a subnetwork in a random network, on real digits, in about a minute
# make test          run the tests that a commit needs, in five minutes
# make test-all      run these and the thorough ones
# make test-slurm    run those of tests/slurm on a SLURM cluster of two nodes, which they start on this machine
# make test-browser  run those of tests/browser in Chromium, which they install with onnxruntime-web and axe-core
# make test-long     run everything with new random examples
# make coverage      run test-all and list the lines that no test reaches
# make gpu           measure everything that only a GPU can show; PART=step one part, REHEARSE=1 on any machine
# make rehearse      rehearse ImageNet with a few photographs, before it costs GPU hours: PHOTOS=folder
# make docs          build the website into site/, without a network
# make dist          build and check the files for the package index, see docs/release.md
# make lint          check style, types, the order of the rooms, and the files for GitHub
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
FFCV := $(VENV)/ffcv

# Compiling all packages takes a minute of CPU time, so Python compiles each module when it is first imported.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# uv needs less than half of pip's time. unsafe-best-match is pip's choice among several indexes.
UV := $(shell command -v uv)
UV_INSTALL = $(BIN)/python -c "$$WITH_INDEXES_OF_PIP" $(or $(UV),$(BIN)/uv) pip install --quiet \
	--python $(BIN)/python --index-strategy unsafe-best-match --constraint constraints.txt
# uv does not read pip's configuration.
define WITH_INDEXES_OF_PIP
import os, sys
from pip._internal.commands import create_command
pip = create_command("install").parser.get_default_values()
lists = {"UV_INDEX": pip.extra_index_urls, "UV_FIND_LINKS": pip.find_links}
options = {"UV_DEFAULT_INDEX": pip.index_url, "SSL_CERT_FILE": pip.cert}
options |= {name: " ".join(values) for name, values in lists.items()}
environment = {name: value for name, value in options.items() if value} | os.environ
os.execve(sys.argv[1], sys.argv[1:], environment)
endef
export WITH_INDEXES_OF_PIP
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-all test-slurm test-browser test-long coverage gpu rehearse docs dist lint setup clean

quickstart: $(INSTALLED)
	$(BIN)/lightning fit -c configs/quickstart.yaml

# Each test process computes with one thread, because there is a process for each core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test: $(INSTALLED) $(FFCV)
	$(PYTEST) -m "not thorough and not long and not slurm and not browser"

test-all: $(INSTALLED) $(FFCV)
	$(PYTEST) -m "not long and not slurm and not browser"

test-slurm: $(INSTALLED)
	@if tests/slurm/install.sh; then $(BIN)/pytest tests/slurm; fi

test-browser: $(INSTALLED)
	@if tests/browser/install.sh $(BIN)/python $(VENV)/browser; then $(BIN)/pytest tests/browser; fi

test-long: $(INSTALLED) $(FFCV)
	$(BIN)/pytest -m "not browser" --hypothesis-profile=exploring

coverage: $(INSTALLED) $(FFCV)
	$(PYTEST) -m "not long and not slurm and not browser" --cov=lightning_subnets --cov-report=term-missing:skip-covered

# The Python of the virtual environment if there is one, otherwise one that has PyTorch already.
gpu:
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py $(if $(PART),--parts $(PART)) $(if $(REHEARSE),--rehearse)

rehearse: $(INSTALLED) $(FFCV)
	$(BIN)/python data/rehearse_imagenet.py $(or $(PHOTOS),$(error name a folder of photographs: make rehearse PHOTOS=folder)) $(OPTIONS)

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/mkdocs.yml
	@echo "site/index.html is the front page"

dist: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# The schemas are part of check-jsonschema, so this needs no network.
SCHEMA := $(BIN)/check-jsonschema --builtin-schema vendor

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(SCHEMA).github-workflows .github/workflows/*.yml
	$(SCHEMA).github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).citation-file-format CITATION.cff

setup: $(INSTALLED) $(FFCV)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV), once: about 6 GB with PyTorch, of which 2.7 GB are downloaded."
	@$(PYTHON) -m venv $(VENV)
	@{ [ "$(UV)" ] || $(PIP) uv 2> /dev/null; } && $(UV_INSTALL) --editable ".[dev]" || \
		{ echo "uv could not install, so pip does, which takes longer."; $(PIP) --editable ".[dev]"; }
	@touch $(INSTALLED)

# FFCV is for ImageNet; without it the rest works, and its tests say that they are skipped.
$(FFCV): $(INSTALLED) data/install_ffcv.sh
	@data/install_ffcv.sh $(BIN)/python && touch $(FFCV) || true

clean:
	rm -rf $(VENV) dist site .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
