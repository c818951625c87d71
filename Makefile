# Needs Python 3.11 to 3.13 and make. Every target makes the environment that it
# runs in, when that is missing or older than what defines it.
PYTHON ?= python3
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
TORCH = torch==2.13.0
EXTRAS = demo,dev

# $(call create,FOLDER,CONSTRAINTS,EXTRAS). Torch first and by its exact version, so that
# pip takes the build that this machine's index offers for it and nothing replaces it later.
define create
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit("expected Python 3.11 to 3.13, found %d.%d; run: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Installing into $(1): the first time takes a few minutes"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python $(PIP_INSTALL) --constraint $(2) $(TORCH)
	@$(1)/bin/python $(PIP_INSTALL) --constraint $(2) --editable ".[$(3)]"
	@touch $(1)/.stamp
endef

.DEFAULT_GOAL := help
.PHONY: help demo cluster-demo test chaos soak hostile lint format screenshots figures clean distclean
.PHONY: bench bench-engine bench-scale bench-peers bench-retrieval bench-lsh gpu
.PHONY: bench-accuracy bench-search bench-featurizing bench-checkpointing bench-planning bench-prepare bench-serving bench-scaling

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target text; \
		do printf '%-24s %s\n' "$$target" "$$text"; done

demo: .venv/.stamp ## Train on the documentation of the installed packages, then ask it questions
	@.venv/bin/python -m examples.api_search

cluster-demo: .venv/.stamp ## A cluster of three: submit, lose a machine, get another, finish, serve
	@.venv/bin/python -m examples.cluster_demo

test: .venv/.stamp ## Run all tests, in two processes
	@.venv/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

chaos: .venv/.stamp ## Inject faults for real into runs on a cluster, and write the table of them
	@.venv/bin/python -m pytest chaos

soak: .venv/.stamp ## Kill a process of 32 worlds every few seconds until all are done
	@.venv/bin/python -m chaos.soak

hostile: .venv/.stamp ## Put damaged and hostile files in the place of every file of a run
	@.venv/bin/python -m chaos.hostile

lint: .venv/.stamp ## Check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: .venv/.stamp ## Bring the code into shape, where that can be done by program
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench-accuracy: .venv/.stamp .venv-bench/.stamp ## Measure accuracy beside peers; needs MANYWORLDS_DATA; resumable
	@.venv/bin/python -m benchmarks.accuracy --peers-python .venv-bench/bin/python

bench-search: .venv/.stamp ## Search the defaults, one setting at a time; needs MANYWORLDS_DATA; resumable
	@.venv/bin/python -m benchmarks.search

bench: ## Measure engine, scale and peers, one after the other; QUICK=1 shows that they run
	@$(MAKE) --no-print-directory -j 1 bench-engine bench-scale bench-peers

bench-engine: .venv/.stamp ## Time a training step beside its floor and plain Torch; needs MANYWORLDS_DATA
	@.venv/bin/python -m benchmarks.engine

gpu: ## Check and time the kernels on a GPU, with the Python that has Torch: make gpu PYTHON=...
	@$(PYTHON) -m benchmarks.gpu

bench-scale: .venv/.stamp ## Measure what worlds cost beside one network as K grows; resumable
	@.venv/bin/python -m benchmarks.scale

bench-peers: .venv/.stamp .venv-bench/.stamp ## Measure cost and accuracy beside peers; needs MANYWORLDS_DATA; resumable
	@.venv/bin/python -m benchmarks.peers --peers-python .venv-bench/bin/python

bench-retrieval: .venv/.stamp ## Time the best of up to 50 million classes; trains what it asks, hours; resumable
	@.venv/bin/python -m benchmarks.retrieval

bench-lsh: .venv/.stamp ## Measure hashing inside a world; hours, resumable; needs MANYWORLDS_DATA
	@.venv/bin/python -m benchmarks.lsh

bench-planning: .venv/.stamp ## Hold a plan against what then happens; ten minutes; needs MANYWORLDS_DATA
	@.venv/bin/python -m benchmarks.planning

bench-featurizing: .venv/.stamp ## Time text to features beside scikit-learn; needs MANYWORLDS_DATA
	@.venv/bin/python -m benchmarks.featurizing

bench-prepare: .venv/.stamp ## Measure quality, pace and memory of prepare; resumable; needs MANYWORLDS_DATA
	@.venv/bin/python -m benchmarks.prepare

bench-scaling: .venv/.stamp ## Time worlds on more slots, and the driver of a thousand; 20 minutes
	@.venv/bin/python -m benchmarks.scaling

bench-serving: .venv/.stamp ## Load the service that answers for the demo's run; seven minutes; needs wrk
	@.venv/bin/python -m benchmarks.serving

bench-checkpointing: .venv/.stamp ## Time what checkpoints cost a step, and what they save
	@.venv/bin/python -m benchmarks.checkpointing

screenshots: .venv/.stamp ## Train, and take the pictures of the README in Chromium; five minutes
	@.venv/bin/python -m benchmarks.screenshots

figures: .venv/.stamp ## Draw the figures of docs/ from code and measured results
	@.venv/bin/python -m benchmarks.figures

clean: ## Remove builds and caches
	@rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environments too
	@rm -rf .venv .venv-bench

.venv/.stamp: pyproject.toml constraints.txt
	$(call create,.venv,constraints.txt,$(EXTRAS))

.venv-bench/.stamp: pyproject.toml benchmarks/constraints.txt
	$(call create,.venv-bench,benchmarks/constraints.txt,bench)
