# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
DATA ?= digits
TEST_JOBS ?= auto
SECONDS ?= 600
FUZZ_JOBS ?= $(shell nproc 2>/dev/null || echo 1)
SEED ?= 0
JOBS ?= $(shell nproc 2>/dev/null || echo 1)

# The GPUs here, by compute capability: the CUDA kernels are compiled for them alone, and where there is none not at all.
gpus := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+\.[0-9]+$$' | sort -u)
ifeq ($(gpus),)
ALTMIN_CUDA ?= OFF
else
ALTMIN_CUDA ?= AUTO
empty :=
ALTMIN_CUDA_ARCHITECTURES ?= $(subst $(empty) ,;,$(patsubst %,%-real,$(subst .,,$(gpus))))
endif
export ALTMIN_CUDA ALTMIN_CUDA_ARCHITECTURES

# Which torch to install into VENV where none there fits: the package, and an index to look in besides pip's own.
# Without a GPU that is the CPU build, a tenth of the size, which pip prefers wherever it finds both.
TORCH ?= torch==2.13.0
ifeq ($(gpus),)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

# pip leaves Python files to the first import, which compiles the few that are needed and keeps them.
unexport PYTHONDONTWRITEBYTECODE
python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check
install := $(pip) --quiet install --no-compile
# Stamps: torch and what builds the package; the package with what the demo imports; what tests and checks need besides.
torch := $(VENV)/.torch
package := $(VENV)/.package
tools := $(VENV)/.tools
sources := CMakeLists.txt pyproject.toml altmin_ext/_version.py $(shell find csrc -type f)

.PHONY: help demo test test-gpu test-clients gpu-check lint ruff mypy clang-format docs fuzz kill-matrix bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo [DATA=fashion-mnist]   train AM-Adam beside Adam and write runs/"
	@echo "make test [TEST_JOBS=4]          lint, type-check and test, in as many processes as there are cores"
	@echo "make lint                        ruff, mypy and clang-format alone"
	@echo "make test-gpu                    the tests of the CUDA kernels on a GPU"
	@echo "make test-clients                17 neighbours, from Lightning to river and Jupyter, which it installs"
	@echo "make docs                        the site into runs/docs/, with the scripts of its gallery run; warnings are errors"
	@echo "make gpu-check [PYTHON=python3]  build, test and time them on a GPU without a venv or network, into runs/gpu-check/"
	@echo "make fuzz [SECONDS=600]          random calls, networks and altered files beside their oracles; under"
	@echo "                                 sanitizers with SANITIZE=1"
	@echo "make kill-matrix [SEED=1 JOBS=2]  training runs killed at every instant and resumed, into runs/kill-matrix.md"
	@echo "make bench                       micro and macro benchmarks, into runs/benchmarks/"
	@echo "make clean                       remove .venv, the build and the caches"

$(python):
	@$(PYTHON) -c 'import sys; sys.exit("PYTHON must be 3.10 or later: try make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# A torch fits if it has the DLPack exchange API, as every one in pyproject.toml's range does. Its dependencies come
# with those of the package, so that an index out of reach is asked for a single page.
$(torch): pyproject.toml | $(python)
	@$(install) "pip>=25.1"  # the first that knows groups
	@$(python) -c 'import torch; torch.Tensor.__dlpack_c_exchange_api__' 2>/dev/null || { \
	echo "Installing $(TORCH) ..."; \
	$(pip) --retries 1 --timeout 15 install --no-compile --no-deps $(addprefix --extra-index-url ,$(TORCH_INDEX)) "$(TORCH)"; }
	@$(install) --group build
	@touch $@

# Editable, so that the package in this folder and the installed one are the same; with the build's tools from VENV and
# not a folder of their own, so that a change compiles anew only what it concerns.
$(package): $(torch) $(sources)
	@echo "Compiling the native module (ALTMIN_CUDA=$(ALTMIN_CUDA) $(ALTMIN_CUDA_ARCHITECTURES)) and installing what the demo needs ..."
	@$(install) --no-build-isolation --editable ".[demo]"
	@touch $@

# After the package if that is not there, but without it where it is only out of date: to lint takes no compiler.
$(tools): pyproject.toml | $(torch) $(if $(wildcard $(package)),,$(package))
	@echo "Installing what the tests need ..."
	@$(install) --group test
	@touch $@

# On one thread: in networks this small, several would mostly wait for each other.
demo: $(package)
	@echo "Training on $(DATA) ..."
	$(python) -m altmin_ext train --data $(DATA) --compare adam --threads 1 --output runs/$(DATA)

lint: $(tools)
	@$(MAKE) --no-print-directory --jobs --output-sync=target ruff mypy clang-format

# What pre-commit runs, one by one.
ruff: $(tools)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

mypy: $(tools)
	$(VENV)/bin/mypy

clang-format: $(tools)
	find csrc python_tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) -exec $(VENV)/bin/clang-format --dry-run --Werror {} +

# One thread: with several, tests that run beside other work would wait for each other's OpenMP threads.
test: lint $(package)
	OMP_NUM_THREADS=1 $(python) -m pytest --numprocesses $(TEST_JOBS) --dist worksteal --durations 10 -p no:benchmark

test-gpu: $(package) $(tools)
	OMP_NUM_THREADS=1 $(python) -m pytest python_tests/gpu python_tests/ops -rs

# Where these packages are not installed, `make test` skips the folder.
test-clients: $(package) $(tools)
	@$(install) --group clients
	OMP_NUM_THREADS=1 $(python) -m pytest python_tests/clients python_tests/test_pages.py -p no:benchmark

# Nothing is fetched while it is built. What the gallery and the API have written before is kept, and made anew where a
# script or a docstring has changed.
docs: $(package)
	@$(install) --group docs
	OMP_NUM_THREADS=1 $(python) -m sphinx --fail-on-warning --keep-going --quiet docs runs/docs

gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(GPU_CHECK)

# FUZZ=training, for instance, for one target. SANITIZE=1: that of the ops, on two threads of kernels that are compiled
# with AddressSanitizer and UndefinedBehaviorSanitizer.
fuzz: $(package) $(tools)
ifdef SANITIZE
	OMP_NUM_THREADS=2 $(python) -m python_tests.native.sanitized \
	$(python) -m python_tests.fuzz ops --seconds $(SECONDS) --jobs $(FUZZ_JOBS)
else
	OMP_NUM_THREADS=1 $(python) -m python_tests.fuzz $(FUZZ) --seconds $(SECONDS) --jobs $(FUZZ_JOBS)
endif

# SEED=1 draws other runs, networks and instants.
kill-matrix: $(package) $(tools)
	OMP_NUM_THREADS=1 $(python) -m python_tests.kills --seed $(SEED) --jobs $(JOBS) --output runs/kill-matrix.md

bench: $(package) $(tools)
	$(python) -m benchmarks

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .benchmarks docs/gallery docs/api/generated
