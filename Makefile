# imagekit: "make demo" shows what it does, "make test" proves that it does.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.imagekit-setup
APT_LIST := packages.apt
DEMO := demo/web01
PYTEST_WORKERS ?= 2

.PHONY: help setup demo format lint coverage test test-fast test-long bench boots fuzz clean

help: ## what there is to make (this)
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

setup: $(STAMP) ## install what is needed: packages.apt, and .venv

# Debian's own Python, because python3-guestfs belongs to it and is not on PyPI.
$(STAMP): pyproject.toml $(APT_LIST)
	./packages-install $(APT_LIST)
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,elements,glance,xapi]'
	touch $(STAMP)

demo: setup ## build examples/web01.yaml, and say what to try next
	$(BIN)/imagekit build examples/web01.yaml -o $(DEMO)
	@$(BIN)/python -m imagekit.cli.demo $(DEMO)

format: setup ## ruff: order imports, format
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## everything but test-long: under 45 minutes, 25 GB
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: setup ## the unit tests: no root, no network
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile tests/unit

coverage: setup ## the unit tests, and how many lines of imagekit they run
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --cov --cov-report=term:skip-covered tests/unit

# 50 rounds of killing provision, bundle and reinstall; 10,000 of a second user who swaps files
# beside each operation; proofs that "make test" leaves out.
test-long: setup ## rounds of SIGKILL and of races, more proofs: hours
	IMAGEKIT_KILL_ROUNDS=50 IMAGEKIT_RACE_ROUNDS=10000 \
	  $(BIN)/python -m pytest tests/real -m "long or kills or races"

bench: setup ## build times beside other builders
	$(BIN)/python -m tests.bench

# Goes on where it was stopped.
boots: setup ## 20 boots in each mode beside busy loops: hours
	$(BIN)/python -m tests.bench.boots

fuzz: setup ## 100,000 random inputs for parsers of the network, and as many values for emitters
	IMAGEKIT_FUZZ_CASES=100000 $(BIN)/python -m pytest tests/fuzz

clean: ## remove what was made, but .venv and the store
	rm -rf build demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
