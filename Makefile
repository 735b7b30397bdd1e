# `make` lists the targets. All targets use .venv, which scripts/setup creates.
SHELL := /bin/bash
PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo real calculator mixture test unit local check generate golden lock bench bench-forecast gpu clean
.PHONY: prometheus-test panels record cluster-test cluster-up cluster-down cluster-repeat images image-cuda e2e
.PHONY: models bench-cluster bench-apply bench-takeover kill-matrix

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 24

needs-%: # checks the machine's requirements before anything that takes minutes: needs-PART-PART
	@scripts/preflight $(subst -, ,$*)

setup: needs-setup ## create .venv; the first time takes minutes and 7 GB, afterwards a second
	@scripts/setup

demo: needs-setup-engines setup ## train a small model, forecast its ceiling, write a report: about 15 minutes
	@.venv/bin/scalerl run examples/quickstart.yaml
	@echo "The report: $$(ls -t runs/*/report.html | head -n 1)"

real: needs-setup-engines setup ## train a real pre-trained chat model of 135M parameters: half an hour on two cores
	@PYTHONPATH=tests/support $(PYTHON) bench/runtime/real_model.py $(ARGS)

calculator: needs-setup-engines setup ## train a small model with a calculator and without it: half an hour on two cores
	@$(PYTHON) bench/runtime/calculator.py $(ARGS)

mixture: needs-setup-engines setup ## train a small model on sums and on functions to write, two curves: half an hour on two cores
	@$(PYTHON) bench/runtime/mixture.py $(ARGS)

test: needs-setup-prometheus-cluster-engines check ## run all tests that need no GPU
	@scripts/beside 'prometheus-test cluster-test' local

unit: setup ## run the unit tests: no process, no network
	@$(PYTHON) -m pytest -q tests/unit tests/test_layout.py tests/test_docs.py

local: needs-setup-engines setup ## test with the real vLLM, DeepSpeed and Ray on this machine
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25 -W default tests/local # warnings about resources that vLLM leaves open appear at the end, outside any test

check: setup ## check format, lint, types, import rules, generated files; run the unit tests
	@scripts/check

generate: setup ## write the CRD and the reference pages of docs/ from the code
	@scripts/generate

models: setup ## measure every family of models with trainer and engine, and write the table of docs/models.md
	@SCALERL_ALL_MODELS=1 $(PYTHON) -m pytest -q tests/local/test_models.py tests/local/test_engine_rows.py --rewrite-golden

prometheus-test: needs-setup-prometheus setup ## test queries, dashboards and alerts with a real Prometheus (Debian: prometheus)
	@$(PYTHON) -m pytest -q tests/prometheus

panels: setup ## draw the dashboards of the recorded run into docs/images; tests/prometheus/panels.py --help for another server's
	@$(PYTHON) tests/prometheus/panels.py

record: setup ## record a real run's metrics anew for those two: half an hour, on cores that do nothing else
	@$(TESTBED) programs
	@$(PYTHON) tests/cluster/record_metrics.py tests/prometheus/recorded/run

# NODE=1: a real node that runs pods (root). Otherwise kwok simulates the nodes.
TESTBED := $(PYTHON) tests/cluster/testbed
WITH := $(if $(NODE),--node)

cluster-test: needs-setup-cluster setup ## test with a real API server: KUBECONFIG's, or one started here (compiled once: 15 minutes)
	@[ -n "$$KUBECONFIG" ] || $(TESTBED) programs
	@$(PYTHON) -m pytest -q tests/cluster

cluster-up: setup ## start a local Kubernetes and print how to use it; NODE=1: with a node (root)
	@$(TESTBED) up $(WITH)

cluster-down: setup ## stop it and remove all traces
	@$(TESTBED) down

cluster-repeat: setup ## start and stop it TIMES (20) times and check for leftovers; NODE=1: with a node
	@$(TESTBED) repeat $(WITH) $(or $(TIMES),20)

images: ## build both images with buildah (root); docs/images.md
	@scripts/images

image-cuda: ## build the runtime's image for NVIDIA GPUs and check it without one (root): 10 minutes, 36 GB of disk meanwhile
	@ACCELERATOR=cuda scripts/images runtime
	@scripts/check-cuda-image

e2e: $(if $(KUBECONFIG),,needs-setup-cluster-engines-node) setup ## test on a real node: images, helm install, pods that train (root, or KUBECONFIG): 15 minutes
	@$(PYTHON) -m pytest -x -s tests/e2e

bench-cluster: setup ## measure 1,000 runs of ten simulated pods; writes docs/scale.md; 30 minutes on a quiet machine
	@$(TESTBED) programs
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/bench_cluster.py --write $(ARGS)

bench-apply: needs-setup-cluster-engines-node setup ## measure the time from kubectl apply to the first step (root); writes docs/scale.md
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/bench_apply.py --write $(ARGS)

bench-takeover: setup ## kill the leading operator ten times under load; writes docs/scale.md
	@$(TESTBED) programs
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/bench_takeover.py --write $(ARGS)

kill-matrix: setup ## kill each component in each phase of a run; writes docs/kill-matrix.md
	@$(TESTBED) programs
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/kill_matrix.py --write $(ARGS)

golden: setup ## rewrite the golden files of the tests; review the diff
	@$(PYTHON) -m pytest -q tests/unit --rewrite-golden

lock: ## lock the newest versions that requirements/*.in allow, with hashes
	@scripts/lock

bench: setup ## run the benchmarks of docs/benchmarks.md
	@scripts/bench

bench-forecast: setup ## evaluate the forecaster; writes the tables and figures of docs/forecast.md
	@OMP_NUM_THREADS=1 $(PYTHON) bench/forecast/bench_forecast.py

gpu: setup ## run the tests that need a CUDA device; skipped without one
	@$(PYTHON) -m pytest -m gpu -rs tests/gpu

clean: ## remove caches of the tools; keeps runs/ and .venv
	@rm -rf dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
