# A fresh machine needs only `make run` and `make test`.
# Settings follow the target: make run EPOCHS=3 DATA_DIR="path/to/x-rays (2)"
VENV := .venv
COLAB := .venv-colab
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
export PYTHONUNBUFFERED := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install run test notebook docs test-long test-colab test-browser coverage \
	install-colab find-colab find-browser benchmark banner lint lock clean

help:
	@echo "make run           install, download the data, run the notebook; results in outputs/"
	@echo "                   (with any settings: make run EPOCHS=3 DATA_DIR=path RUN_NAME=mine)"
	@echo "make test          install, run the tests; make test-long: the tests that take minutes"
	@echo "make notebook      build notebooks/chest_xray_pneumonia.ipynb from cxr/ and its text"
	@echo "make coverage      run the tests, and list the lines of cxr/ that they do not reach"
	@echo "make test-colab    test the notebook alone, images and saved networks on Python 3.13"
	@echo "                   with the versions that Colab ships"
	@echo "make test-browser  use the notebook in JupyterLab with Chromium; screenshots in"
	@echo "                   outputs/browser/"
	@echo "make benchmark     time the reading of images; FOLDER=path/to/images"
	@echo "make docs          run the notebook on phantoms, and write docs/tutorial.ipynb, the copy"
	@echo "                   with outputs (some minutes)"
	@echo "make banner        draw the figures of the README and of the notebook's first cell"
	@echo "make lint          check style and types"
	@echo "make lock          update requirements.lock and requirements-colab.lock"
	@echo "make clean         remove the virtual environment and outputs/, not the data"

# Sets $$python to the first of the programs $(1) whose version satisfies $(2). A program
# that the user names in the variable $(3) is the only candidate.
define find_python
set -- $(1); test -z "$$$(3)" || set -- "$$$(3)"; \
for python in "$$@" ""; do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(not $(2))' 2>/dev/null && break; \
done
endef

# Installs the file $(2) into the environment $(1), with uv, which takes half the time of
# pip. Where uv cannot be installed or finds no index (it ignores pip's settings), pip does.
define install_lock
$(1)/bin/python -m pip install --quiet uv 2>/dev/null && \
$(1)/bin/uv pip install --quiet --python $(1)/bin/python -r $(2) 2>/dev/null || \
$(1)/bin/python -m pip install --quiet -r $(2)
endef

# Makes the package of this folder importable, also after the folder has been moved.
define install_package
$(1)/bin/python -I -c 'import cxr, os; assert os.path.samefile(cxr.__path__[0], "cxr")' 2>/dev/null || \
$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endef

# The locks have OpenCV without windows: the same code, and no libGL needed from the system.
install: $(VENV)/installed
	@$(call install_package,$(VENV))
$(VENV)/installed: requirements.lock
	@$(call find_python,python3 python3.13 python3.12 python3.11 python3.10,0x30a0000 <= sys.hexversion < 0x30e0000,PYTHON); \
	test -n "$$python" || { echo "$${PYTHON:+PYTHON=$$PYTHON cannot be used. }Required: CPython 3.10 to 3.13 with the module venv" \
		"(on Debian: apt-get install python3-venv). Choose one: make PYTHON=/path/to/python"; exit 1; }; \
	echo "Installing into $(VENV) (a minute or two) …"; \
	"$$python" -m venv $(VENV)
	@$(call install_lock,$(VENV),requirements.lock)
	@touch $@

# Make puts what is typed after the target into the environment, where run.py reads the
# names in CXR_GIVEN. Settings that were already in the environment are used as well.
SETTINGS = $(shell sed -n '/"advanced"/,/\[markdown\]/s/^\([A-Z_]*\) = .*/\1/p' notebooks/chest_xray_pneumonia.py)
TYPED = $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
FOUND = $(foreach name,$(SETTINGS),$(if $(filter environment,$(origin $(name))),$(name)))
run: export CXR_GIVEN = $(filter-out PYTHON,$(TYPED)) $(FOUND)
run: install
	@$(foreach name,$(FOUND),echo "From the environment: $(name)=$$$(name)";) $(VENV)/bin/python tools/run.py

test: install
	@$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE)

notebook: install
	@$(VENV)/bin/python tools/build.py

docs: notebook
	@$(VENV)/bin/python tools/docs.py

coverage: install
	@$(VENV)/bin/python -m pytest --cov --cov-report=term-missing

test-long: install
	@# Keras's other backend, and the packages that export a network to ONNX
	@$(VENV)/bin/python -m pip install --quiet "jax>=0.5" tf2onnx onnx onnxruntime
	@$(VENV)/bin/python -m pytest -m long $(SIDE_BY_SIDE)

# An environment with the versions that Colab ships. A program called python3.13 may be a
# launcher that fails, so each candidate is tried.
FIND_313 = $(call find_python,python3.13 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.13*/bin/python,0x30d0000 <= sys.hexversion < 0x30e0000,PYTHON313)
find-colab:
	@$(FIND_313); test -n "$$python" || { echo "Python 3.13, which Colab uses, was not found: install it with apt-get install python3.13-venv" \
		"or pyenv install 3.13, or name it: make test-colab PYTHON313=/path/to/python"; exit 1; }

$(COLAB)/installed: requirements-colab.lock | find-colab
	@echo "Installing the versions that Colab ships into $(COLAB) (a minute or two) …"
	@$(FIND_313); "$$python" -m venv --clear $(COLAB)
	@$(call install_lock,$(COLAB),requirements-colab.lock)
	@touch $@

install-colab: $(COLAB)/installed
	@$(call install_package,$(COLAB))

# Networks are exchanged with the environment of requirements.lock, OTHER_PYTHON. How much
# memory a process may use does not depend on Colab's versions.
test-colab: install install-colab
	@OTHER_PYTHON=$(VENV)/bin/python $(COLAB)/bin/python -m pytest -m "not long and not browser" -k "not memory" $(patsubst %,tests/test_%.py,lone images dicom models)

find-browser:
	@for program in chromium chromedriver; do command -v $$program >/dev/null || { \
		echo "$$program was not found; on Debian: apt-get install chromium chromium-driver"; exit 1; }; done

test-browser: find-browser install
	@$(VENV)/bin/python -m pip install --quiet "selenium>=4.20,<5"
	@$(VENV)/bin/python -m pytest -m browser tests/test_browser.py

benchmark: install
	@$(VENV)/bin/python -m pip install --quiet -r benchmarks/requirements.txt
	@$(VENV)/bin/python benchmarks/loading.py --rounds 15 --save benchmarks/results/loading -- "$${FOLDER:-data/chest_xray/test}"

data/phantoms/chest_xray: | install
	@$(VENV)/bin/python -m cxr.phantoms $@

banner: data/phantoms/chest_xray
	@$(VENV)/bin/python tools/run.py DATA_DIR=data/phantoms/chest_xray OUTPUT_DIR=outputs/banner PRESET=quick
	@$(VENV)/bin/python tools/banner.py outputs/banner
	@$(VENV)/bin/python tools/build.py

lint: install
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check --quiet || { echo "Run .venv/bin/ruff format"; exit 1; }
	@$(VENV)/bin/mypy

LOCK = $(VENV)/bin/uv pip compile --upgrade --no-header --no-annotate --quiet --no-emit-package opencv-python pyproject.toml --extra dev
lock: install
	@$(VENV)/bin/python -m pip install --quiet uv
	@$(LOCK) --extra headless --universal --python-version 3.10 -o requirements.lock
	@$(LOCK) --extra colab --python-version 3.13 -o requirements-colab.lock

clean:
	rm -rf $(VENV) $(COLAB) outputs
