PYTHON ?= python3
.PHONY: demo test

# Installs spimm into an environment of its own and runs the main job on the embedded digits: train, accuracy, rates, energy.
demo: .venv/demo/installed
	.venv/demo/bin/spimm quickstart

# Installs spimm with its development tools into an environment of its own, then lint, types, tests.
test: .venv/test/installed
	.venv/test/bin/ruff check .
	.venv/test/bin/ruff format --check .
	.venv/test/bin/pyright --pythonpath .venv/test/bin/python
	.venv/test/bin/pytest -m "not slow"

.venv/demo/installed: pyproject.toml CMakeLists.txt $(shell find csrc spimm -name '*.py' -o -name '*.cpp' -o -name '*.h')
	$(PYTHON) -m venv .venv/demo
	.venv/demo/bin/pip install --quiet .
	touch $@

.venv/test/installed: pyproject.toml CMakeLists.txt $(shell find csrc spimm -name '*.py' -o -name '*.cpp' -o -name '*.h')
	$(PYTHON) -m venv .venv/test
	.venv/test/bin/pip install --quiet '.[dev,peers]'
	touch $@
