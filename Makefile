# Two commands do all the set-up: `make demo` and `make test`. Both create .venv first.

# torch's pinned build exists without CUDA for 3.11 on some indexes; other versions work as well.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

DEMO_BUNDLE := engines/demo
DEMO_PROMPT := a green triangle on a cream background
DEMO_PICTURE := out/demo.png

.PHONY: help demo test check format clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch" -e ".[dev]"
	@touch $@

demo: $(INSTALLED) ## export the demo checkpoint at 2x and make a picture
	$(BIN)/fam-export --scale 2 --output $(DEMO_BUNDLE)
	@mkdir -p $(dir $(DEMO_PICTURE))
	$(BIN)/fam-generate $(DEMO_BUNDLE) "$(DEMO_PROMPT)" --scale 2 --seed 0 -o $(DEMO_PICTURE)

test: $(INSTALLED) ## all tests that need no GPU
	$(BIN)/python -m pytest

check: $(INSTALLED) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built, but no bundle
	rm -rf $(VENV) out dist build .pytest_cache .mypy_cache .ruff_cache
