# `make run` and `make test` are all that a fresh machine needs. Settings go on the line: make run EPOCHS=3 DATA_DIR=…
# A setting, PYTHON, FOLDER or REPO reaches the programs through the environment, as it was typed: neither make nor the shell may read
# $, ;, quotes or blanks in it as its own. (What cannot be helped: make drops blanks before a value, and NAME:=… and NAME!=… are its own.)
override GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name)))$(eval export $(name)))
override VENV := .venv
override SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
export PYTHONUNBUFFERED := 1

.PHONY: help install run test notebook docs test-long test-colab test-browser coverage find-colab find-browser benchmark banner badge lint lock clean

help:
	@echo "make run    install, get the data, run the notebook; results in outputs/"
	@echo "            (any setting of the notebook: make run EPOCHS=3 DATA_DIR=path RUN_NAME=mine)"
	@echo "make test   install, run the tests; make test-long: those that take minutes"
	@echo "make notebook  build notebooks/chest_xray_pneumonia.ipynb from the package cxr/ and the text beside it"
	@echo "make coverage  the same tests, and which lines of cxr/ they reach"
	@echo "make test-colab    the tests of notebook and package on Python 3.13 with the versions that Colab ships"
	@echo "make test-browser  use the notebook in JupyterLab with Chromium; screenshots in outputs/browser/"
	@echo "make benchmark  time the reading of images; FOLDER=path/to/pictures"
	@echo "make docs    run the notebook on phantoms, and write the copy to read, docs/tutorial.ipynb (some minutes)"
	@echo "make banner  draw the pictures of the README and of the first cell from a run on phantoms"
	@echo "make badge  write this repository's address into the Colab badges; REPO=owner/name"
	@echo "make lint   check style and types"
	@echo "make lock   write requirements.lock anew, with the newest versions (and requirements-colab.lock)"
	@echo "make clean  remove the virtual environment and outputs/, not the data"

# The lock has OpenCV without windows (opencv-python-headless): the same code, and no libGL needed from the system.
install: $(VENV)/installed
$(VENV)/installed: requirements.lock
	@test -n "$$PYTHON" || for PYTHON in python3 python3.13 python3.12 python3.11 python3.10 ""; do \
		"$$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && break; done; \
	test -n "$$PYTHON" || { echo "CPython 3.10 to 3.13 is needed; found none. Name one: make PYTHON=/path/to/python"; exit 1; }; \
	echo "Installing into $(VENV) (a minute or two) …"; \
	"$$PYTHON" -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

run: export CXR_GIVEN := $(filter-out PYTHON,$(GIVEN))
run: install
	@$(VENV)/bin/python tools/run.py

test: install
	@$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE)

notebook: install
	@$(VENV)/bin/python tools/build.py

docs: notebook
	@test -d data/phantoms/chest_xray || $(VENV)/bin/python -m cxr.phantoms
	@$(VENV)/bin/python tools/docs.py

coverage: install
	@$(VENV)/bin/python -m pytest --cov --cov-report=term-missing

test-long: install
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "jax>=0.5"  # Keras's other backend
	@$(VENV)/bin/python -m pytest -m long $(SIDE_BY_SIDE)

# Python 3.13 and the versions of Colab, in an environment of their own. What is called python3.13 may be a stand-in: each is tried.
# There the notebook runs and the package's code, not the tools, texts and benchmarks of this repository. What takes minutes of training
# (Grad-CAM on phantoms) is left to `make test`: the whole notebook, which has it too, runs there as well.
override NOT_IN_COLAB := $(foreach name,badge banner benchmarks build docs readme sweep,--ignore tests/test_$(name).py) \
	$(foreach name,phantoms grad_cam,--deselect tests/test_explain.py::test_$(name))
override COLAB := .venv-colab
override FIND_313 = set -- python3.13 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.13*/bin/python; \
	test -z "$$PYTHON313" || set -- "$$PYTHON313"; \
	for python in "$$@" ""; do \
		"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && break; done
find-colab:
	@$(FIND_313); test -n "$$python" || { echo "Python 3.13, which Colab has, was not found: get it with apt-get install python3.13-venv" \
		"or pyenv install 3.13, or name it in make test-colab PYTHON313=/path/to/python"; exit 1; }

$(COLAB)/installed: requirements-colab.lock | find-colab
	@echo "Installing what Colab ships into $(COLAB) (a few minutes) …"
	@$(FIND_313); "$$python" -m venv --clear $(COLAB)
	@$(COLAB)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-colab.lock
	@touch $@

test-colab: $(COLAB)/installed
	@EXACT_VERSIONS=requirements-colab.txt $(COLAB)/bin/python -m pytest $(NOT_IN_COLAB)

find-browser:
	@for program in chromium chromedriver; do command -v $$program >/dev/null || { \
		echo "$$program was not found; on Debian: apt-get install chromium chromium-driver"; exit 1; }; done

test-browser: find-browser install
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "selenium>=4.20,<5"
	@$(VENV)/bin/python -m pytest -m browser

benchmark: install
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@$(VENV)/bin/python benchmarks/loading.py --rounds 15 --save benchmarks/results/loading -- "$${FOLDER:-data/chest_xray/test}"

banner: install
	@test -d data/phantoms/chest_xray || $(VENV)/bin/python -m cxr.phantoms
	@$(VENV)/bin/python tools/run.py DATA_DIR=data/phantoms/chest_xray OUTPUT_DIR=outputs/banner PRESET=quick
	@$(VENV)/bin/python tools/banner.py outputs/banner data/phantoms/chest_xray docs/banner.png
	@$(VENV)/bin/python tools/banner.py --small outputs/banner data/phantoms/chest_xray docs/first_screen.png
	@$(VENV)/bin/python tools/build.py

badge: install
	@$(VENV)/bin/python tools/badge.py "$$REPO"
	@$(VENV)/bin/python tools/build.py

lint: install
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/mypy

lock: install
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(VENV)/bin/uv pip compile --universal --python-version 3.10 --upgrade --no-header --no-annotate --quiet \
		--no-emit-package opencv-python requirements-dev.txt -o requirements.lock
	@$(VENV)/bin/uv pip compile --python-version 3.13 --upgrade --no-header --no-annotate --quiet \
		--no-emit-package opencv-python requirements-colab.txt -o requirements-colab.lock

clean:
	rm -rf $(VENV) $(COLAB) outputs
