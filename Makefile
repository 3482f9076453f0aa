# Everything starts here, for people and for CI alike. `make` alone lists the targets.
# Needed on the machine: make, bash and Python 3.11. Nothing is installed outside .venv.

EXTRA ?= cpu          # cpu, or gpu on a machine with an NVIDIA GPU
PYTHON ?=             # the Python 3.11 to build .venv with; found by itself when empty
KEEP ?=               # KEEP=1: `make demo` leaves its server running; EXTRA=gpu: engine, distil and training use the GPU
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

EXTRA := $(strip $(EXTRA))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRA)
PIP := $(BIN)/python -m pip --disable-pip-version-check

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install lint test test-ray test-rest demo bench distil readme lock clean

ifeq ($(filter $(EXTRA),cpu gpu),)
$(error EXTRA=$(EXTRA) is unknown: it is cpu or gpu)
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile
	@echo "Variables: EXTRA=cpu|gpu, PYTHON=/path/to/python3.11, KEEP=1 (demo)"

install: $(STAMP) ## build .venv for EXTRA; a second run does nothing

lint: $(STAMP) ## ruff, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy models pipelines serve

test: $(STAMP) ## the whole test suite: tests with Ray beside those without
	@$(MAKE) --jobs 2 test-ray test-rest

test-ray: $(STAMP)
	$(BIN)/python -m pytest -m ray

test-rest: $(STAMP)
	$(BIN)/python -m pytest -m "not ray"

demo: $(STAMP) ## the whole system over the simulated platform; KEEP=1 leaves it serving
	$(BIN)/python -m pipelines demo --config pipelines/configs/demo.yaml $(if $(filter 1,$(KEEP)),--set demo.keep=true) $(demo-$(EXTRA))

bench: $(STAMP) ## the benchmarks
	$(BIN)/python -m tests.bench

distil: $(STAMP) ## train the small Qwen-VL of the demo again
	$(BIN)/python -m pipelines world --config pipelines/configs/distil.yaml
	$(BIN)/python -m pipelines distil --config pipelines/configs/distil.yaml

readme: $(STAMP) ## put the tables of docs/studies into the pages that quote them
	$(BIN)/python -m docs.studies.quote

lock: $(STAMP) ## resolve requirements/cpu.txt and gpu.txt anew from pyproject.toml
	$(BIN)/python requirements/lock.py

clean: ## remove .venv and caches; runs/, where jobs write, stays
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Jobs follow one another, so one GPU is enough: one engine, then one worker of training at a time.
demo-gpu = --set anchors.engine.use_gpu=true --set anchors.engine.dtype=bfloat16 --set distil.scaling.use_gpu=true \
  --set train.scaling.use_gpu=true --set train.scaling.num_workers=1

# ---- How .venv is made ----------------------------------------------------------------------------------------------

# A .venv of the other EXTRA is built anew (pip would keep its torch), and so is one whose making was interrupted.
$(STAMP): pyproject.toml requirements/$(EXTRA).txt requirements/torchvision_ops.py
	@if [ -n "$(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*))" ] || ! $(PIP) --version >/dev/null 2>&1; then \
	  rm -rf $(VENV); $(make-venv); \
	fi
	@echo "installing the packages of EXTRA=$(EXTRA) in $(VENV): minutes the first time, and nothing again until they change"
	@$(install-$(EXTRA))
	@touch $@

define make-venv
for candidate in $(or $(strip $(PYTHON)),python3.11 python3 python); do \
  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
done; \
if [ -z "$${found:-}" ]; then \
  echo "Python 3.11 is needed; tried and found to be another version, or none: $(or $(strip $(PYTHON)),python3.11 python3 python)." >&2; \
  echo "Install it (with its venv module), or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; \
fi; \
"$$found" -m venv $(VENV)
endef

# The CPU build of torch comes from where pip already looks, if it is there, else from PyTorch's index, where torchvision
# has a CPU build too. The exact local version never matches PyPI's CUDA build. --no-deps: see requirements/lock.py.
define install-cpu
torch=$$(grep '^torch==' requirements/cpu.txt); vision=$$(grep '^torchvision==' requirements/cpu.txt); \
if ! $(PIP) install -qq --no-deps "$$torch" 2>/dev/null; then \
  echo "pip's own configuration has no $$torch: taking it from $(TORCH_INDEX)"; \
  $(PIP) install -qq --no-deps --index-url "$(TORCH_INDEX)" "$$torch" "$$vision+cpu" || { \
    echo "The CPU build of torch could not be had. Either make $(TORCH_INDEX) reachable (or a mirror of it:" >&2; \
    echo "make TORCH_INDEX=URL ...), or put its wheel in a folder and set PIP_FIND_LINKS to that folder." >&2; exit 1; }; \
fi; \
$(PIP) install -qq --no-deps --requirement requirements/cpu.txt; \
$(BIN)/python requirements/torchvision_ops.py
endef

# Resolved, but no machine with both a GPU and a network has installed it yet: the CUDA libraries are several GB.
define install-gpu
$(PIP) install -qq --no-deps --requirement requirements/gpu.txt; \
$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.version.cuda else "EXTRA=gpu got torch " + torch.__version__ \
  + ", a CPU build: take it out of where pip looks (pip config list), then: make clean install EXTRA=gpu")'
endef
