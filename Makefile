PYTHON ?= python3
BIN := .venv/bin

.PHONY: install page wheel demo test test-slow test-all check clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml setup.py page/package-lock.json page/build.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python page/build.py --with-tests --if-possible
	touch $@

page: .venv/installed
	$(BIN)/python page/build.py --with-tests

wheel: page
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

demo: .venv/installed
	mkdir -p demo
	$(BIN)/python examples/make_slide.py demo/slide.tif --size 4096
	rm -rf demo/mask.zarr demo/cells.geojson
	cd demo && ../$(BIN)/tileseg predict slide.tif --tile 572 --out mask.zarr --objects cells.geojson
	cd demo && ../$(BIN)/tileseg preview slide.tif mask.zarr --objects --out overlay.png
	@echo "Look at demo/overlay.png; the mask is demo/mask.zarr, the cells are demo/cells.geojson."

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-all: test test-slow

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
