# imagekit: "make demo" shows what it does, "make test" proves that it does.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.imagekit-setup
APT_LIST := packages.apt
DEMO := demo/web01
PYTEST_WORKERS ?= 2

LOCKS := requirements
# pip takes only files whose digests are in the lock.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
LOCKED := $(PIP) --require-hashes --requirement
# One lock is for every Python from 3.11 on: what differs has a marker.
COMPILE := UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes $(LOCK_OPTIONS)
USERS := --extra elements --extra glance --extra xapi --extra kickstart

.PHONY: help setup lock audit demo format lint coverage test test-fast test-long test-installer bench boots
.PHONY: fuzz fuzz-long clean

help: ## what there is to make (this)
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

setup: $(STAMP) ## install what is needed: packages.apt, and .venv

# Debian's own Python, because python3-guestfs belongs to it and is not on PyPI.
$(STAMP): pyproject.toml $(LOCKS)/dev.txt $(APT_LIST)
	./packages-install $(APT_LIST)
	/usr/bin/python3 -m venv --system-site-packages $(VENV)
	$(LOCKED) $(LOCKS)/dev.txt
	$(PIP) --no-build-isolation --editable .
	touch $(STAMP)

# LOCK_OPTIONS=--upgrade takes the newest of everything, without it only what no longer fits changes.
lock: setup ## pin in requirements/ what pyproject.toml asks for, by version and digest
	$(LOCKED) $(LOCKS)/lock.txt
	$(COMPILE) $(USERS) --extra dev --group build --output-file $(LOCKS)/dev.txt pyproject.toml
	$(COMPILE) $(USERS) -c $(LOCKS)/dev.txt --output-file $(LOCKS)/runtime.txt pyproject.toml
	for group in lock audit fuzz; do \
		$(COMPILE) -c $(LOCKS)/dev.txt --group $$group -o $(LOCKS)/$$group.txt || exit 1; \
	done

# The advisories need a network; AUDIT_OPTIONS="--osv-url URL" asks another server.
audit: setup ## bill of materials of imagekit, and known weaknesses of what it is locked to
	$(LOCKED) $(LOCKS)/audit.txt
	$(BIN)/python -m tests.audit $(AUDIT_OPTIONS)

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

test: lint ## everything but test-long: under 45 minutes, 31 GB
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: setup ## the unit tests: no root, no network
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile tests/unit

coverage: setup ## the unit tests, and how many lines of imagekit they run
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --cov --cov-report=term:skip-covered tests/unit

# 50 rounds of killing provision, bundle and reinstall, 100 of killing a store; 10,000 of a second
# user who swaps files beside each operation; proofs that "make test" leaves out.
test-long: setup ## rounds of SIGKILL and of races, more proofs: hours
	IMAGEKIT_KILL_ROUNDS=50 IMAGEKIT_RACE_ROUNDS=10000 \
	  $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder \
	  tests/real -m "long or kills or races"

test-installer: setup ## Debian's own installer, to its end and under Xen: an hour
	$(BIN)/python -m pytest tests/real -m installer

bench: setup ## build times beside other builders
	$(BIN)/python -m tests.bench

# Goes on where it was stopped.
boots: setup ## 20 boots in each mode beside busy loops: hours
	$(BIN)/python -m tests.bench.boots

# What fails says how to run one input again; python -m tests.fuzz runs chosen parsers.
fuzz: setup ## 1,000,000 inputs for each parser, 15,000 hostile values for each emitter: hours
	IMAGEKIT_FUZZ_CASES=1000000 IMAGEKIT_FUZZ_VALUES=15000 $(BIN)/python -m pytest tests/fuzz

fuzz-long: setup ## coverage-guided search, IMAGEKIT_FUZZ_SECONDS (3600) for each of seven parsers
	$(LOCKED) $(LOCKS)/fuzz.txt
	for target in kernel initrd vhd qcow2 grub.cfg pxelinux dhcp; do \
		$(BIN)/python -m tests.fuzz.guided $$target --seconds $${IMAGEKIT_FUZZ_SECONDS:-3600} || exit 1; \
	done

clean: ## remove what was made, but .venv and the store
	rm -rf build demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
