"""The notebook as Colab has it: one file in an empty folder, without its project."""

import importlib.metadata
import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, hide_project
from run import KERNEL_START_TIMEOUT
from test_notebook import NOTEBOOK, SMALLEST

pytestmark = pytest.mark.lone


def read_pins():
    """Return {package: version} of what Colab ships."""
    import tomllib  # not in Python 3.10

    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    return dict(requirement.split("==") for requirement in extras["colab"])


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Colab has Python 3.13")
def test_the_versions_are_those_of_colab():
    pins = read_pins()
    found = {package: importlib.metadata.version(package) for package in pins}
    assert found == pins


def test_the_lone_notebook_runs_in_an_empty_folder_with_the_settings_of_papermill(
    tmp_path,
):
    """No project around it, no network; half precision to the last section."""
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(NOTEBOOK, folder)
    chosen = SMALLEST | {
        "EPOCHS": 1,
        "BASELINE_EPOCHS": 0,
        "OUTPUT_DIR": "results",
        "LEARNING_RATE": 0.002,
        "SEED": 5,
        "RUN_NAME": "lone",
        "PRESET": "full",
        "MIXED_PRECISION": "on",
    }
    command = [sys.executable, "-m", "papermill", NOTEBOOK.name, "out.ipynb"]
    for name, value in chosen.items():
        command += ["-p", name, str(value)]
    done = subprocess.run(
        [*command, "--no-progress-bar", "--start-timeout", str(KERNEL_START_TIMEOUT)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=hide_project(tmp_path / "ipython"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "results/metrics.json").read_text())
    assert {name: report["settings"][name] for name in chosen} == chosen
    assert report["data"] == "phantom" and (folder / "results/best.keras").exists()
    for package in ("keras", "numpy", "tensorflow"):  # the kernel is of this Python
        version = importlib.metadata.version(package)
        assert report["versions"][package].startswith(version)
    python = "{}.{}.{}".format(*sys.version_info)
    assert report["versions"]["python"] == python
