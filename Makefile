# One environment, three words: make check, make test, make bench.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.leukoscope-ready

.PHONY: setup litert-torch peers check test bench arm clean

setup: $(READY)

$(READY): pyproject.toml requirements-onnx2tf.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[litert,serve,camera,slides,archive,ray,train,export,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python \
		-r requirements-onnx2tf.txt
	touch $(READY)

# The second converter to TFLite, optional: 0.7 GB in a folder of its own.
litert-torch: .litert-torch/.leukoscope-ready

.litert-torch/.leukoscope-ready: $(READY) requirements-litert-torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .litert-torch \
		-r requirements-litert-torch.txt
	touch .litert-torch/.leukoscope-ready

# What the runtime is compared with, optional: an environment for each list in benchmarks/peers. The models that are
# made for them lie there, too, in .peers/models.
PEERS := $(filter-out %.no-deps,$(basename $(notdir $(wildcard benchmarks/peers/*.txt))))

peers: $(PEERS:%=.peers/%/.leukoscope-ready)

.peers/%/.leukoscope-ready: benchmarks/peers/%.txt $(wildcard benchmarks/peers/*.no-deps.txt)
	test -x .peers/$*/bin/python || $(PYTHON) -m venv .peers/$*
	.peers/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	test ! -f benchmarks/peers/$*.no-deps.txt || .peers/$*/bin/python -m pip install --quiet \
		--disable-pip-version-check --no-deps -r benchmarks/peers/$*.no-deps.txt
	touch $@

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest

bench: $(READY)
	$(BIN)/python -m pytest benchmarks --benchmark-only
	$(BIN)/python -m benchmarks cost
	$(BIN)/python -m benchmarks side-by-side

# The runtime on Arm, under emulation (docs/arm.md): asks for root; ARM="--cpus cortex-a72" has the script's options.
arm: $(READY)
	$(if $(filter 0,$(shell id -u)),,sudo) tests/arm/run_arm.sh --python $(BIN)/python $(ARM)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
