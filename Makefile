# `make demo` and `make test` set up what they need in .venv on first use; Python and make suffice.
PYTHON ?= python3
BIN := .venv/bin
# Without compiled modules, which some machines' settings forbid, importing Prefect takes several times as long.
unexport PYTHONDONTWRITEBYTECODE
READY := .venv/.ready
# An S3 server for the tests. What it needs would clash with what we need: it has an environment of its own.
LOCALSTACK := .venv-localstack/.ready
# Dask and Ray, which are large: an environment of their own with this package, for tests/engines.
ENGINES := .venv-engines/.ready
# Files of tests beside one another, each process with a Prefect server of its own: they wait a lot.
BESIDE := -n 3 --dist loadfile
BESIDE_SLOW := -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo ui test coverage test-server test-engines test-browser screenshots fault-matrix bench-slots bench-copy bench-scale bench-plan import-cost check format lock clean
.DEFAULT_GOAL := help

help: ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# --no-compile: Python compiles a module when it is first used; all of them would take long.
# --no-deps: the lock file has all of them, and pip 23 looks for `coverage[toml]`, with its extra, beyond it: it
# takes the newest there is, and refuses that for having no hash.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --require-hashes --no-deps --no-compile -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $(READY)

$(LOCALSTACK): requirements-localstack.lock
	$(PYTHON) -m venv .venv-localstack
	.venv-localstack/bin/python -m pip install -q --require-hashes --no-deps --no-compile \
	  -r requirements-localstack.lock
	touch $(LOCALSTACK)

$(ENGINES): requirements-engines.lock pyproject.toml
	$(PYTHON) -m venv .venv-engines
	.venv-engines/bin/python -m pip install -q --require-hashes --no-deps --no-compile \
	  -r requirements-engines.lock
	.venv-engines/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $(ENGINES)

fault-matrix: $(READY) ## what each fault does to credits, requests and pictures, as a table
	PYTHONPATH=tests PREFECT_LOGGING_LEVEL=CRITICAL $(BIN)/python tests/helpers/fault_matrix.py

demo: $(READY) ## the main job for real, against a local API server and a local S3 server
	$(BIN)/python flows/demo.py

ui: $(READY) ## Prefect's UI with everything deployed, against the local servers; prints where to click
	$(BIN)/python deployments/ui.py

test: $(READY) ## the tests that need nothing but Python
	$(BIN)/python -m pytest -m "not server and not browser and not engines" $(BESIDE)

coverage: $(READY) ## the same, and which lines they reach; fails below 95 %
	$(BIN)/python -m pytest -m "not server and not browser and not engines" $(BESIDE) --cov --cov-report=term

test-server: $(READY) $(LOCALSTACK) ## the slow tests: deployments, browser, the README, kills, the fault matrix
	$(BIN)/python -m pytest -m "server or browser" $(BESIDE_SLOW)

test-engines: $(ENGINES) ## the main job on clusters of Dask and Ray, with killed workers
	.venv-engines/bin/python -m pytest -m engines tests/engines

test-browser: $(READY) ## what people see: Prefect's UI and the gallery page in Chromium, which must be installed
	$(BIN)/python -m pytest -m browser

screenshots: $(READY) ## the docs' pictures of Prefect's UI, made by the test that clicks through it
	SCREENSHOTS=docs/pictures $(BIN)/python -m pytest -m browser tests/live/test_browser.py tests/live/test_approved.py \
	  tests/live/test_review.py

bench-slots: $(READY) ## how busy the account's slots are kept, ours and others, side by side (an hour)
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/slots/bench_slots.py $(ARGS)

bench-copy: $(READY) ## how fast images are copied, ours and others, side by side (20 minutes)
	PYTHONPATH=benchmarks:tests/helpers $(BIN)/python benchmarks/copies/bench_copy.py $(ARGS)

bench-scale: $(ENGINES) ## what a prompt costs beyond the API: CPU, memory, requests, side by side (an hour)
	PYTHONPATH=benchmarks:benchmarks/slots:tests/helpers .venv-engines/bin/python benchmarks/scale/bench_scale.py $(ARGS)

bench-plan: $(READY) ## what a plan costs in CPU and memory, against reading the list (minutes)
	PYTHONPATH=benchmarks:benchmarks/plan:benchmarks/slots $(BIN)/python benchmarks/plan/bench_plan.py $(ARGS)

import-cost: $(READY) ## what importing the package costs, relative to importing Prefect
	$(BIN)/python tests/helpers/import_cost.py

check: $(READY) ## lint, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## put the code into its form, and draw docs/architecture.md anew
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/draw_architecture.py
	$(BIN)/python docs/draw_manifest.py

LOCK := uv pip compile --universal --generate-hashes --no-header --python-version 3.11 --upgrade -q
lock: ## make the lock files anew (needs uv)
	$(LOCK) --extra dev pyproject.toml -o requirements.lock
	$(LOCK) --exclude-newer 2026-03-01 requirements-localstack.in -o requirements-localstack.lock
	$(LOCK) --extra dask --extra ray --extra demo pyproject.toml requirements-engines.in \
	  -o requirements-engines.lock

clean: ## remove what the other targets made
	rm -rf .venv .venv-localstack .venv-engines .demo .ui .coverage* .mypy_cache .ruff_cache .pytest_cache
