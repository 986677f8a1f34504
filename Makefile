# imagekit: "make demo" shows what it does, "make test" proves that it does.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.imagekit-setup
APT_LIST := packages.apt
DEMO := demo/web01
PYTEST_WORKERS ?= 2

.PHONY: setup demo test test-fast test-long lint bench boots fuzz clean

setup: $(STAMP)

# Debian's own Python, because python3-guestfs belongs to it and is not on PyPI.
$(STAMP): pyproject.toml $(APT_LIST)
	./packages-install $(APT_LIST)
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,elements,glance,xapi]'
	touch $(STAMP)

demo: setup
	$(BIN)/imagekit build examples/web01.yaml -o $(DEMO)
	@$(BIN)/python -m imagekit.cli.demo $(DEMO)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: setup
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile tests/unit

# Hours: 50 rounds of killing provision, bundle and reinstall; proofs that "make test" leaves out.
test-long: setup
	IMAGEKIT_KILL_ROUNDS=50 $(BIN)/python -m pytest tests/real -m "long or kills"

bench: setup
	$(BIN)/python -m tests.bench

# Hours: 20 boots in each mode beside busy loops; goes on where it was stopped.
boots: setup
	$(BIN)/python -m tests.bench.boots

fuzz: setup
	IMAGEKIT_FUZZ_CASES=100000 $(BIN)/python -m pytest tests/fuzz

clean:
	rm -rf build demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
