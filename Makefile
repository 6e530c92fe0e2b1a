# make demo, make test and make lint each do their own set-up; `make venv` does only that.
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo
NEWEST := .venv-newest

.PHONY: venv demo test whole beside page-tools newest check quick test-processors test-avx2 test-sse lint clean

venv: .venv/installed

# Nothing is compiled ahead: Python compiles what it imports, a small part of these packages.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"
	touch $@

demo: venv
	$(BIN)/python -m kimi_audio_ft.demo.corpus --out $(DEMO)/corpus --recordings 120
	$(BIN)/python -m kimi_audio_ft.prepare csv=$(DEMO)/corpus/corpus.csv out=$(DEMO)/data \
	    group_column=recording eval_ratio=0.1
	$(BIN)/python -m kimi_audio_ft.tokenize manifests=$(DEMO)/data
	$(BIN)/python -m kimi_audio_ft.train +experiments=demo data.test_manifest=$(DEMO)/data/test.tokens.jsonl

# Processes that the tests start, and the next run, find modules compiled, also where Python is told to keep none.
unexport PYTHONDONTWRITEBYTECODE

# Four test processes with one OpenMP thread each fill two cores, since some tests wait; more threads would crawl. A
# file's tests share what they need, so they stay together; tests/conftest.py says which files begin.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(HANGS)

# A test that takes longer (seconds) shows where all threads of its process stand and ends that process, for good.
HANGS = --max-worker-restart 0 -o faulthandler_timeout=1000 -o faulthandler_exit_on_timeout=true

# What the tests check the report's pages with; without it those checks are skipped.
page-tools: venv
	npm install --no-save --no-package-lock --no-audit --no-fund --prefix .venv axe-core@4 html-validate@9

test: venv
	$(MAKE) --jobs 2 whole beside

# What one more process does meanwhile.
beside: venv
	$(MAKE) lint
	$(MAKE) test-avx2 ONLY="-m bitwise"
	$(MAKE) test-sse ONLY="-m bitwise"

whole: venv
	$(PYTEST) --durations 30

# All tests with the newest versions that the registry has, in an environment of their own.
newest: BIN := $(NEWEST)/bin
newest:
	$(PYTHON) -m venv $(NEWEST)
	$(PYTHON) tests/newest.py > $(NEWEST)/requirements.txt
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --upgrade --requirement $(NEWEST)/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	$(PYTEST) $(ONLY)

# Everyday checks, in under two minutes.
check: venv
	$(MAKE) --jobs 2 lint quick

quick: venv
	$(PYTEST) -m "not slow" tests/unit

# tests/numerics with this processor's own kernels and with those that older processors get.
NUMERICS := $(BIN)/python -m pytest tests/numerics
test-processors: venv
	OMP_NUM_THREADS=1 $(NUMERICS)
	$(MAKE) test-avx2 test-sse

test-avx2: export ATEN_CPU_CAPABILITY := avx2
test-avx2: export MKL_ENABLE_INSTRUCTIONS := AVX2
test-sse: export ATEN_CPU_CAPABILITY := default
test-sse: export MKL_ENABLE_INSTRUCTIONS := SSE4_2
test-sse: export ONEDNN_MAX_CPU_ISA := SSE41
test-avx2 test-sse: venv
	OMP_NUM_THREADS=1 $(NUMERICS) $(ONLY)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy kimi_audio_ft multirun_analysis experiments

# Days of training may lie in outputs/store, which stays: `python -m kimi_audio_ft.store prune` is for that.
clean:
	rm -rf $(DEMO) .venv $(NEWEST)
