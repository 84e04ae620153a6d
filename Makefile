# Each target sets up $(VENV) by itself. The stamp files inside it make the second time fast.
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
PYTEST_WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' constraints.txt)
UNSLOTH := $(shell grep -E '^unsloth(_zoo)?==' constraints.txt)
# llama.cpp compiled for AVX512-FP16 (Intel since Sapphire Rapids) attends to heads of 64 without vector instructions, and
# its AMX kernels end a process that also runs PyTorch's: both are left out (docs/performance.md).
CPUINFO ?= /proc/cpuinfo
INSTRUCTIONS := AVX AVX2 FMA F16C BMI2 SSE42 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16
ifneq ($(shell grep -sow avx512_fp16 $(CPUINFO) | head -n 1),)
export CMAKE_ARGS ?= -DGGML_NATIVE=OFF $(INSTRUCTIONS:%=-DGGML_%=ON)
endif
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint docs clean

help:
	@echo 'make quickstart  install, then train and evaluate a small judge on this machine: judge.gguf'
	@echo 'make test        install, then ruff, mypy and pytest (PYTEST_ARGS="-k doctor" picks tests)'
	@echo 'make lint        install, then ruff and mypy only'
	@echo 'make docs        install, then build the documentation into site/ and check its links'
	@echo 'make clean       remove $(VENV), caches and build output; runs/ stays'
	@echo
	@echo 'PYTHON=python3.12 picks the interpreter (3.11 or newer), VENV=path another environment.'

quickstart: $(VENV)/.stamp-quickstart
	$(BIN)/sre quickstart

test: lint
	@echo '== pytest: the tests'
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	@echo '== ruff: style and likely mistakes'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo '== mypy: types'
	$(BIN)/mypy

docs: $(VENV)/.stamp-dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis unsloth_compiled_cache
	find recipe tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@echo '== setting up $(VENV)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch is asked for by name so that pip takes a CPU build where one of that version is at hand.
# Unsloth goes in without its dependencies: they are GPU-only, and what it needs on CPU is here already.
$(VENV)/.stamp-quickstart: pyproject.toml constraints.txt | $(VENV)/.stamp-venv
	@echo '== installing what training and judging need'
	@echo '   llama-cpp-python comes as source: compiling it takes 5 to 7 minutes on two cores, and is silent'
	@echo '   for most of them. It happens once; pip keeps the result for later installations.'
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	  echo '   notice: no C++ compiler was found; if the installation fails, install one (g++ or clang++) first.'
	$(PIP) install -c constraints.txt '$(TORCH)' -e '.[quickstart]'
	@echo '== installing Unsloth, which makes training faster'
	$(PIP) install --no-deps -c constraints.txt $(UNSLOTH) || \
	  echo 'notice: Unsloth could not be installed. Training uses plain TRL and PEFT instead, which is slower.'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-quickstart
	@echo '== installing what the tests need'
	$(PIP) install -c constraints.txt '$(TORCH)' -e '.[quickstart,serve,dev]'
	@touch $@
