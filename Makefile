# Everything a developer or CI runs; CI calls the same targets with CI=true (.ci/run).

# The first interpreter that is new enough; `make PYTHON=... setup` uses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# The application `make dev` serves.
APP ?= examples.cohort.app:rindle
# More arguments for pytest: make test ARGS="-k tus"
ARGS ?=
# Processes that share the test files, two more than there are processors: most tests wait more than they compute. Each
# runs servers of its own, in about a gigabyte. 0: all in one, as a debugger wants it.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 2 : 6)))

.DEFAULT_GOAL := help
# What each target needs is in scripts/setup.py.
SETUPS := setup-demo setup-dev setup-check setup-bench setup-test
.PHONY: help setup demo dev test check audit format bench docs clean $(SETUPS)

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: setup-test ## virtualenv, pinned packages and test servers; a second run costs nothing

$(SETUPS): setup-%:
	@test -n "$(PYTHON)" || { echo "setup: Python 3.11 or newer is needed" >&2; exit 1; }
	@$(PYTHON) scripts/setup.py $*

demo: setup-demo ## upload an image, wait for its variants, check them
	$(BIN)/python -m examples.cohort.demo

dev: setup-dev ## the example application with its worker and a Temporal server, until Ctrl-C
	$(BIN)/rindle dev --app $(APP)

test: setup-test check ## set-up, checks and the whole test suite
	@mkdir -p var/reports
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --junitxml=var/reports/junit.xml $(ARGS)

check: setup-check ## layout, lint, types and import layers
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	@# The type checkers take most of the time, on one processor each: they run at once. The walk-through is an
	@# application apart, whose modules have the names of those of another example, without our configuration.
	@mkdir -p var/reports
	@echo "$(BIN)/mypy, and $(BIN)/pyright beside it"; $(BIN)/pyright >var/reports/pyright.txt 2>&1 & pyright=$$!; status=0; \
	$(BIN)/mypy || status=1; \
	(cd examples/walkthrough && $(CURDIR)/$(BIN)/mypy --strict --config-file= \
		--cache-dir=$(CURDIR)/.mypy_cache/walkthrough .) || status=1; \
	wait $$pyright || status=1; cat var/reports/pyright.txt; exit $$status
	$(BIN)/lint-imports

audit: setup-check ## known holes of the pinned packages; asks a service on the network
	@test -x var/audit/bin/pip-audit || { $(PYTHON) -m venv var/audit && var/audit/bin/pip install --quiet 'pip-audit>=2.10,<3'; }
	var/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off

format: setup-check ## format the code and fix what lint can fix
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

bench: setup-bench ## measure the budgets and their peers
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks

docs: setup-check ## build the documentation into var/site; a broken link fails
	$(BIN)/mkdocs build --strict --site-dir var/site

clean: ## remove the files of make; the data of `make dev` stays
	rm -rf .venv node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist var/reports var/site var/setup.lock
	find rindle tests examples benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
