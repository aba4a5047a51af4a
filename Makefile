# Everything a person or CI runs. Each target does its own set-up; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PACKAGES := forecache dagster_project assets jobs resources
PYTEST ?= $(BIN)/pytest
PYTEST_ARGS ?=
PYTHON ?= python3.12

.PHONY: test-gpu
.PHONY: help setup setup-s3 setup-demo demo demo-s3 demo-shop demo-stream dev test services lint types imports unit integration faults e2e format \
        bench bench-store bench-scoring bench-training bench-recommend bench-features bench-realtime bench-operate bench-stream bench-demo bench-history bench-night bench-plan release cluster prove-s3 prove-store prove-cluster figures notebook settings-doc metrics-doc images kubernetes docs clean clean-state distclean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install uv, the locked environment, Java if missing, the Spark jars (again: no cost, no network)
	@bash scripts/setup.sh

setup-demo: ## What `make demo` needs: `make setup` without the tools of development, and without CUDA where there is no GPU
	@bash scripts/setup.sh --demo

demo: setup-demo ## Run the main job from landing files to a served answer, and print what happened
	@$(BIN)/python -m dagster_project.landing
	@$(BIN)/forecache demo $(ARGS)

setup-s3: ## `make setup`, and what Spark needs for a lake on S3
	@bash scripts/setup.sh --s3

demo-s3: setup-s3 ## The same with landing zone, lake, checkpoints and store on an S3 server (MinIO, built here)
	@bash scripts/install_test_services.sh minio
	@$(BIN)/python -m dagster_project.landing
	@$(BIN)/forecache demo --s3 $(ARGS)

demo-shop: setup ## Recommend products to households and rank their searches, from a grocery's year of purchases (examples/shop)
	@bash scripts/demo_shop.sh $(ARGS)

demo-stream: setup ## Score a day of card payments in a stream at 1,000 times its speed, through Kafka (examples/cards)
	@bash scripts/install_test_services.sh kafka
	@bash scripts/demo_stream.sh $(ARGS)

dev: setup ## Open the Dagster UI on the same state
	@bash scripts/dev.sh

test: setup ## All that CI checks: lint, formatting, types, import contracts, every test
	@$(MAKE) lint types imports
	@$(MAKE) services
	@$(PYTEST) tests -n 3 --dist loadfile --no-loadscope-reorder --only-allowed-skips $(PYTEST_ARGS)

services: setup-s3 ## Install the real services that tests run against (Redis, an object store, Kafka, PostgreSQL, nginx, BentoML, a browser, ...)
	@bash scripts/install_test_services.sh

lint: setup ## Ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## Mypy, strict on forecache/
	@$(BIN)/mypy

imports: setup ## The import contracts of the layers
	@$(BIN)/lint-imports --no-cache

unit: setup ## The tests that need milliseconds
	@$(PYTEST) tests/unit $(PYTEST_ARGS)

integration: setup services ## The tests with real Spark, Delta, MLflow, LMDB, Redis
	@$(PYTEST) tests/integration $(PYTEST_ARGS)

faults: setup services ## The tests that kill, fill and lock
	@$(PYTEST) tests/faults $(PYTEST_ARGS)

e2e: setup services ## The tests that run the main job whole
	@$(PYTEST) tests/e2e $(PYTEST_ARGS)

test-gpu: ## Check training on a machine with GPUs: PYTHON with torch and a few wheels, nothing else
	@PYTHON=$${PYTHON:-$(PYTHON)} bash scripts/test_gpu.sh

release: setup ## Build wheel, sdist, SBOM and SHA256SUMS into dist/, checked; uploads nothing
	@$(BIN)/python scripts/release.py $(ARGS)

images: ## Build the images of the Helm chart with podman or docker; REGISTRY=, TAG=, TORCH=cuda, ARGS="FOLDER PACKAGE" of a project
	@REGISTRY=$(REGISTRY) TAG=$(TAG) TORCH=$(TORCH) EXTRAS=$(EXTRAS) BASE=$(BASE) bash scripts/images.sh $(ARGS)

cluster: setup-s3 ## Start what a company has, on this machine: servers, Dagster, readers, machines with empty disks (ARGS="--project cards")
	@bash scripts/install_test_services.sh minio postgres kafka balancers
	@$(BIN)/python benchmarks/cluster.py start $(ARGS)

kubernetes: setup-s3 ## Build the images, start a real Kubernetes of one node here, install the chart, use it (root; 20 GB, 40 minutes the first time)
	@bash scripts/install_test_services.sh minio postgres kafka helm
	@$(BIN)/python scripts/kubernetes/prove.py $(ARGS)

docs: setup ## Build the documentation site into .site; ARGS=--serve shows it at http://127.0.0.1:8000
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(if $(findstring --serve,$(ARGS)),serve,build --strict --quiet)

format: setup ## Let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## Measure what every release publishes, in 75 minutes; ARGS=--others: commands of what is measured less often
	@bash scripts/install_test_services.sh redis wrk kafka
	@$(BIN)/python benchmarks/hour.py $(ARGS)
	@$(BIN)/python benchmarks/figures.py

bench-store: setup ## The store and the reader against their peers
	@bash scripts/install_test_services.sh redis wrk
	@$(BIN)/python benchmarks/store.py $(ARGS)

bench-scoring: setup ## The Spark UDF and the engine `arrow` against their peers
	@$(BIN)/python benchmarks/scoring.py $(ARGS)

bench-training: setup ## Training: throughput, recovery after kills
	@$(BIN)/python benchmarks/training.py $(ARGS)

bench-recommend: setup ## Recommenders: how good their lists are, and how long they take
	@$(BIN)/python benchmarks/recommend.py $(ARGS)

bench-features: setup ## Nights of windowed features: day tiles beside two other ways, a join in time beside Feast
	@$(BIN)/python benchmarks/features.py $(ARGS)

bench-realtime: setup ## Answers of real-time models beside other servers, under an open loop and under faults
	@bash scripts/install_test_services.sh redis wrk balancers
	@$(BIN)/python benchmarks/realtime.py $(ARGS)

bench-operate: setup ## The request log's cost, parity of a million answers, and how soon a rollout stops
	@bash scripts/install_test_services.sh wrk
	@$(BIN)/python benchmarks/operate.py $(ARGS)

bench-stream: setup ## From an event to its answer, and streams through kills: nothing lost, nothing twice
	@bash scripts/install_test_services.sh kafka wrk
	@$(BIN)/python benchmarks/stream.py $(ARGS)

bench-demo: setup ## The main job's time and memory, and the models' figures
	@$(BIN)/python benchmarks/demo.py $(ARGS)

bench-night: setup ## The main job's night at ten million keys, beside PySpark and DuckDB with LightGBM by hand
	@$(BIN)/python benchmarks/night.py $(ARGS)

bench-plan: setup ## How near the estimates of `forecache plan` come to what runs take: the demo, the shop, thirty pipelines
	@bash scripts/install_shop_data.sh
	@$(BIN)/python benchmarks/plan.py $(ARGS)

bench-history: setup ## What three years of nightly history cost a run with nothing to do, and other commands
	@$(BIN)/python benchmarks/history.py $(ARGS)

prove-backfill: setup services ## 30 dates backfilled by 3 runs at once on PostgreSQL, with servers restarted and a run killed
	@BACKFILL_DATES=30 $(PYTEST) tests/e2e/test_dagster_backfill.py $(PYTEST_ARGS)

prove-s3: setup-s3 ## 1,000 commits at once on a failing S3 server: none lost, none twice (half an hour)
	@bash scripts/install_test_services.sh minio
	@$(BIN)/python benchmarks/s3_commits.py $(ARGS)

prove-store: setup ## 8 publishers and 4 rollbacks at once on a failing S3 server, 200 rounds: one history (half an hour)
	@bash scripts/install_test_services.sh minio
	@$(BIN)/python benchmarks/store_races.py $(ARGS)

prove-cluster: setup-s3 ## Ten days on machines that are killed 100 times: nothing lost, doubled or stuck (40 minutes; ARGS=--short: 8)
	@bash scripts/install_test_services.sh minio postgres kafka balancers
	@$(BIN)/python benchmarks/cluster_proof.py $(ARGS)

figures: setup ## Write the figures of README and docs, and benchmarks/results/tables.md, from the results
	@$(BIN)/python benchmarks/figures.py

settings-doc: setup ## Print every setting as the table in docs/reference/settings.md
	@$(BIN)/forecache settings --markdown

notebook: setup ## Execute examples/notebook.py in a new project, and write docs/tutorials/notebook.md with its outputs
	@$(BIN)/python scripts/notebook.py docs/tutorials/notebook.md

metrics-doc: setup ## Print every metric as the tables in docs/reference/metrics.md
	@$(BIN)/forecache metrics --glossary

clean: ## Remove caches (the lake, the store and the models under .forecache stay)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis spark-warehouse
	@find $(PACKAGES) tests scripts benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

clean-state: ## Remove .forecache: landing files, lake, models, store, runs
	@rm -rf .forecache

distclean: clean ## Remove the environment and the jars too
	@rm -rf .venv .tools
