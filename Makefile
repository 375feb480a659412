# make run    sets up, gets a guest and boots it with serial, block and net
# make shell  the same guest with an interactive shell
# make test   sets up, passes all tests and builds the documentation
# make soak   a Linux works disks and cards for minutes, with every engine, and verifies
# make bench  prints tables, side by side with QEMU; .cache/bench.json has every sample, .cache/bench-plots pictures
# make docs   builds the documentation
# make dist   sdists and wheels of all distributions, in .cache/dist
# make deb    Debian packages, in .cache/deb, for the Debian that runs here
# make deb-test  builds them for Debian 12 and 13, installs them in fresh ones and boots guests from these
# make lint   formats and types, checked
# All of it works from a fresh clone; what it makes is in .venv and .cache.

PYTHON ?= $(shell tests/system/python)
PACKAGES := core $(wildcard plugins/*)
BIN := .venv/bin
BUILT := .venv/.installed

# What an editable installation does not notice by itself: metadata and C.
INPUTS := Makefile $(wildcard $(addsuffix /pyproject.toml,$(PACKAGES)) $(addsuffix /setup.cfg,$(PACKAGES))) core/setup.py \
          $(wildcard core/native/* core/native/cdef/* plugins/*/setup.py plugins/*/agent/*)

TOOLS := pytest pytest-timeout pytest-xdist hypothesis mypy ruff matplotlib

.PHONY: setup run shell test unit boot-test soak bench docs dist deb deb-test lint clean

# Compiled ahead of time, since an environment may say that Python writes no bytecode: it is most of a start.
setup: $(BUILT)
	@$(BIN)/python -m compileall -q core/src $(wildcard plugins/*/src)

$(BUILT): $(INPUTS)
	tests/system/require build
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	# An old pip's scripts import re, and with it a tenth of a start.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check setuptools wheel 'cffi>=1.15' $(TOOLS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation $(addprefix -e ./,$(PACKAGES))
	# One file that says where the sources are, for each start reads all of them.
	cd .venv/lib/python3*/site-packages && cat __editable__*.pth > sources.tmp && rm __editable__*.pth && mv sources.tmp pyvmm-sources.pth
	# It makes each start of Python import _distutils_hack, for who imports distutils.
	rm -f .venv/lib/python3*/site-packages/distutils-precedence.pth
	touch $@

run: setup
	$(BIN)/python tests/guest/demo

shell: setup
	$(BIN)/python tests/guest/demo --shell

test: unit docs boot-test

# Pure tests, and those that need no more than some /dev/kvm.
unit: setup
	tests/system/require guest test
	$(BIN)/python -m pytest -n auto --dist loadgroup

# Boots of real kernels: on this machine's KVM where it can, else in the lab.
boot-test: setup
	tests/system/require guest lab test
	$(BIN)/python tests/guest/build.py
	tests/boot/run $(BIN)/python

SOAK_SECONDS ?= 60

soak: setup
	tests/system/require guest lab test
	$(BIN)/python tests/guest/build.py
	tests/lab/with-kvm $(BIN)/python -m pytest -p no:cacheprovider -rs --soak $(SOAK_SECONDS) \
	    -k 'keep_what_fio_writes or sends_little_again' tests/boot/test_linux.py tests/boot/test_network.py

bench: setup
	tests/system/require guest lab test
	$(BIN)/python tests/benchmarks --json .cache/bench.json --plots .cache/bench-plots

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs .cache/docs
	@echo "documentation: .cache/docs/index.html"

dist: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check twine
	tests/release/dist $(BIN)/python

deb:
	tests/release/deb

deb-test:
	tests/release/deb-test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy core/src $(wildcard plugins/*/src) tests debian

clean:
	rm -rf .venv .cache build core/build plugins/*/build
	find core plugins -name '*.so' -delete
