# Needs only git, make and Python. Where `uv` is missing it is put into .uv/, never into the system.
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := .uv/bin/uv
NEEDS_UV := .uv/bin/uv
endif
PYTHON ?= python3
# Tests run on all cores; `make test WORKERS=0` runs them in one process, as a debugger needs it.
WORKERS ?= auto
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist loadgroup

.PHONY: setup train test test-all test-faults check format format-check typecheck bench-env clean

setup: $(NEEDS_UV)
	$(UV) sync --group dev
	@echo "ready: $(UV) run tarch --help"

train: $(NEEDS_UV)
	$(UV) run python -m transformer_architectures.architectures.vanilla.training $(ARGS)

test: $(NEEDS_UV)
	$(UV) run --group dev pytest $(PARALLEL) $(ARGS)

test-all: $(NEEDS_UV)
	$(UV) run --group dev pytest -m "not faults" $(PARALLEL) $(ARGS)

# Every promise of docs/reliability.md in its long form: about an hour.
test-faults: $(NEEDS_UV)
	$(UV) run --group dev --group fuzz pytest -m faults $(ARGS)

check: format-check typecheck test

format: $(NEEDS_UV)
	$(UV) run --group dev isort transformer_architectures tests benchmarks
	$(UV) run --group dev black transformer_architectures tests benchmarks

format-check: $(NEEDS_UV)
	$(UV) run --group dev isort --check transformer_architectures tests benchmarks
	$(UV) run --group dev black --check transformer_architectures tests benchmarks

typecheck: $(NEEDS_UV)
	$(UV) run --group dev mypy

# The peers that benchmarks compare with: their pins would bind every user of the project, so they live apart.
bench-env: $(NEEDS_UV)
	$(UV) venv --allow-existing .bench
	$(UV) pip install --python .bench/bin/python -r benchmarks/requirements.txt --group data -e .

.uv/bin/uv:
	@$(PYTHON) -m venv .uv >/dev/null 2>&1 || { rm -rf .uv; echo "cannot make a virtual environment: install Python's venv (Debian: apt-get install python3-venv)"; exit 1; }
	.uv/bin/pip install --quiet uv

clean:
	rm -rf .venv .uv .bench
