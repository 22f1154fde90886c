# `make run` and `make test` are all that a fresh machine needs. Settings go on the line: make run EPOCHS=3 DATA_DIR=…
PYTHON ?= $(firstword $(foreach v,3 3.13 3.12 3.11 3.10,$(shell python$(v) -c \
	'import sys; (3,10) <= sys.version_info < (3,14) and print("python$(v)")' 2>/dev/null)))
VENV := .venv
export PYTHONUNBUFFERED := 1

.PHONY: help install run test test-long benchmark lint lock clean

help:
	@echo "make run    install, get the data, run the notebook; results in outputs/"
	@echo "            (any setting of the notebook: make run EPOCHS=3 DATA_DIR=path RUN_NAME=mine)"
	@echo "make test   install, run the tests; make test-long: those that take minutes"
	@echo "make benchmark  time the reading of images; FOLDER=path/to/pictures"
	@echo "make lint   check the style of the notebook and the scripts"
	@echo "make lock   write requirements.lock anew, with the newest versions"
	@echo "make clean  remove the virtual environment and outputs/, not the data"

# The lock has OpenCV without windows (opencv-python-headless): the same code, and no libGL needed from the system.
install: $(VENV)/installed
$(VENV)/installed: requirements.lock
	@test -n "$(PYTHON)" || { echo "CPython 3.10 to 3.13 is needed; found none. Name one: make PYTHON=/path/to/python"; exit 1; }
	@echo "Installing into $(VENV) (a minute or two) …"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

run: install
	@$(VENV)/bin/python notebooks/run.py $(filter-out PYTHON=%,$(MAKEOVERRIDES))

test: install
	@$(VENV)/bin/python -m pytest

test-long: install
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "jax>=0.5"  # Keras's other backend
	@$(VENV)/bin/python -m pytest -m long

FOLDER ?= data/chest_xray/test
benchmark: install
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@$(VENV)/bin/python benchmarks/loading.py $(FOLDER) --rounds 15 --save benchmarks/loading

lint: install
	@$(VENV)/bin/ruff check

lock: install
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(VENV)/bin/uv pip compile --universal --python-version 3.10 --upgrade --no-header --no-annotate --quiet \
		--no-emit-package opencv-python requirements-dev.txt -o requirements.lock

clean:
	rm -rf $(VENV) outputs
