"""`make run`: settings, printed text, the page, interruptions, one run in a folder.

The notebooks that run here are small; test_notebook.py runs the project's own.
"""

import contextlib
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys

import nbformat
import pytest
import run
from conftest import ROOT, command_to_run

# Settings


def test_settings_are_read_as_literals_texts_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["EPOCHS=3", "LEARNING_RATE=1e-4", "RUN_NAME=7", "AUGMENT=False"]
    words += ["IMAGE_SIZE=None", "DATA_DIR=a b", "PRESET=full"]
    assert run.parse_settings(words) == {
        "EPOCHS": 3,
        "LEARNING_RATE": 1e-4,
        "RUN_NAME": "7",
        "AUGMENT": False,
        "IMAGE_SIZE": None,
        "DATA_DIR": str(tmp_path / "a b"),
        "PRESET": "full",
    }


def test_a_folder_may_begin_with_a_tilde_or_be_left_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    words = ["DATA_DIR=~/x-rays", "CACHE_DIR=None", "OUTPUT_DIR="]
    monkeypatch.setattr("sys.argv", ["run.py", *words])
    assert run.read_settings() == {
        "DATA_DIR": "/home/somebody/x-rays",
        "CACHE_DIR": "",
        "OUTPUT_DIR": str(ROOT / "outputs"),
    }


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("EPOCH=3", "there is no setting EPOCH"),
        ("EPOCHS", "there is no setting EPOCHS"),
        ("PRESETS={}", "there is no setting PRESETS"),
        ("GEOMETRY=fit", "GEOMETRY is now called RESIZE_MODE, and its value 'fit'"),
        ("RESAMPLES=50", "RESAMPLES is now called BOOTSTRAP_SAMPLES"),
        (r"OUTPUT_DIR=C:\Users\me", r"OUTPUT_DIR is 'C:\\Users\\me', but it should"),
        (
            "DATA_DIR=~nobody-of-this-name/x",
            "DATA_DIR is '~nobody-of-this-name/x', but",
        ),
        ("DATA_DIR=/x/\udcff", r"DATA_DIR is b'/x/\xff', which is not UTF-8"),
    ],
)
def test_an_invalid_setting_is_refused_by_name(word, reason):
    with pytest.raises(SystemExit, match=re.escape(f"make run: {reason}")):
        run.parse_settings([word])


def test_outside_its_environment_the_script_names_the_command():
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "tools/run.py")],  # -S: no site-packages
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "has no package" in done.stderr and "type `make run`" in done.stderr


# The page and the closing summary


@pytest.fixture
def executed(tmp_path):
    """A small executed notebook with a badge, a figure, collapsed code and a bar."""
    png = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAA"
        "ABJRU5ErkJggg=="
    )
    badge = (
        "[![Open In Colab](https://colab.example/badge.svg)](https://colab.example/)"
    )
    figure = nbformat.v4.new_output("display_data", {"image/png": png})
    pieces = ["\rLoading:  10%", "\rLoading: 100%\n", "1:  50%\r        \r1: done\n"]
    bar = [nbformat.v4.new_output("stream", text=piece) for piece in pieces]
    cells = [
        nbformat.v4.new_markdown_cell(f"# Of lungs\n\n{badge}\n\n![two](data:x)"),
        nbformat.v4.new_code_cell("plumbing = 1", metadata={"tags": ["hide-input"]}),
        nbformat.v4.new_code_cell("lesson = 2", outputs=[*bar, figure]),
    ]
    path = tmp_path / "lungs.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_of_a_progress_bar_only_the_last_state_is_left(executed):
    run.settle_progress(executed)
    stream, figure = nbformat.read(executed, as_version=4).cells[2].outputs
    assert stream.text == "Loading: 100%\n1: done\n"
    assert "image/png" in figure.data


def test_the_page_shows_the_lesson_needs_no_network_and_fits_a_phone(executed):
    run.export_html(executed, executed.with_suffix(".html"))
    page = executed.with_suffix(".html").read_text(encoding="utf-8")
    assert "<title>lungs</title>" in page
    assert "lesson" in page and "plumbing" not in page
    assert re.search(r'<meta [^>]*name="viewport"', page)
    loaded = r'<script|<link|@import|\bsrc="(?!data:)|url\((?!["\']?data:)'
    assert re.findall(loaded, page) == []
    assert page.count('src="data:') == 2
    assert '<a href="https://colab.example/">Open In Colab</a>' in page


@contextlib.contextmanager
def limit_file_size(size):
    """Limit the size of files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_while_the_page_is_written_leaves_the_old_one(executed):
    page = executed.with_suffix(".html")
    page.write_text("the page of the run before")
    with limit_file_size(100_000), pytest.raises(OSError, match="is full: free some"):
        run.export_html(executed, page)
    assert page.read_text() == "the page of the run before"


@pytest.mark.parametrize(
    ("data", "official", "words"),
    [
        ("phantom", False, "PHANTOM radiographs"),
        ("chest-xray-pneumonia", False, "not in its official split"),
        (
            "chest-xray-pneumonia",
            True,
            "the chest X-ray set (8 training, 2 validation and 4 test images)",
        ),
    ],
)
def test_the_closing_summary_names_the_data_and_the_uncertainty(
    tmp_path, data, official, words
):
    report = make_report(data=data, official_split=official)
    report["test"]["auc"] = {"value": None, "low": None, "high": None}
    (tmp_path / "metrics.json").write_text(json.dumps(report))
    summary = run.describe_outcome(tmp_path, 90)
    assert words in summary and "1.5 minutes" in summary
    assert "accuracy 0.900 [0.800–0.950], AUC not measurable" in summary


def make_report(**changed):
    """Return the part of metrics.json that run.py reads."""
    metrics = ("accuracy", "auc", "sensitivity", "specificity")
    report = {
        "data": "phantom",
        "official_split": False,
        "device": "CPU",
        "counts": {
            "train": {"NORMAL": 3, "PNEUMONIA": 5},
            "val": {"NORMAL": 1, "PNEUMONIA": 1},
            "test": {"NORMAL": 2, "PNEUMONIA": 2},
        },
        "test": {name: {"value": 0.9, "low": 0.8, "high": 0.95} for name in metrics},
    }
    return report | changed


# Whole runs, of a notebook that is small

INTERRUPTED = (
    "\nmake run: interrupted. The same command resumes after the last finished epoch.\n"
)


def write_notebook(folder, source):
    """Write a notebook that runs `source`, and reports RUN_NAME as the device."""
    settings = 'RUN_NAME = "reference"\nOUTPUT_DIR = ""'
    end = f"""import json, pathlib
report = {make_report()!r} | {{"device": RUN_NAME}}
pathlib.Path(OUTPUT_DIR, "metrics.json").write_text(json.dumps(report))"""
    cells = [
        nbformat.v4.new_code_cell(settings, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"import os, signal, sys, time\n{source}"),
        nbformat.v4.new_code_cell(end),
    ]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "small.ipynb")


def begin(folder, *words, stdout=subprocess.PIPE, **environment):
    return subprocess.Popen(
        [*command_to_run(folder / "small.ipynb"), *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
    )


def finish(process):
    """Return (exit code, stdout, stderr) of a run."""
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_in_one_sentence_and_can_be_resumed(tmp_path, number):
    """The kernel has ended before the sentence appears."""
    write_notebook(
        tmp_path,
        """print(os.environ["CXR_HEADLESS"], os.getpid(), flush=True)
kept = os.path.join(OUTPUT_DIR, "kept")
if not os.path.exists(kept):
    open(kept, "w").close()
    print("begun", flush=True)
    time.sleep(60)""",
    )
    first = begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}")
    headless, kernel = first.stdout.readline().split()
    assert headless == "1" and first.stdout.readline() == "begun\n"
    os.killpg(first.pid, number)
    assert finish(first) == (128 + number, "", INTERRUPTED)
    with pytest.raises(ProcessLookupError):
        os.kill(int(kernel), 0)
    assert not list((tmp_path / "out").glob("*.html"))
    if number == signal.SIGINT:
        again = begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}")
        returned, out, errors = finish(again)
        assert returned == 0 and errors == "" and "begun" not in out
        assert "ran from the first cell to the last" in out
        assert (tmp_path / "out/small.html").exists()


def test_of_two_runs_in_one_folder_the_second_waits_and_each_reports_its_own_results(
    tmp_path,
):
    write_notebook(
        tmp_path,
        """print("in", flush=True)
while not os.path.exists(os.path.join(os.path.dirname(OUTPUT_DIR), "go")):
    time.sleep(0.05)""",
    )
    out = tmp_path / "out"
    first = begin(tmp_path, f"OUTPUT_DIR={out}", "RUN_NAME=first")
    assert first.stdout.readline() == "in\n"
    second = begin(tmp_path, f"OUTPUT_DIR={out}/.", "RUN_NAME=second")
    line = second.stdout.readline()
    assert f"running the notebook into {out}" in line and "waiting" in line
    third = begin(tmp_path, f"OUTPUT_DIR={out}")
    assert third.stdout.readline() == line
    third.send_signal(signal.SIGINT)  # a waiting run can be interrupted
    assert finish(third) == (130, "", INTERRUPTED)
    (tmp_path / "go").touch()
    returned, printed, _ = finish(first)
    assert returned == 0 and "on first." in printed and "second" not in printed
    returned, printed, _ = finish(second)
    assert returned == 0 and printed.startswith("in\n") and "on second." in printed


@pytest.fixture
def fail_in_process(monkeypatch):
    """Return a function that calls run.main() here and returns its last message.

    Python prints this message to stderr, and exits with 1.
    """

    def call(folder, notebook=run.NOTEBOOK):
        monkeypatch.setattr("run.NOTEBOOK", notebook)
        monkeypatch.setattr("sys.argv", ["run.py", f"OUTPUT_DIR={folder}"])
        monkeypatch.setattr("run.signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as caught:
            run.main()
        return caught.value.code.strip()

    return call


def test_a_kernel_that_dies_ends_the_run_with_advice(fail_in_process, tmp_path, capsys):
    write_notebook(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    message = fail_in_process(tmp_path / "out", tmp_path / "small.ipynb")
    assert "make run: the kernel died" in message and "\n" not in message
    assert "smaller IMAGE_SIZE or BATCH_SIZE" in message
    assert f"{tmp_path}/out/small.unfinished.ipynb" in message
    printed = capsys.readouterr()
    assert printed.out.strip() == printed.err == ""


def test_an_error_in_the_notebook_ends_the_run_with_its_message(
    fail_in_process, tmp_path, capsys
):
    write_notebook(tmp_path, "raise ValueError('no lungs')")
    message = fail_in_process(tmp_path / "out", tmp_path / "small.ipynb")
    assert message.startswith("make run: stopped with ValueError: no lungs\n")
    assert "Traceback" not in message
    printed = capsys.readouterr()
    assert printed.out.strip() == printed.err == ""
    assert not (tmp_path / "out/small.html").exists()


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("/proc/outputs", "No such file or directory"),  # root may write elsewhere
        ("/dev/null", "File exists"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(fail_in_process, folder, reason):
    message = fail_in_process(folder)
    assert message == (
        f"make run: OUTPUT_DIR {folder} cannot be written ({reason}): "
        "choose another folder."
    )


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "is full: free some space and run this again"),
        (errno.EROFS, "cannot be written (Read-only file system): choose another"),
    ],
)
def test_a_disk_that_fails_during_a_run_is_named(
    fail_in_process, tmp_path, monkeypatch, number, reason
):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("run.papermill.execute_notebook", fail)
    assert f"make run: {tmp_path} {reason}" in fail_in_process(tmp_path)


# Printed text

BAR = r"""for percent in range(500):
    print(f"\rLoading: {percent / 5:.0f}%", end="", flush=True)
print("\rLoading: 100%\nloaded – 肺")"""


def test_in_a_log_a_bar_is_one_line_and_a_character_may_be_missing(tmp_path):
    """Braces in the folder are not formatted, and no shell interprets the name."""
    name = "ö \"'\\$(x)"
    folder = tmp_path / "ö {RUN_NAME} {0}"
    write_notebook(tmp_path, BAR)
    process = begin(
        tmp_path, f"OUTPUT_DIR={folder}", f"RUN_NAME={name}", PYTHONIOENCODING="latin-1"
    )
    process.stdout.reconfigure(encoding="utf-8", errors="replace")
    returned, out, errors = finish(process)
    assert returned == 0 and errors == ""
    assert out.startswith("Loading: 100%\nloaded ") and "\r" not in out
    assert "The notebook ran" in out and (folder / "small.html").exists()
    assert json.loads((folder / "metrics.json").read_text())["device"] == name


def test_in_a_terminal_a_progress_bar_moves(tmp_path):
    """The notebook may lock the folder for its cache; the run does not wait for it."""
    imports = "from pathlib import Path\nfrom cxr.storage import lock_folder"
    lock = "with lock_folder(Path(OUTPUT_DIR), 'x'): 1"
    write_notebook(tmp_path, f"{imports}\n{lock}\n{BAR}")
    terminal, child_end = os.openpty()
    process = begin(tmp_path, f"OUTPUT_DIR={tmp_path}", stdout=child_end)
    os.close(child_end)
    text = b""
    while b"in a browser" not in text:
        text += os.read(terminal, 65536)
    assert process.wait() == 0
    os.close(terminal)
    assert text.count(b"\rLoading") > 10 and b"waiting" not in text


def test_output_that_cannot_be_written_ends_the_run_with_one_sentence(tmp_path):
    write_notebook(tmp_path, "print('in')")
    with open("/dev/full", "w") as full:
        process = begin(tmp_path, f"OUTPUT_DIR={tmp_path}", stdout=full)
        returned, _, errors = finish(process)
    assert returned == 1 and len(errors.splitlines()) == 1
    assert "output cannot be written (No space left on device)" in errors


class RecordingStream:
    """A stream that is not a terminal, and records the text written to it."""

    def __init__(self):
        self.text = []

    def isatty(self):
        return False

    def flush(self):
        pass

    def write(self, text):
        self.text.append(text)


def test_a_slow_bar_is_one_line_a_minute_and_its_end_is_not_lost(monkeypatch):
    seconds = [0]
    stream = RecordingStream()
    monkeypatch.setattr("run.time.monotonic", lambda: seconds[0])
    log = run.Log(stream)
    for seconds[0] in range(0, 150, 10):
        log.write(f"\rDownloading: {seconds[0]} MB")
    assert stream.text == ["Downloading: 70 MB\n", "Downloading: 140 MB\n"]
    log.write("\rDownloading: 150 MB")
    log.close()
    assert stream.text[2:] == ["Downloading: 150 MB\n"]
