# Two commands: `make demo` shows what genenet does, `make test` proves it; each sets up all it needs.

PYTHON ?= python3
TORCH ?= torch
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test quick check backends bench clean

demo: $(READY)
	$(BIN)/genenet demo genenet-demo

# Two processes, a file at a time: much of a test's time is spent tracing graphs, on one core. When a process dies, the
# test that it was at is named; to start another one may hang for ever in pytest-xdist 3.8 (its issue 1378).
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --durations 30

quick: $(READY)
	$(BIN)/python -m pytest -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# JAX and PyTorch beside TensorFlow, so that the tests of their equivalence run, and an independent program for scores of
# objects; on Linux PyTorch comes with CUDA.
backends: $(READY)
	$(BIN)/python -m pip install --quiet jax "$(TORCH)" torchmetrics

bench: $(READY)
	for name in metrics genes memory training segmentation start pruning instances search; do $(BIN)/python -m benchmarks.$$name || exit 1; done

# elasticdeform's wheels were built for NumPy 1 and fail to import with NumPy 2, so it is built here (15 s).
$(READY): setup.cfg requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "genenet needs Python 3.11 or later, but this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@echo "setting up $(VENV), a minute or two: TensorFlow is some 500 MB with what it needs"
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $(READY)

clean:
	rm -rf $(VENV) genenet-demo build *.egg-info
