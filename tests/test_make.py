"""`make` finds a Python, installs, and passes settings on.

These tests use a folder whose programs only record how they were called.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import run
from conftest import ROOT

ODD = ["/x/archive (1)/chest [2]", "a b/c", "it's", 'say "so"', "a; b & c", "*", "肺炎"]
PROGRAM = """import json, os, sys
names = os.environ.get("CXR_GIVEN", "").split()
call = {"words": sys.argv[1:], "given": {name: os.environ[name] for name in names}}
if "-I" not in sys.argv and "-m" not in sys.argv:
    json.dump(call, open(os.environ["CALLED"], "w"))"""


def write_program(path, source):
    """Write a program that runs this source, also in a folder with an odd name."""
    path.with_suffix(".source").write_text(source, encoding="utf-8")
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$0.source" "$@"\n')
    path.chmod(0o755)


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder, with an odd name, that holds the Makefile and an environment."""
    for name in ("PYTHON", "PYTHON313", "MAKEFLAGS", "CXR_GIVEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CALLED", str(tmp_path / "called.json"))
    folder = tmp_path / "a (1) b's"
    for name in (".venv/bin", "notebooks", "tools"):
        (folder / name).mkdir(parents=True)
    for name in ("Makefile", "notebooks/chest_xray_pneumonia.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements.lock").touch()
    (folder / ".venv/installed").touch()
    write_program(folder / ".venv/bin/python", PROGRAM)
    return folder


def call_make(folder, *words):
    """Run make in a folder; return its output, and how the last program was called."""
    command = ["make", "--silent", *words]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder.parent / "called.json").read_text())


@pytest.mark.parametrize("value", ODD)
def test_paths_and_names_arrive_as_they_were_typed(workshop, value):
    words = f"DATA_DIR={value}", f"RUN_NAME={value}", "EPOCHS=3", "PYTHON=not used"
    _, called = call_make(workshop, "run", *words)
    assert called["words"] == ["tools/run.py"]
    assert called["given"] == {"DATA_DIR": value, "RUN_NAME": value, "EPOCHS": "3"}
    called = call_make(workshop, "benchmark", f"FOLDER={value}")[1]
    assert called["words"][-2:] == ["--", value]


def test_without_settings_make_passes_nothing(workshop):
    assert call_make(workshop, "run") == (
        "",
        {"words": ["tools/run.py"], "given": {}},
    )
    called = call_make(workshop, "benchmark")[1]
    assert called["words"][-2:] == ["--", "data/chest_xray/test"]


def test_a_setting_before_the_command_is_used_and_printed(workshop, monkeypatch):
    monkeypatch.setenv("EPOCHS", "3")
    monkeypatch.setenv("DATA_DIR", "/x/archive (1)")
    monkeypatch.setenv("EPOCH", "4")  # not a setting
    printed, called = call_make(workshop, "run", "DATA_DIR=/typed")
    assert called["given"] == {"EPOCHS": "3", "DATA_DIR": "/typed"}
    assert printed == "From the environment: EPOCHS=3\n"


def test_what_make_passes_is_read_as_settings(monkeypatch):
    passed = {"EPOCHS": "3", "DATA_DIR": "/x/archive (1)", "RUN_NAME": "7"}
    monkeypatch.setattr("sys.argv", ["run.py"])
    for name, value in {**passed, "CXR_GIVEN": " ".join(passed)}.items():
        monkeypatch.setenv(name, value)
    settings = run.read_settings()
    assert settings.pop("OUTPUT_DIR") == str(ROOT / "outputs")
    assert settings == {"EPOCHS": 3, "DATA_DIR": "/x/archive (1)", "RUN_NAME": "7"}


def make_python(path, version, ensurepip=True):
    """Write a program that imitates a Python of this version, as far as make asks."""
    write_program(
        path,
        f"""import os, shutil, sys
if sys.argv[1] == "-c":
    {"" if ensurepip else "sys.exit(1)"}
    sys.hexversion = {version}
    exec(sys.argv[2])
elif sys.argv[1:3] == ["-m", "venv"]:
    print("venv of", {path.name!r}, flush=True)
    os.makedirs(sys.argv[3] + "/bin")
    here = sys.argv[0].removesuffix(".source")
    for suffix in ("", ".source"):
        shutil.copy(here + suffix, sys.argv[3] + "/bin/python" + suffix)
else:
    print(*sys.argv[1:], flush=True)
    sys.exit("uv" in sys.argv)""",
    )


def install(folder, **variables):
    words = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "--silent", "install", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_named_python_installs(workshop):
    """uv cannot be installed here, so pip is used."""
    shutil.rmtree(workshop / ".venv")
    make_python(workshop / "my python (3)", 0x30C0000)
    done = install(workshop, PYTHON=workshop / "my python (3)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "venv of my python (3)" in done.stdout
    assert "pip install --quiet -r requirements.lock" in done.stdout
    assert (workshop / ".venv/installed").exists()


@pytest.mark.parametrize(
    ("version", "ensurepip"),
    [(0x3090000, True), (0x30E0000, True), (0x30B0000, False), (None, True)],
    ids=["too old", "too new", "without venv", "not there"],
)
def test_a_python_that_does_not_fit_is_refused_in_a_sentence(
    workshop, version, ensurepip
):
    shutil.rmtree(workshop / ".venv")
    if version:
        make_python(workshop / "other", version, ensurepip)
    done = install(workshop, PYTHON=workshop / "other")
    assert done.returncode != 0
    assert done.stdout.startswith(
        f"PYTHON={workshop / 'other'} cannot be used. Required: CPython 3.10 to 3.13"
    )
    assert "Installing" not in done.stdout and not (workshop / ".venv").exists()


def test_the_first_python_that_fits_is_found(workshop, tmp_path, monkeypatch):
    shutil.rmtree(workshop / ".venv")
    (tmp_path / "bin").mkdir()
    make_python(tmp_path / "bin/python3", 0x3080000)
    make_python(tmp_path / "bin/python3.13", 0x30D0000, ensurepip=False)
    make_python(tmp_path / "bin/python3.12", 0x30C0000)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = install(workshop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "venv of python3.12" in done.stdout
