# Two commands for a newcomer: `make demo` and `make test`. Both set everything up first.
SYMMOE := .venv/bin/symmoe
.PHONY: setup demo test test-all check format bench clean

setup:
	@bash tools/setup.sh

demo: setup
	$(SYMMOE) demo

test: setup
	.venv/bin/python -m pytest -m "not slow and not gpu"

test-all: setup
	.venv/bin/python -m pytest

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup
	$(SYMMOE) bench swap
	$(SYMMOE) bench batch

clean:
	rm -rf .venv build out *.egg-info
