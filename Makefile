# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
DATA ?= digits
# Which torch to install into VENV where none there fits: the package, and an index to look in besides pip's own.
# Without a GPU that is the CPU build, a tenth of the size, which pip prefers wherever it finds both.
TORCH ?= torch==2.13.0
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

python := $(VENV)/bin/python
pip := $(python) -m pip --quiet
installed := $(VENV)/.installed
sources := CMakeLists.txt pyproject.toml altmin_ext/_version.py $(shell find csrc -type f)

.PHONY: help demo test test-gpu gpu-check lint bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo [DATA=fashion-mnist]   train AM-Adam beside Adam and write runs/"
	@echo "make test                        lint, type-check and test"
	@echo "make test-gpu                    the tests of the CUDA kernels on a GPU"
	@echo "make gpu-check [PYTHON=python3]  build, test and time them on a GPU without a venv or network, into runs/gpu-check/"
	@echo "make bench                       micro and macro benchmarks, into runs/benchmarks/"
	@echo "make clean                       remove .venv, the build and the caches"

$(python):
	@$(PYTHON) -c 'import sys; sys.exit("PYTHON must be 3.10 or later: try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(pip) install --upgrade pip

# A torch fits if it has the DLPack exchange API, as every one in pyproject.toml's range does. Its dependencies come
# with those of the package, so that an index out of reach is asked for a single page.
# Editable, so that the package in this folder and the installed one are the same.
$(installed): $(python) $(sources)
	@$(python) -c 'import torch; torch.Tensor.__dlpack_c_exchange_api__' 2>/dev/null || { set -x; \
	$(pip) --retries 1 --timeout 15 install --no-deps $(addprefix --extra-index-url ,$(TORCH_INDEX)) "$(TORCH)"; }
	$(pip) install --editable ".[test]"
	@$(python) -m altmin_ext info | sed -n 's/^ *cuda */altmin_ext, CUDA: /p'
	@touch $@

demo: $(installed)
	$(python) -m altmin_ext train --data $(DATA) --compare adam --output runs/$(DATA)

lint: $(installed)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(shell find csrc python_tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

# One thread: with several, tests that run beside other work would wait for each other's OpenMP threads.
test: lint
	OMP_NUM_THREADS=1 $(python) -m pytest

test-gpu: $(installed)
	OMP_NUM_THREADS=1 $(python) -m pytest python_tests/gpu python_tests/ops -rs

gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(GPU_CHECK)

bench: $(installed)
	$(python) -m benchmarks

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .benchmarks
