PYTHON ?= python3
.PHONY: demo test sanitize

# Installs spimm into an environment of its own and runs the main job on the embedded digits: train, accuracy, rates, energy.
demo: .venv/demo/installed
	.venv/demo/bin/spimm quickstart

# Installs spimm with its development tools into an environment of its own, then lint, types, tests (a process of one thread for each core).
test: .venv/test/installed
	.venv/test/bin/ruff check .
	.venv/test/bin/ruff format --check .
	.venv/test/bin/pyright --pythonpath .venv/test/bin/python
	OMP_NUM_THREADS=1 .venv/test/bin/pytest -m "not slow" --numprocesses auto --dist loadfile

# The kernels' tests and 2,000 odd or wrong calls, compiled with AddressSanitizer and UBSan, once for each instruction set
# that runs here. Not part of the gate: it takes about an hour on two cores.
SANITIZED = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so) $$(gcc -print-file-name=libstdc++.so.6)" ASAN_OPTIONS=detect_leaks=0
sanitize: .venv/sanitize/installed
	for isa in baseline avx2 avx512; do \
	  export SPIMM_CPU_ISA=$$isa; \
	  if [ $$isa != baseline ] && ! $(SANITIZED) .venv/sanitize/bin/python -c "from spimm.kernels import cpu_isa; cpu_isa()"; then continue; fi; \
	  $(SANITIZED) .venv/sanitize/bin/pytest tests/kernels -m "slow or not slow" || exit 1; \
	done

.venv/demo/installed: pyproject.toml CMakeLists.txt $(shell find csrc spimm -name '*.py' -o -name '*.cpp' -o -name '*.h')
	$(PYTHON) -m venv .venv/demo
	.venv/demo/bin/pip install --quiet .
	touch $@

.venv/test/installed: pyproject.toml CMakeLists.txt $(shell find csrc spimm -name '*.py' -o -name '*.cpp' -o -name '*.h')
	$(PYTHON) -m venv .venv/test
	.venv/test/bin/pip install --quiet '.[dev,peers]'
	touch $@

.venv/sanitize/installed: pyproject.toml CMakeLists.txt $(shell find csrc spimm -name '*.py' -o -name '*.cpp' -o -name '*.h')
	$(PYTHON) -m venv .venv/sanitize
	.venv/sanitize/bin/pip install --quiet -C cmake.define.SPIMM_SANITIZE=address,undefined -C cmake.build-type=RelWithDebInfo '.[dev]'
	touch $@
