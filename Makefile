# Everything from a fresh clone, with make and Python >= 3.11 alone. Another Python: make PYTHON=/path/to/python3.12 test
PYTHON ?= python3
# Passed on to pytest: make test ARGS="-k merkle"
ARGS ?=

BIN := .venv/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check bench fuzz setup runtime development format lock clean

help: ## what there is
	@echo "make TARGET, with one of:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)$$/  \1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '  %-8s %s\n' "$$target" "$$text"; done

demo: runtime ## set up, then play the main job on real HTTP and print what happened
	@$(BIN)/broker demo

test: development ## set up, then run the whole test suite; prints the branch coverage
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

check: development ## format, lint, types, import contracts, then the tests; what CI runs
	@echo "check: format"
	@$(BIN)/ruff format --check .
	@echo "check: lint"
	@$(BIN)/ruff check .
	@echo "check: types"
	@$(BIN)/mypy
	@echo "check: import contracts"
	@$(BIN)/lint-imports
	@echo "check: tests"
	@$(MAKE) --no-print-directory test

bench: development ## the benchmarks, each beside its floor; ONLY=policy for one group, FULL=1 for the long ones
	@test -d tests/bench || { echo "bench: the benchmarks come with tests/bench, which is not here yet" >&2; exit 1; }
	@ONLY="$(ONLY)" FULL="$(FULL)" $(BIN)/python -m tests.bench

fuzz: development ## search every parser for two minutes; ONLY=dpop for one family, SECONDS=30 for another time
	@$(BIN)/python -m tests.fuzz "$(ONLY)" "$(SECONDS)"

setup: development ## only make .venv, with everything the other targets need

runtime development:
	@command -v "$(PYTHON)" >/dev/null || { echo "setup: no $(PYTHON) here; install Python 3.11 or newer, or name one:" \
		"make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" .ci/setup.py $@

format: development ## let ruff put every file in order
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: development ## write the locked lists again from pyproject.toml; ARGS=--upgrade for the newest versions
	@.ci/lock $(ARGS)

clean: ## remove .venv and what the tools left behind
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov build dist
	@find broker tests -name __pycache__ -type d -prune -exec rm -rf {} +
