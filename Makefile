# Two commands for a newcomer: `make demo` and `make test`. Both set everything up first.
SYMMOE := .venv/bin/symmoe
LINES := 700
JOBS ?= 2
TOGETHER := -n $(JOBS) --no-loadscope-reorder
.PHONY: setup demo test test-all check format bench lock bom audit clean

setup:
	@bash tools/setup.sh

demo: setup
	$(SYMMOE) demo

# What Python compiles of sources and tests is kept even where it is told to keep nothing: each process would compile it.
test: setup
	env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest -m "not slow and not gpu" $(TOGETHER) --durations=10

test-all: setup
	.venv/bin/python -m pytest --hypothesis-profile thorough

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	@find symmoe cli deployments skills tests tools -name '*.py' -exec wc -l {} + | awk -v most=$(LINES) \
	  '$$1 > most && $$2 != "total" {print $$2 ": " $$1 " lines; a file holds " most " at most"; bad = 1} END {exit bad}'
	.venv/bin/python tools/as_installed.py
	.venv/bin/mypy
	cd build/as_installed && ../../.venv/bin/lint-imports --config ../../pyproject.toml --no-cache --no-logo

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: setup
	$(SYMMOE) bench swap
	$(SYMMOE) bench batch

# Versions stay as they are; each gets the hashes of its files, which uv compares wherever it installs from a lock. On
# CPUs torch has none: that build comes from PyTorch's index or a local folder.
lock: setup
	for lock in requirements.lock requirements-gpu.lock; do \
	  .venv/bin/uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header $$lock -o $$lock; done

# What symmoe consists of, in CycloneDX, with the hashes of every package's files.
bom: setup
	@mkdir -p out
	.venv/bin/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements.lock --of JSON -o out/bom.json

# Known vulnerabilities of what is in the lock; wants PyPI itself, or OSV, within reach.
audit: setup
	@mkdir -p out
	@sed -n 's/^\([A-Za-z0-9._-]*==[^ +]*\).*/\1/p' requirements.lock > out/pins.txt  # torch has no hash: all or none
	.venv/bin/uv tool run --quiet --from pip-audit==2.10.1 pip-audit -r out/pins.txt --no-deps --disable-pip --strict

clean:
	rm -rf .venv build out *.egg-info
