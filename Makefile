# Everything sets itself up: `make demo` and `make test` need only Python and git.
#   PYTHON   the interpreter that .venv is made with       (default python3)
#   ARGS     further arguments for pytest, the demo or the benchmarks
#   ARCH, PYTHON_VERSION  what `wheelhouse` and `deb` are made for (default this machine, 3.11)
#   HEAVY    heavy suites to run with the tests, e.g. HEAVY=chaos,arm or HEAVY=all

PYTHON ?= python3
ARGS ?=
HEAVY ?=
BENCH ?= chain
ARCH ?= $(shell uname -m)
PYTHON_VERSION ?= 3.11

export PYTHON
BIN := .venv/bin
SOURCES := collab scripts tests benchmarks simulations
SETUP = scripts/setup $(or $(firstword $(foreach part,$(if $(filter all frontdoor,$(HEAVIES)),frontdoor) $(if $(filter deployments,$(HEAVIES)),deployments) $(if $(filter toolchain,$(HEAVIES)),toolchain),$(part))),dev)
HEAVIES = $(subst $(comma), ,$(HEAVY))
comma := ,

.DEFAULT_GOAL := help
.PHONY: help demo test test-heavy check format protos lock bench experiments clean wheelhouse deb docs core dev

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: core ## run a model over several nodes on this machine and compare with the whole model
	@$(BIN)/collab demo $(ARGS)

test: ## run the tests
	@$(SETUP)
	@scripts/test --heavy="$(HEAVY)" $(ARGS)

test-heavy: ## run the tests with all heavy suites (installs TensorFlow), ten minutes of chaos among them
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-600} $(MAKE) --no-print-directory test HEAVY=all

check: dev ## format, lint, types, imports, generated code, locks
	@scripts/check format $(BIN)/ruff format --check --quiet .
	@scripts/check lint $(BIN)/ruff check --quiet .
	@scripts/check types $(BIN)/mypy $(SOURCES)
	@scripts/check imports $(BIN)/lint-imports
	@scripts/check protos scripts/check-protos
	@scripts/check locks scripts/check-locks

format: dev ## format the code and apply the safe fixes
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

protos: dev ## generate collab/codec/pb from protos/
	@scripts/protos

lock: ## re-make requirements/*.txt (UPGRADE=1 for the newest versions; needs uv)
	@scripts/lock

bench: core ## run one benchmark: make bench BENCH=chain ARGS=--quick
	@$(BIN)/python -m benchmarks.$(BENCH) $(ARGS)

experiments: ## run the experiments of docs/experiments.md: make experiments ARGS="quorum --quick"
	@$(SETUP)
	@$(BIN)/python -m simulations $(ARGS)

wheelhouse: dev ## wheels with hashes for devices without a network: make wheelhouse ARCH=aarch64 PYTHON_VERSION=3.11
	@$(BIN)/python scripts/wheelhouse.py --arch $(ARCH) --python $(PYTHON_VERSION)

deb: dev ## a Debian package of the node, with all its wheels: make deb ARCH=aarch64
	@deployments/deb/build.sh "$$($(BIN)/python scripts/wheelhouse.py --arch $(ARCH) --python $(PYTHON_VERSION))" build

docs: ## build the site of docs/ into build/site (ARGS=serve shows it while pages are written)
	@scripts/setup docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build --quiet)
	@echo "the site is build/site/index.html"

clean: ## remove the environment and everything that tools left behind
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find collab tests scripts -name __pycache__ -prune -exec rm -rf {} +

core: ## install what running needs, into .venv
	@scripts/setup core

dev:
	@scripts/setup dev
