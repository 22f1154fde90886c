"""The first code cell: packages that are missing or do not fit end in one sentence."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from build import TEXT

# Replaces what looks at the packages, and what installs them.
PRELUDE = """if True:
    import importlib.metadata
    import importlib.util
    import subprocess
    from types import SimpleNamespace

    def install(command, check):
        installed.append(command)
        if installs:
            absent.clear()

    installed, installs, absent = [], {installs}, {absent}
    find_spec, version = importlib.util.find_spec, importlib.metadata.version
    importlib.util.find_spec = lambda name: absent.get(name, find_spec(name))
    importlib.metadata.version = lambda name: {versions}.get(name) or version(name)
    subprocess.run = install
"""
EMPTY_FOLDER = "SimpleNamespace(origin=None)"


def read_first_cell():
    book = nbformat.read(TEXT.with_suffix(".ipynb"), as_version=4)
    return next(cell.source for cell in book.cells if cell.cell_type == "code")


def run_first_cell(absent="{}", installs=False, versions=None, **environment):
    """Run the cell in a new process; return (what it printed, its last error line)."""
    code = PRELUDE.format(installs=installs, absent=absent, versions=versions or {})
    cell = read_first_cell()
    cell = cell[: cell.index("# Fewer messages")]  # before TensorFlow is imported
    code += f"{cell}\nprint('INSTALLED', [command[-1] for command in installed])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    return done.stdout, (done.stderr.strip().splitlines() or [""])[-1]


def test_what_is_there_is_not_installed():
    assert run_first_cell() == ("INSTALLED []\n", "")


@pytest.mark.parametrize("absent", ["None", EMPTY_FOLDER])
def test_what_is_missing_is_installed_also_where_an_empty_folder_has_its_name(absent):
    printed, error = run_first_cell(f"dict(cv2={absent})", installs=True)
    assert printed == "INSTALLED ['opencv-python']\n" and not error


def test_a_package_that_cannot_be_installed_is_named_with_what_to_type():
    _, error = run_first_cell(f"dict(cv2={EMPTY_FOLDER}, sklearn=None)")
    assert error.startswith("RuntimeError: ")
    assert "opencv-python, scikit-learn" in error
    assert "-m pip install --force-reinstall opencv-python scikit-learn" in error


@pytest.mark.parametrize(
    ("versions", "environment", "words"),
    [
        ({"keras": "2.15.0"}, {}, "Keras 2.15.0 .*%pip install --upgrade keras"),
        ({}, {"KERAS_BACKEND": "torch"}, "'torch'.*tensorflow or jax"),
    ],
)
def test_a_version_or_backend_that_does_not_fit_is_named(versions, environment, words):
    _, error = run_first_cell(versions=versions, **environment)
    assert error.startswith("RuntimeError: ") and re.search(words, error)


DYING_LIBRARY = """import os
os.write(2, b"The library was compiled to use AVX instructions\\n")
os.abort()
"""


WATCHFUL_LIBRARY = """import os
from pathlib import Path
assert not os.listdir(os.environ["KERAS_HOME"])
with (Path(__file__).parent.parent / "imported").open("a") as file:
    file.write("x")
layers = None
class ops:
    ones = staticmethod(lambda count: None)
"""


def test_the_message_of_a_library_that_ends_the_process_is_shown_at_the_next_start(
    tmp_path,
):
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras/__init__.py").write_text(DYING_LIBRARY)
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "TMPDIR": str(tmp_path / "temporary"),
    }

    def start():
        command = [sys.executable, "-c", read_first_cell()]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )

    assert start().returncode < 0  # it takes its message along
    second = start()
    assert second.returncode == 1 and "RuntimeError" in second.stderr
    assert "compiled to use AVX instructions" in second.stdout
    assert not list((tmp_path / "temporary").glob("chest-xray-notebook*"))


def test_a_start_beside_another_one_ignores_keras_json_as_well(tmp_path):
    """The file of a start that has not finished is there; so is a wrong keras.json."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras/__init__.py").write_text(WATCHFUL_LIBRARY)
    (tmp_path / "chest-xray-notebook-imports-keras").touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home/keras.json").touch()
    done = subprocess.run(
        [sys.executable, "-c", read_first_cell() + "\nprint('PASSED')"],
        env=os.environ
        | {
            "PYTHONPATH": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "KERAS_HOME": str(tmp_path / "home"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "PASSED\n", done.stderr
    assert (tmp_path / "imported").read_text() == "xx"  # by the trial, and then here
