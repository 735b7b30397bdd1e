# `make` lists the targets. Everything runs in .venv, which scripts/setup makes.
SHELL := /bin/bash
PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test unit local check generate golden lock bench bench-forecast gpu clean
.PHONY: prometheus-test panels record cluster-test cluster-up cluster-down cluster-repeat images e2e
.PHONY: bench-cluster bench-apply bench-takeover kill-matrix

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 24

needs-%: # what the machine must have, before anything that takes minutes: needs-PART-PART
	@scripts/preflight $(subst -, ,$*)

setup: needs-setup ## make .venv; the first time takes minutes and 7 GB, afterwards a second
	@scripts/setup

demo: needs-setup-engines setup ## train a small model here, forecast its ceiling, write a report: about 15 minutes
	@.venv/bin/scalerl run examples/quickstart.yaml
	@echo "The report: $$(ls -t runs/*/report.html | head -n 1)"

test: needs-setup-prometheus-cluster-engines check prometheus-test cluster-test local ## everything that needs no GPU

unit: setup ## fast tests: no process, no network
	@$(PYTHON) -m pytest -q tests/unit tests/test_layout.py tests/test_docs.py

local: needs-setup-engines setup ## the real vLLM, DeepSpeed and Ray on this machine
	@$(PYTHON) -m pytest -W default tests/local # what vLLM leaves open is reported at the very end, outside any test

check: setup ## format, lint, types, import rules, generated files, unit tests
	@scripts/check

generate: setup ## write the CRD, the field reference and the list of metrics from the code
	@scripts/generate

prometheus-test: needs-setup-prometheus setup ## the real Prometheus (Debian: prometheus): what is read from it, dashboards, alerts
	@$(PYTHON) -m pytest -q tests/prometheus

panels: setup ## draw the dashboards of the recorded run into docs/images; tests/prometheus/panels.py --help for another server's
	@$(PYTHON) tests/prometheus/panels.py

record: setup ## record a real run's metrics anew for those two: half an hour, on cores that do nothing else
	@$(TESTBED) programs
	@$(PYTHON) tests/cluster/record_metrics.py tests/prometheus/recorded/run

# NODE=1: with a real node that runs pods, which needs root; else nodes are only said to exist.
TESTBED := $(PYTHON) tests/cluster/testbed
WITH := $(if $(NODE),--node)

cluster-test: needs-setup-cluster setup ## a real API server: KUBECONFIG's, or one made here (the first time compiled: 15 minutes)
	@[ -n "$$KUBECONFIG" ] || $(TESTBED) programs
	@$(PYTHON) -m pytest -q tests/cluster

cluster-up: setup ## start a Kubernetes here and say how to use it; NODE=1: with a node (root)
	@$(TESTBED) up $(WITH)

cluster-down: setup ## stop it; nothing is left
	@$(TESTBED) down

cluster-repeat: setup ## start and stop it TIMES (20) times and look for what is left; NODE=1: with a node
	@$(TESTBED) repeat $(WITH) $(or $(TIMES),20)

images: ## build both images with buildah (root); docs/images.md
	@scripts/images

e2e: $(if $(KUBECONFIG),,needs-setup-cluster-engines-node) setup ## the whole platform on a real node: images, helm install, pods that train (root, or KUBECONFIG): 25 minutes
	@$(PYTHON) -m pytest -x -s tests/e2e

bench-cluster: setup ## 1,000 runs of ten played pods; writes docs/scale.md; half an hour on a quiet machine
	@$(TESTBED) programs
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/bench_cluster.py --write $(ARGS)

bench-apply: needs-setup-cluster-engines-node setup ## from kubectl apply to the first step, by phase (root); writes docs/scale.md
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/bench_apply.py --write $(ARGS)

bench-takeover: setup ## kill the leading operator ten times under load; writes docs/scale.md
	@$(TESTBED) programs
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/bench_takeover.py --write $(ARGS)

kill-matrix: setup ## who dies when, and what becomes of the run; writes docs/kill-matrix.md
	@$(TESTBED) programs
	@PYTHONPATH=tests/support $(PYTHON) bench/cluster/kill_matrix.py --write $(ARGS)

golden: setup ## rewrite the expected objects of tests; read the diff
	@$(PYTHON) -m pytest -q tests/unit --rewrite-golden

lock: ## choose the newest versions that requirements/*.in allow, with hashes
	@scripts/lock

bench: setup ## measure; docs/benchmarks.md says what
	@scripts/bench

bench-forecast: setup ## judge the forecaster; writes the tables of docs/forecast.md and its figures
	@OMP_NUM_THREADS=1 $(PYTHON) bench/forecast/bench_forecast.py

gpu: setup ## tests that need a CUDA device; elsewhere they are skipped
	@$(PYTHON) -m pytest -m gpu -rs tests/gpu

clean: ## remove what the tools leave in the tree; runs/ and .venv stay
	@rm -rf dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
