# Every target works on a fresh clone: it sets up what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STACK ?= .stack
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

export PYTHONWARNINGS ?=
export DO_NOT_TRACK ?= true

.PHONY: help setup demo stack stack-down test test-all check bench lock wheel clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

setup: $(READY) ## Create .venv and install the locked dependencies

$(READY): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (about 2 GB on disk, a few minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install $(PIP_FLAGS) -c constraints.txt -e '.[demo,dev]' || \
		{ echo "The installation failed. If a download broke off, run the same command again." >&2; exit 1; }
	@touch $(READY)

demo: $(READY) ## Clean a real table and a real series, and show what came out (SEED=n changes the noise)
	@$(BIN)/denograd demo $(if $(SEED),--seed $(SEED))

stack: $(READY) ## Start Prefect, MLflow and a worker on PostgreSQL (DATABASE=sqlite STACK=folder PREFECT_PORT=n MLFLOW_PORT=n POSTGRES_PORT=n)
	@$(BIN)/python -m infra.stack up --folder $(STACK) $(if $(DATABASE),--database $(DATABASE)) \
		$(if $(PREFECT_PORT),--prefect-port $(PREFECT_PORT)) $(if $(MLFLOW_PORT),--mlflow-port $(MLFLOW_PORT)) \
		$(if $(POSTGRES_PORT),--postgres-port $(POSTGRES_PORT))

stack-down: $(READY) ## End what `make stack` started, and nothing else; its data stay
	@$(BIN)/python -m infra.stack down --folder $(STACK)

test: $(READY) ## Run the tests
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs $(ARGS)

test-all: ## Run all tests and those that take long: kills at many instants of every stage
	@$(MAKE) --no-print-directory test ARGS="-m '' $(ARGS)"

check: $(READY) ## Lint, type-check and enforce the architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY) ## Compare with the published package and with the least possible time; measure how time and memory grow
	@$(BIN)/python -m tests.benchmarks.parity
	@$(BIN)/python -m tests.benchmarks.speed
	@$(BIN)/python -m tests.benchmarks.scaling

lock: ## Renew constraints.txt
	@$(PYTHON) -m venv .bench/lock && .bench/lock/bin/python -m pip install --quiet uv
	@.bench/lock/bin/uv pip compile --universal --python-version 3.11 --all-extras --upgrade --quiet \
		--no-annotate --no-header pyproject.toml -o .bench/lock/constraints.txt
	@{ head -1 constraints.txt; cat .bench/lock/constraints.txt; } > .bench/lock/new && mv .bench/lock/new constraints.txt
	@infra/check_lock.sh

wheel: $(READY) ## Build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean: ## Remove the environment and every build output; published data in .denograd stay
	rm -rf $(VENV) dist .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis
