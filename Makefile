# `make check` is the quick check, `make test` runs every test, `make smoke` the main job. Each creates .venv from the lock first.
# PYTHON=/path/to/python chooses the interpreter; without it, the first of python3.11, python3.12 and python3.13.
# JOBS is the number of tests that run at once.
PYTHON ?=
JOBS ?= auto
BIN := .venv/bin
# Compiled modules are kept: tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
# The files of one test module run one after the other in one process: its fixtures are made once. One thread a process,
# because the processes share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/image
# Text that people read, checked for spelling and for the project's vocabulary.
WRITTEN := repro tests docs examples scripts benchmarks configs expected/README.md requirements/README.md $(wildcard *.md) \
	Makefile Dockerfile apptainer.def pyproject.toml .github .ci workflow

.PHONY: audit check test fast-tests all-tests smoke image-test faults lint style types format venv clean

# Lint, types and the fast tests; meant to stay under three minutes on two cores.
# Without the checks of array shapes; `make test` has them.
check: style
	@$(MAKE) --no-print-directory -j 2 types fast-tests

fast-tests:
	REPRO_TEST_SHAPES=0 $(PYTEST) -m "not slow"

# Every test but those of the image; meant to stay under ten minutes on two cores.
test: style
	@$(MAKE) --no-print-directory -j 2 types all-tests

all-tests:
	$(PYTEST)

smoke: venv
	$(BIN)/repro smoke

# Builds the cpu image without Docker and uses it as README says; skips, and says so, if buildah or root is missing. The first test waits
# for the build, which takes more than ten minutes on a busy machine.
image-test: venv
	$(BIN)/pytest -o timeout=1800 tests/image

# Disturbs every stage at random moments: kills, disks that refuse, clocks, memory, hanging workers; docs/reliability.md gets the
# table. Half an hour; what is in LINES is kept, and further trials are added (another SEED draws others).
SEED ?= 1
LINES ?= faults.jsonl
faults: venv
	$(BIN)/python tests/faults/run.py --lines $(LINES) --seed $(SEED)

# Known vulnerabilities of the locked versions, looked up by pip-audit in an environment of its own; needs the network.
audit: venv
	$(BIN)/python -m venv --clear .venv-audit
	.venv-audit/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/audit.txt
	.venv-audit/bin/python scripts/audit.py

lint: style types

style: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell $(WRITTEN)
	$(BIN)/python scripts/check_words.py $(WRITTEN)

# mypy reads the types of torch for a minute, on one core: `check` and `test` run it while the tests run.
types: venv
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

venv:
	@PYTHON="$(PYTHON)" scripts/venv.sh

clean:
	rm -rf .venv .venv-audit workspace .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
