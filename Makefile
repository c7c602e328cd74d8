# Every target sets up what it needs. PYTHON=python3.12 picks another interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NAME ?= against_keras_example

.PHONY: install demo test test-ci test-all exports test-jax lint docs bench lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "efftune needs Python 3.11, 3.12 or 3.13; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --only-binary :all: --no-binary promise -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@# On all processors, which pip does not use. Some packages hold files for other Pythons.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib src || true
	@touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/efftune demo

test: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal

# What takes longer, and `.ci/run` runs as well.
test-ci: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal -m "ci and not (variant or long or shared or slow or torch or exports)"

# What these two leave out, but for the largest variants and the comparison with PyTorch: also the
# demo, by the wheel installed alone.
test-all: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal -m "(variant or long or shared) and not (slow or torch)"

# Exported files in the applications that they are for, in Chromium and in environments of their own:
# needs the clothing photos, Chromium, npm and the package index.
exports: $(INSTALLED)
	$(BIN)/pytest -m exports

# The parts that train, under another backend, with the smallest variant of each family.
test-jax: $(INSTALLED)
	KERAS_BACKEND=jax $(BIN)/pytest -n 2 -m "not slow and not variant" tests/training tests/model

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(INSTALLED)
	$(BIN)/python docs/write_pages.py
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

bench: $(INSTALLED)
	$(BIN)/python benchmarks/$(NAME).py $(ARGS)

# Pins and hashes of everything, for all platforms. Needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-index-url --custom-compile-command "make lock" \
		--extra dev --extra dicom --extra hf --extra hub --extra int8 --extra jax --extra lite --extra litert --extra onnx --extra parquet --extra serve --extra tfds \
		pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV) docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
