# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
DATA ?= digits
# Which torch to install where none satisfies the range: the package, and the index to take it from if need be.
# Without a GPU the CPU build, which is a tenth of the size; TORCH_INDEX= takes the default index instead.
TORCH ?= torch>=2.10
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

python := $(VENV)/bin/python
installed := $(VENV)/.installed
sources := CMakeLists.txt pyproject.toml $(shell find csrc -type f)

.PHONY: help demo test lint bench clean

help:
	@echo "make demo [DATA=fashion-mnist]   train AM-Adam beside Adam and write runs/"
	@echo "make test                        lint, type-check and test"
	@echo "make bench                       micro and macro benchmarks, into runs/benchmarks/"
	@echo "make clean                       remove what the others made"

$(python):
	$(PYTHON) -m venv $(VENV)
	$(python) -m pip install --quiet --upgrade pip

# Editable, so that the package in this folder and the installed one are the same.
$(installed): $(python) $(sources)
	@$(python) .ci/install_torch.py "$(TORCH)" "$(TORCH_INDEX)"
	$(python) -m pip install --quiet --editable ".[demo,test]"
	@touch $@

demo: $(installed)
	$(python) -m altmin_ext train --data $(DATA) --compare adam --output runs/$(DATA)

lint: $(installed)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')

# One thread: with several, tests that run beside other work would wait for each other's OpenMP threads.
test: lint
	OMP_NUM_THREADS=1 $(python) -m pytest

bench: $(installed)
	$(python) -m benchmarks

clean:
	rm -rf $(VENV) build dist runs
