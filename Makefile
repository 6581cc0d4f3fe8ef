# Every target builds the environment in .venv once and reuses it.
SHELL := /bin/bash
PYTHON ?= python3
# cpu, gpu-cu12 or gpu-cu13: of the CUDA that torch is built with
EXTRA ?= cpu
VENV := .venv
RUN := $(VENV)/bin/python
TEST_PROCESSES ?= 2
export DS_ACCELERATOR ?= cpu
export OMP_NUM_THREADS ?= 1

.PHONY: help setup quickstart finetune test lint style kernel-check gpu-check gpu-rehearsal mutants nodes soak clean

help:
	@grep -E '^## ' $(MAKEFILE_LIST) | sed 's/^## /make /'

$(VENV)/.ready: setup.py pyproject.toml requirements/constraints.txt requirements/references.txt
	@echo "Setting up the environment in $(VENV) (about 3 GB, one to three minutes; only once)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c requirements/constraints.txt torch==2.13.0 setuptools wheel ninja
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c requirements/constraints.txt --no-build-isolation -e '.[$(EXTRA),dev]'
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/references.txt
	@touch $@

## setup         the environment in .venv, nothing else
setup: $(VENV)/.ready

## quickstart    from a fresh clone to a model trained on real data, with its report (about 8 minutes on 2 cores)
quickstart: $(VENV)/.ready
	@$(RUN) launchers/quickstart.py

## finetune      fine-tune the quickstart's model for questions about shapes (easy-VQA), with the accuracy on held-out images
finetune: quickstart
	@test -d runs/data/package/easy_vqa || $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps \
		--require-hashes --target runs/data/package -r requirements/easy_vqa.txt
	@$(RUN) -m sclds prepare easy_vqa --root runs/data/package --out runs/data/easy_vqa
	@rm -rf runs/quickstart-weights
	@$(RUN) -m sclds convert run runs/quickstart runs/quickstart-weights
	@$(VENV)/bin/deepspeed --num_gpus 2 launchers/finetune.py --config configs/finetune/easy_vqa.yaml \
		model.init_from=runs/quickstart-weights

# nothing but tests needs these; where they cannot be fetched, those tests are skipped and say so
$(VENV)/.trackers: requirements/trackers.txt | $(VENV)/.ready
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/trackers -r $< && touch $@ \
		|| echo "The libraries of trackers could not be installed: tests of the real ones are skipped"

## test          lint, types, import rules and every test that this machine can run
test: lint $(VENV)/.trackers
	@$(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

## lint          check style, types and import rules; change nothing
lint: $(VENV)/.ready
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

## style         rewrite files to the style that lint checks
style: $(VENV)/.ready
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

## kernel-check  compile every kernel for sm_80 and sm_90 without a GPU and hold it against its budget
kernel-check: $(VENV)/.ready
	@$(RUN) -m scl_kernels.check

## gpu-check     what needs a GPU: kernel tests, benchmarks, one step with and without each kernel
gpu-check:
	@PYTHONPATH=kernels $(PYTHON) kernels/benchmarks/gpu_check.py

## gpu-rehearsal the GPU check on the CPU, small: walks through every stage, proves no figure
gpu-rehearsal: $(VENV)/.ready
	@PYTHONPATH=kernels $(RUN) kernels/benchmarks/gpu_check.py --rehearse --output runs/gpu-rehearsal

## mutants       break the code on purpose, one fault at a time, and list the faults that no test notices (hours on 2 cores)
mutants: $(VENV)/.ready
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c requirements/constraints.txt mutmut==3.8.1
	@$(VENV)/bin/mutmut run; $(VENV)/bin/mutmut results
	@rm -rf build/mutants && mkdir -p build/mutants && git archive HEAD | tar x -C build/mutants
	@cd build/mutants && mv kernels/scl_kernels . && sed -i '/^\[tool.mutmut\]/,$$d' pyproject.toml && cat kernels/mutmut.toml >> pyproject.toml
	@cd build/mutants && $(CURDIR)/$(VENV)/bin/mutmut run; $(CURDIR)/$(VENV)/bin/mutmut results

## nodes         two and four nodes with networks and ssh servers of their own, at every ZeRO stage (needs root)
nodes: $(VENV)/.ready
	@SCLDS_ALL_NODES=1 $(RUN) -m pytest -p no:xdist --timeout 3600 tests/train/test_nodes.py

## soak          random faults on small real runs, each of which has to end as if nothing had happened (an hour)
soak: $(VENV)/.ready
	@$(RUN) -m tests.train.soak

clean:
	rm -rf $(VENV) runs build *.egg-info
