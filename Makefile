# `make smoke` runs the smoke job, `make test` the tests. Both first create .venv from the lock if it does not exist.
# PYTHON=/path/to/python chooses the interpreter; without it, the first of python3.11, python3.12 and python3.13.
PYTHON ?=
BIN := .venv/bin
# Text that people read, checked for spelling and for the project's vocabulary.
WRITTEN := repro tests docs scripts benchmarks configs expected/README.md requirements/README.md $(wildcard *.md) \
	Makefile Dockerfile apptainer.def pyproject.toml .github .ci

.PHONY: smoke test image-test faults lint format venv clean

smoke: venv
	$(BIN)/repro smoke

test: lint
	$(BIN)/pytest --ignore tests/image

# Builds the cpu image without Docker and uses it as README describes. Skips with a message if buildah or root is missing.
image-test: venv
	$(BIN)/pytest tests/image

# Kills rows fifty times at random moments; each must end with the record of an undisturbed run. Takes many minutes.
faults: venv
	$(BIN)/pytest -m faults -s tests/end_to_end/test_all_rows.py

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell $(WRITTEN)
	$(BIN)/python scripts/check_words.py $(WRITTEN)

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

venv:
	@PYTHON="$(PYTHON)" scripts/venv.sh

clean:
	rm -rf .venv workspace .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
