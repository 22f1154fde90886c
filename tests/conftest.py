"""What the tests share: a folder of phantoms, and a world with no network."""

import importlib.util
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import matplotlib
import pytest

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell that runs this in the background ignores Ctrl-C, children too
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup the end of a terminal
collect_ignore = (
    [] if importlib.util.find_spec("selenium") else ["test_browser.py"]
)  # make test-browser installs it
matplotlib.use("agg")  # here only: a kernel must show its figures inline
ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_CPU_ALLOCATOR_USE_BFC", "true"
)  # as in section 0 of the notebook
os.environ["PYTHON"] = (
    sys.executable
)  # for download_data.sh, which would take that of .venv
os.environ["JUPYTER_PREFER_ENV_PATH"] = (
    "1"  # a kernel is this environment's, also where the user has another "python3"
)
# A port where nothing listens: whatever asks for the network is refused at once, here and in every kernel.
for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[name] = "http://127.0.0.1:9"
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = "127.0.0.1"

from cxr.phantoms import write_phantoms  # noqa: E402
from cxr.storage import lock_folder  # noqa: E402


def pytest_configure(config):
    """The programs that tests start find the scripts that the tests find."""
    places = [*map(str, config.getini("pythonpath")), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))


@pytest.fixture(autouse=True)
def same_world():
    """No test leaves anything for the next one: in the environment, an open figure, another style, another working folder."""
    environment, style, folder = dict(os.environ), dict(matplotlib.rcParams), Path.cwd()
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(
            0
        )  # so the weights of a new layer are the same in each run
    yield
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # some parameters of matplotlib are deprecated, reading them is not
            matplotlib.rcParams.update(style)
    if keras := sys.modules.get("keras"):
        keras.config.set_dtype_policy("float32")


def command_to_run(notebook):
    """Return the command that does with this notebook what `make run` does with the project's; settings follow it."""
    code = f"import run; run.NOTEBOOK = run.Path({str(notebook)!r}); run.main()"
    return [sys.executable, "-c", code]


def hide_project(folder):
    """Return the environment of a user who has the notebook and nothing else of this project.

    The kernel refuses to import the package, which is installed beside the libraries.
    `folder` receives the kernel's configuration.
    """
    startup = folder / "profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "hide.py").write_text("import sys\nsys.modules['cxr'] = None\n")
    return {**os.environ, "PYTHONPATH": "", "IPYTHONDIR": str(folder)}


def draw_once(factory, name, *numbers, seed):
    """Draw phantoms, and their masks, into a folder of this name, unless the other process of `pytest -n 2` has; return it."""
    base = (
        factory.getbasetemp().parent
        if "PYTEST_XDIST_WORKER" in os.environ
        else factory.getbasetemp()
    )
    folder = base / name
    with lock_folder(base, f"drawing {name}"):
        if not (folder / "chest_xray").exists():  # which appears when it is whole
            write_phantoms(
                folder / "chest_xray", *numbers, seed=seed, masks=folder / "masks"
            )
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A folder with a small phantom data set in chest_xray/, and its masks in masks/."""
    return draw_once(tmp_path_factory, "phantoms", 420, 16, 160, seed=1)


@pytest.fixture(scope="session")
def drawn_tiny(tmp_path_factory):
    return draw_once(tmp_path_factory, "tiny", 24, 4, 8, seed=2) / "chest_xray"


@pytest.fixture
def tiny(drawn_tiny, tmp_path):
    """A fresh, small phantom data set that a test may damage."""
    return shutil.copytree(drawn_tiny, tmp_path / "chest_xray")
