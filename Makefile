# Each target makes .venv if it is missing; a second call reinstalls nothing.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
TORCHREC = torchrec fbgemm-gpu-cpu tensordict pyvers pyre-extensions typing-inspect

.PHONY: demo test test-slow test-faults check lint types examples docs clean

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/recmtl demo --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto -m "not slow"

# What takes long: several processes, whole commands, benchmarks, examples, the docs.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadgroup -m slow

# What kills, fills and damages; a table at its end counts what was tried and survived.
test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests/faults

check: lint types test test-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

examples: $(INSTALLED)
	$(BIN)/python -m pytest -n auto tests/test_examples.py

# The documentation site, in build/docs. A broken link, anchor, reference or formula is an error.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build dist

# torch first: asked for by itself it is the pinned build and nothing more. TorchRec last, without its dependencies, which
# ask for the CUDA build; where there is no wheel of it, its tests are skipped.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	-$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt $(TORCHREC)
	touch $@
