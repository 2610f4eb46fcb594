# Two commands on a fresh machine with Python 3.10 or later, make and git: `make course` and `make test`.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first Python that is new enough and can make virtual environments; override with `make PYTHON=...`.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)
OUT ?= build/course

# A line for each package, and bars, where somebody sees them.
PIP = $(BIN)/python -m pip install $$(test -t 2 || echo --quiet)
TORCH = $(PIP) --no-deps "$$(grep ^torch== requirements.lock)"
DOWNLOAD := 0.5 GB, on Linux with CUDA 3 GB more
# PyPI's torch for Linux needs CUDA's packages. Without an NVIDIA GPU its build for CPUs is taken, from its
# own index. Where that cannot be reached, as in a closed network, the set-up goes on after a moment.
ifeq ($(shell command -v nvidia-smi || uname -s),Linux)
DOWNLOAD := 0.5 GB
TORCH += --retries 1 --timeout 15
CPU_BUILDS := PIP_EXTRA_INDEX_URL="$$PIP_EXTRA_INDEX_URL https://download.pytorch.org/whl/cpu"
endif

.PHONY: help setup course test lint site address notebooks reference-chests parent weights \
	weights-from-random real-weights peers lock clean
.NOTPARALLEL:  # each stage needs the one before

help:
	@echo "make setup      set up .venv with the exact versions of requirements.lock"
	@echo "make course     run the seven notebooks headlessly; results in $(OUT)"
	@echo "make test       unit tests, notebooks, papermill, JupyterLab where Chromium is installed"
	@echo "make lint       ruff format, ruff check and mypy"
	@echo "make site       build the site of lessons, reference and design in build/site, and check it"
	@echo "make address    write git's origin on GitHub into the README's and the notebooks' links"
	@echo "make notebooks  execute the notebooks again, in place, and strip what git must not hold"
	@echo "make weights    make the shipped weights of synthetic chests again, hours on a CPU"
	@echo "make weights-from-random   and their parent before them, from random weights"
	@echo "make real-weights REAL=folder   and those that have seen real tumours: images/ and masks/ of cubes"
	@echo "make peers      install nnU-Net and MONAI for benchmarks/ in an environment of their own, build/peers"
	@echo "make lock       choose the exact versions of requirements.lock again (needs uv)"
	@echo "make clean      remove .venv, build and caches (never data or runs)"

setup: $(READY)
	@echo "Set up. In each terminal: source $(BIN)/activate; then: lungseg --help, or: jupyter lab notebooks"

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python: none from 3.10 on with venv was found." \
		"Install one (Debian: python3 python3-venv) or name it: make PYTHON=..." >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON): once, some minutes long; downloads about $(DOWNLOAD)"
	"$(PYTHON)" -m venv $(VENV)
	@echo "1 of 3: PyTorch"
	@$(CPU_BUILDS) $(TORCH) || echo "It is tried again with the others"
	@echo "2 of 3: the other packages of requirements.lock"
	@$(PIP) --requirement requirements.lock
	@echo "3 of 3: this package"
	@$(PIP) --no-deps --editable .
	$(BIN)/python -m pip check
	@touch $@

course: $(READY)
	$(BIN)/python -m lungseg_utils course --output "$(OUT)"

test: $(READY)
	$(BIN)/python -m pytest --nbval

lint: $(READY)
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

$(VENV)/.docs: $(READY) docs/requirements.lock
	@echo "Adding Sphinx and its theme to $(VENV): once; downloads about 30 MB"
	@$(PIP) --no-deps --requirement docs/requirements.lock
	$(BIN)/python -m pip check
	@touch $@

# The committed notebooks are shown as they are; the test builds the site, and then looks at it.
site: $(VENV)/.docs
	$(BIN)/python -m pytest tests/test_site.py
	@echo "the site: build/site/index.html"

address:
	@"$(PYTHON)" docs/address.py

notebooks: $(READY)
	$(BIN)/python -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.timeout=900 notebooks/0*.ipynb
	$(BIN)/python -m nbconvert --to notebook --inplace --CoalesceStreamsPreprocessor.enabled=True notebooks/0*.ipynb
	$(BIN)/python -m nbstripout --keep-output --keep-count --keep-id \
		--extra-keys "metadata.widgets metadata.language_info metadata.papermill" notebooks/0*.ipynb

# The stages are explained in recipes/README.md. A training that was stopped goes on where it was.
PARENT := recipes/parent.safetensors
RUN := runs/reference
weights: reference-chests
	$(BIN)/torchrun --nproc-per-node 2 -m lungseg_utils train data/reference --run-dir $(RUN) \
		-f params/reference.yaml --weights $(PARENT) --resume
	$(BIN)/python recipes/average_weights.py $(PARENT) $(RUN)/best.safetensors \
		$(RUN)/averaged.safetensors --share 0.1
	$(BIN)/python recipes/choose_min_peak.py $(RUN)/averaged.safetensors data/reference \
		--test-time-mirroring --min-peak 0.98201 --write --half

reference-chests: $(READY)
	$(BIN)/python -m lungseg_utils phantom data/reference --cases 900 --test-cases 10 --seed 9 --tier medium

parent: reference-chests
	$(BIN)/torchrun --nproc-per-node 2 -m lungseg_utils train data/reference --run-dir runs/parent \
		-f params/from_random.yaml --resume

weights-from-random: PARENT := runs/parent/best.safetensors
weights-from-random: RUN := runs/from_random
weights-from-random: parent weights

# REAL has images/ and masks/ of the same names: 92 mm cubes round tumours. Seeds and shares are those of the card.
REAL_SETS := data/real_tumours data/rehearsal data/healthy
SYNTHETIC := synthetic
real-weights: $(READY)
	$(BIN)/python -m lungseg_utils import "$(REAL)" data/real_tumours --crops
	$(BIN)/python -m lungseg_utils phantom data/rehearsal --cases 240 --test-cases 0 --seed 11 --tier medium
	$(BIN)/python -m lungseg_utils phantom data/healthy --cases 100 --test-cases 0 --seed 12 --tier medium --tumours 0
	$(BIN)/python -m lungseg_utils crossvalidate $(REAL_SETS) --run-dir runs/real_folds \
		-f params/real.yaml --weights $(SYNTHETIC)
	$(BIN)/python -m lungseg_utils train data/rehearsal data/real_tumours data/healthy --run-dir runs/real \
		-f params/real.yaml -p shares '[0.2, 0.7, 0.1]' --weights $(SYNTHETIC) --resume
	$(BIN)/python recipes/average_weights.py $(SYNTHETIC) runs/real_folds/fold0/last.pt runs/real_folds/fold1/last.pt \
		runs/real_folds/fold2/last.pt runs/real_folds/fold3/last.pt runs/real_folds/fold4/last.pt runs/real/last.pt \
		runs/real/averaged.safetensors --share 1
	$(BIN)/python recipes/move_threshold.py runs/real/averaged.safetensors runs/real/moved.safetensors --threshold 0.4
	$(BIN)/python recipes/choose_min_peak.py runs/real/moved.safetensors data/rehearsal \
		--test-time-mirroring --min-peak 0.931 --write --half

# torch first and alone, so that no peer brings a newer one with its CUDA packages
peers: benchmarks/peers.txt
	"$(PYTHON)" -m venv build/peers
	build/peers/bin/python -m pip install --quiet "$$(grep ^torch== benchmarks/peers.txt)"
	build/peers/bin/python -m pip install --quiet --prefer-binary --requirement benchmarks/peers.txt
	build/peers/bin/python -m pip check

lock:
	uv pip compile pyproject.toml --extra dev --extra bench --universal --python-version 3.10 --upgrade \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet --output-file build.lock
	{ head -n 2 requirements.lock; grep -v -E '^(nvidia-|cuda-|triton)' build.lock; } > requirements.new
	rm build.lock && mv requirements.new requirements.lock
	uv pip compile pyproject.toml --extra dev --extra docs --constraint requirements.lock --universal \
		--python-version 3.10 --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet \
		--output-file build.lock
	{ head -n 1 docs/requirements.lock; grep -v -x -F -f requirements.lock build.lock \
		| grep -v -E '^(nvidia-|cuda-|triton)'; } > requirements.new
	rm build.lock && mv requirements.new docs/requirements.lock

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache .hypothesis
