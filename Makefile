# Two commands do all the set-up: `make demo` and `make test`. Both create .venv first; `make test`
# also creates .venv-triton, a Triton Inference Server without a container, where that can be had.

# torch's pinned build exists without CUDA for 3.11 on some indexes; other versions work as well.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

TRITON := .venv-triton
TRITON_BIN := $(TRITON)/bin
TRITON_INSTALLED := $(TRITON)/.installed

# The C++ runtime: with ONNX Runtime from the Python wheel, or from a release that ONNXRUNTIME_ROOT names.
ONNXRUNTIME_ROOT ?= $(CURDIR)/build/onnxruntime
CPP := build/cpp

DEMO_BUNDLE := engines/demo
DEMO_PROMPT := a green triangle on a cream background
DEMO_PICTURE := out/demo.png

.PHONY: help demo test triton-env cpp cpp-asan cpp-tsan cpp-fuzz check format clean

help: ## what there is
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch" -e ".[dev]"
	@touch $@

# Its own environment: the server's client asks for versions of numpy and protobuf that others do not.
$(TRITON_INSTALLED): pyproject.toml constraints-triton.txt
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or 3.12 is needed; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + "; set PYTHON=" if not (3, 11) <= sys.version_info < (3, 13) else 0)'
	$(PYTHON) -m venv $(TRITON)
	$(TRITON_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-triton.txt "nvidia-pytriton==0.7.0" "tritonclient[http,grpc]==2.51.0" -e ".[cpu]"
	@touch $@

demo: $(INSTALLED) ## export the demo checkpoint at 2x and make a picture
	$(BIN)/fam-export --scale 2 --output $(DEMO_BUNDLE)
	@mkdir -p $(dir $(DEMO_PICTURE))
	$(BIN)/fam-generate $(DEMO_BUNDLE) "$(DEMO_PROMPT)" --scale 2 --seed 0 -o $(DEMO_PICTURE)

# Without a server (only for Linux, half a gigabyte) or without a compiler the other tests go on.
test: $(INSTALLED) ## all tests that need no GPU
	@$(MAKE) --no-print-directory cpp >$(VENV)/cpp.log 2>&1 || { rm -f $(addprefix $(CPP)/,fam_probe fam_generate fam_unit_tests fam_api_tests libfam.so); echo "make: no C++ runtime here, so its tests are skipped; 'make cpp' says why"; }
	@$(MAKE) --no-print-directory triton-env 2>/dev/null || echo "make: no $(TRITON) here, so the tests on a real Triton server are skipped; 'make triton-env' says why"
	$(BIN)/python -m pytest

triton-env: $(TRITON_INSTALLED) ## the Triton server that tests start

$(CURDIR)/build/onnxruntime/lib/libonnxruntime.so: $(INSTALLED) runtime/cpp/scripts/onnxruntime_root
	@mkdir -p build/onnxruntime
	runtime/cpp/scripts/onnxruntime_root $(BIN)/python build/onnxruntime

cpp: $(ONNXRUNTIME_ROOT)/lib/libonnxruntime.so ## the C++ runtime, its example programs and its tests
	cmake -S runtime/cpp --preset tests -DONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) $(CMAKE_FLAGS)
	cmake --build $(CPP)

cpp-asan cpp-tsan: cpp-%: $(ONNXRUNTIME_ROOT)/lib/libonnxruntime.so ## its tests under AddressSanitizer and UBSan, or under ThreadSanitizer
	cmake -S runtime/cpp --preset $* -DONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) $(CMAKE_FLAGS)
	cmake --build $(CPP)-$*
	runtime/cpp/scripts/sanitized_tests $* $(BIN)/python

FUZZ_SECONDS ?= 10
cpp-fuzz: $(ONNXRUNTIME_ROOT)/lib/libonnxruntime.so ## FUZZ_SECONDS of libFuzzer on its readers (FUZZERS: all)
	cmake -S runtime/cpp --preset fuzz -DONNXRUNTIME_ROOT=$(ONNXRUNTIME_ROOT) $(CMAKE_FLAGS)
	cmake --build $(CPP)-fuzz --target fuzzers
	@[ -f $(CPP)-fuzz/bundle/manifest.json ] || $(BIN)/python -m tests.cpp.tiny_bundle $(CPP)-fuzz/bundle
	runtime/cpp/scripts/fuzz $(CPP)-fuzz $(CPP)-fuzz/bundle $(FUZZ_SECONDS) $(FUZZERS)

check: $(INSTALLED) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built, but no bundle
	rm -rf $(VENV) $(TRITON) out dist build .pytest_cache .mypy_cache .ruff_cache
