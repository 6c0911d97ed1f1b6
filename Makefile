# Two commands are enough on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: serve test test-slow faults soak lint docs format report bench gpu fuzz audit sbom lock clean

# Nothing is installed whose hash is not in the lock, and what builds this repository's own packages is in it.
$(READY): requirements.hashed.lock pyproject.toml client/pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.hashed.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable client --editable .
	touch $(READY)

serve: $(READY) ## start the server on http://127.0.0.1:8000 with the shipped model
	$(BIN)/sdb serve

# Two processes of one thread each: torch's own threads would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(READY) ## the default suite, under five minutes on two cores
	$(PYTEST)

test-slow: $(READY) ## the slow suite: real training, interrupted and resumed
	$(PYTEST) -m "slow and not faults" --timeout 1800

faults: $(READY) ## what breaks, and what happens then (docs/faults.md): fifteen minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults -m "slow or not slow" --timeout 600

MINUTES ?= 60
soak: $(READY) ## a steady load at all doors: make soak MINUTES=60
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

lint: $(READY) ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## the documentation site, in site/: open site/index.html, no server or network needed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

report: $(READY) ## the protection report of the shipped model: make report DATA=PATH
	$(BIN)/sdb evaluate --model cifar10 --data $(DATA) --teacher docs/reports/cifar10-teacher.safetensors

bench: $(READY) ## the serving benchmark: a table and benchmarks/results/serving.json
	$(BIN)/python -m benchmarks.serving

gpu: $(READY) ## the checks and timings that need a CUDA device
	$(BIN)/python -m benchmarks.gpu

RUNS ?= 20000
fuzz: $(READY) ## each parser under a coverage-guided fuzzer: make fuzz RUNS=1000000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --runs $(RUNS)

audit: $(READY) ## published holes of what the lock names, but those of app/advisories/accepted.toml
	$(BIN)/python -m app.advisories.audit requirements.lock

sbom: ## sbom.json: what the lock names, as CycloneDX
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/pip install --quiet cyclonedx-bom==7.5.0
	.venv-sbom/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json requirements.lock
	rm -rf .venv-sbom

LOCK := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --custom-compile-command "make lock" --find-links .venv-lock/wheels
UPGRADE ?= --upgrade
lock: ## write both locks again from pyproject.toml; make lock UPGRADE= leaves the versions as they are
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv==0.13.9
	.venv-lock/bin/pip wheel --quiet --no-deps --wheel-dir .venv-lock/wheels ./client
	$(LOCK) $(UPGRADE) --extra dev --extra docs --extra evaluate --extra ray --extra telemetry --constraint constraints.txt \
		--output-file requirements.lock pyproject.toml
	$(LOCK) --no-deps --no-annotate --generate-hashes --no-emit-package sdb-client --output-file requirements.hashed.lock requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
