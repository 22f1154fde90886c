"""Shared fixtures: folders of phantoms, and an environment without a network."""

import gc
import importlib.util
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import matplotlib
import pytest

gc.disable()  # while modules are imported: it would take a quarter of the time
# The processes of `pytest -n` share the cores, and what they start inherits this.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")
# A shell that runs this in the background ignores Ctrl-C, and so would child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)
# And nohup ignores the end of a terminal.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# `make test-browser` installs selenium.
has_selenium = importlib.util.find_spec("selenium")
collect_ignore = [] if has_selenium else ["test_browser.py"]
matplotlib.use("agg")  # only here: a kernel must show its figures inline
ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As in section 0 of the notebook.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
# For download_data.sh, which would use the Python of .venv.
os.environ["PYTHON"] = sys.executable
# A kernel is that of this environment, even if the user has another "python3".
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
# A port where nothing listens: all network access is refused at once, in kernels too.
for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[name] = "http://127.0.0.1:9"
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = "127.0.0.1"

from cxr.phantoms import write_phantoms  # noqa: E402
from cxr.storage import lock_folder  # noqa: E402


def pytest_configure(config):
    """Let programs that tests start import what the tests can import."""
    places = [*map(str, config.getini("pythonpath")), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: two processes then end together."""
    items.sort(key=lambda item: item.path.stem not in ("test_notebook", "test_gpu"))


@pytest.fixture(autouse=True)
def same_world():
    """Undo what a test changes: environment, figures, style, working folder."""
    environment = dict(os.environ)
    style = dict(matplotlib.rcParams)
    folder = Path.cwd()
    if keras := sys.modules.get("keras"):
        # So that the weights of a new layer are the same in each run.
        keras.utils.set_random_seed(0)
    yield
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of the parameters are deprecated
            matplotlib.rcParams.update(style)
    if keras := sys.modules.get("keras"):
        keras.config.set_dtype_policy("float32")


def command_to_run(notebook):
    """Return the command that runs a notebook as `make run` does, without settings."""
    code = f"import run; run.NOTEBOOK = run.Path({str(notebook)!r}); run.main()"
    return [sys.executable, "-c", code]


def hide_project(folder):
    """Return the environment of a user who has only the notebook of this project.

    The kernel refuses to import the package, which is installed beside the libraries.
    `folder` receives the kernel's configuration.
    """
    startup = folder / "profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "hide.py").write_text("import sys\nsys.modules['cxr'] = None\n")
    return {**os.environ, "PYTHONPATH": "", "IPYTHONDIR": str(folder)}


def draw_once(factory, name, *numbers, seed):
    """Draw phantoms and their masks into a folder of this name, and return it.

    The processes of `pytest -n` share the folder.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with lock_folder(base, f"drawing {name}"):
        if not (folder / "chest_xray").exists():  # it appears when it is complete
            write_phantoms(
                folder / "chest_xray", *numbers, seed=seed, masks=folder / "masks"
            )
    return folder


@pytest.fixture(scope="session")
def few_phantoms(tmp_path_factory):
    """A folder with few phantoms in chest_xray/, and their masks in masks/."""
    return draw_once(tmp_path_factory, "few", 180, 16, 60, seed=1)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A folder with phantoms in chest_xray/ and their masks in masks/."""
    return draw_once(tmp_path_factory, "phantoms", 420, 16, 160, seed=1)


@pytest.fixture(scope="session")
def drawn_tiny(tmp_path_factory):
    return draw_once(tmp_path_factory, "tiny", 24, 4, 8, seed=2) / "chest_xray"


@pytest.fixture
def tiny(drawn_tiny, tmp_path):
    """A fresh, small phantom data set that a test may damage."""
    return shutil.copytree(drawn_tiny, tmp_path / "chest_xray")
