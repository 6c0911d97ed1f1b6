# Two commands are enough on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: serve test test-slow lint format report bench gpu lock clean

$(READY): requirements.lock pyproject.toml client/pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --editable client # before the lock names it: no index has it
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $(READY)

serve: $(READY) ## start the server on http://127.0.0.1:8000 with the shipped model
	$(BIN)/sdb serve

# Two processes of one thread each: torch's own threads would only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(READY) ## the default suite, under five minutes on two cores
	$(PYTEST)

test-slow: $(READY) ## the slow suite: real training, interrupted and resumed
	$(PYTEST) -m slow --timeout 1200

lint: $(READY) ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

report: $(READY) ## the protection report of the shipped model: make report DATA=PATH [TEACHER=FILE]
	$(BIN)/sdb evaluate --model cifar10 --data $(DATA) $(if $(TEACHER),--teacher $(TEACHER))

bench: $(READY) ## the serving benchmark: a table and benchmarks/results/serving.json
	$(BIN)/python -m benchmarks.serving

gpu: $(READY) ## the checks and timings that need a CUDA device
	$(BIN)/python -m benchmarks.gpu

lock: ## write requirements.lock again from pyproject.toml
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet pip-tools
	.venv-lock/bin/pip wheel --quiet --no-deps --wheel-dir .venv-lock/wheels ./client
	.venv-lock/bin/pip-compile --quiet --upgrade --extra dev --extra evaluate --extra ray --strip-extras --no-emit-index-url \
		--find-links .venv-lock/wheels --no-emit-find-links --no-emit-trusted-host --constraint constraints.txt \
		--output-file requirements.lock pyproject.toml
	rm -rf .venv-lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
