"""`make run`: settings from the command line, progress bars settled, the page, the closing words."""

import errno
import json
import os
import re
import signal
import subprocess
import sys

import nbformat
import pytest
import run
from conftest import ROOT, command_to_run


def test_settings_are_read_as_numbers_words_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["EPOCHS=3", "LEARNING_RATE=1e-4", "RUN_NAME=7", "AUGMENT=False", "IMAGE_SIZE=None", "DATA_DIR=a b", "PRESET=full"]
    settings = run.parse_settings(words)
    assert settings == {"EPOCHS": 3, "LEARNING_RATE": 1e-4, "RUN_NAME": "7", "AUGMENT": False, "IMAGE_SIZE": None,
                        "DATA_DIR": str(tmp_path / "a b"), "PRESET": "full"}


def test_a_folder_may_begin_with_a_tilde_or_be_left_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr("sys.argv", ["run.py", "DATA_DIR=~/x-rays", "CACHE_DIR=None", "OUTPUT_DIR="])
    assert run.read_settings() == {"DATA_DIR": "/home/somebody/x-rays", "CACHE_DIR": "", "OUTPUT_DIR": str(ROOT / "outputs")}


@pytest.mark.parametrize(("word", "reason"), [
    ("DATA_DIR=~nobody-of-this-name/x", r"~nobody-of-this-name/x', but it should not name the home"),
    ("DATA_DIR=/x/\udcff", r"b'/x/\\xff', which is not UTF-8")])
def test_a_folder_that_cannot_be_meant_or_written_down_is_refused(word, reason):
    with pytest.raises(SystemExit, match=f"make run: DATA_DIR is '?{reason}"):
        run.parse_settings([word])


@pytest.mark.parametrize("word", ["EPOCH=3", "EPOCHS", "PRESETS={}"])
def test_a_setting_that_does_not_exist_is_refused(word):
    with pytest.raises(SystemExit, match="no setting"):
        run.parse_settings([word])


@pytest.fixture
def executed(tmp_path):
    """A small executed notebook: a folded cell, and one with a progress bar in three pieces."""
    pieces = ["\rLoading:  10%", "\rLoading: 100%\n", "epoch 1:  50%\r        \repoch 1/1: done\n"]
    cells = [nbformat.v4.new_code_cell("secret_plumbing = 1", metadata={"tags": ["hide-input"]}),
             nbformat.v4.new_code_cell("lesson = 2", outputs=[nbformat.v4.new_output("stream", text=text) for text in pieces])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    return tmp_path / "a.ipynb"


def test_of_a_progress_bar_only_the_last_state_is_left(executed):
    run.settle_progress(executed)
    outputs = nbformat.read(executed, 4).cells[1].outputs
    assert [output.text for output in outputs] == ["Loading: 100%\nepoch 1/1: done\n"]


def test_the_page_shows_the_lesson_and_not_the_folded_code(executed):
    run.export_html(executed, executed.with_suffix(".html"))
    page = executed.with_suffix(".html").read_text(encoding="utf-8")
    assert "lesson" in page and "secret_plumbing" not in page


@pytest.fixture
def page(tmp_path):
    """The page of a notebook with headings, a badge, a figure, printed sentences and a printed table."""
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    badge = "[![Open In Colab](https://colab.example/badge.svg)](https://colab.example/)"
    figure = nbformat.v4.new_output("display_data", {"image/png": png, "text/plain": "<Figure>"})
    cells = [nbformat.v4.new_markdown_cell(f"# Of lungs\n\n{badge}\n\nAn introduction."),
             nbformat.v4.new_markdown_cell("## 0. Begin & set up\n\nText."),
             nbformat.v4.new_code_cell('finish_figure(plot(1), "grad_cam", here)', outputs=[figure]),
             nbformat.v4.new_code_cell("print(1)", outputs=[nbformat.v4.new_output("stream", text="A sentence of many words.\n")]),
             nbformat.v4.new_code_cell("print(2)", outputs=[nbformat.v4.new_output("stream", text="label      recall\nNORMAL       .5\n")]),
             nbformat.v4.new_markdown_cell("## 1. End")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "b.ipynb")
    run.export_html(tmp_path / "b.ipynb", tmp_path / "b.html")
    return (tmp_path / "b.html").read_text(encoding="utf-8")


def test_the_page_needs_no_network_and_fits_a_phone(page):
    assert '<meta name="viewport" content="width=device-width' in page
    assert "<title>Of lungs</title>" in page
    assert not re.findall(r'<script|<link|@import|\bsrc="(?!data:)|url\((?!data:)', page)
    assert '<a href="https://colab.example/">Open In Colab</a>' in page  # a link leads there; its picture would be fetched
    assert "prefers-color-scheme: dark" in page and "prefers-color-scheme: light" in page
    assert 'alt="Figure grad_cam' in page


def test_the_page_lists_its_sections_below_the_introduction(page):
    contents = re.search(r"<nav>.*</nav>", page, re.DOTALL)
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', contents[0])
    assert [title for _, title in links] == ["0. Begin &amp; set up", "1. End"]
    assert all(f'<h2 id="{place}">' in page for place, _ in links)
    assert page.index("An introduction.") < contents.start() < page.index("<h2 ")


def test_printed_sentences_wrap_and_printed_tables_keep_their_columns(page):
    assert '<pre class="sentences">A sentence' in page and "<pre>label      recall" in page


@pytest.mark.parametrize(("data", "official", "words"), [
    ("phantom", False, "PHANTOM radiographs"), ("chest-xray-pneumonia", False, "not in its official split"),
    ("chest-xray-pneumonia", True, "Data: the chest X-ray set (10 images to learn from and validate on, 4 for test)")])
def test_the_closing_words_name_the_data_and_the_uncertainty(tmp_path, data, official, words):
    one, none = {"value": 0.9, "low": 0.8, "high": 0.95}, {"value": None, "low": None, "high": None}
    (tmp_path / "metrics.json").write_text(json.dumps({
        "data": data, "official_split": official, "device": "CPU",
        "counts": {"train": {"NORMAL": 3, "PNEUMONIA": 5}, "val": {"NORMAL": 1, "PNEUMONIA": 1}, "test": {"NORMAL": 2, "PNEUMONIA": 2}},
        "test": {"accuracy": one, "auc": none, "sensitivity": one, "specificity": one}}))
    told = run.describe_outcome(tmp_path, 90)
    assert words in told and "0.900 [0.800–0.950]" in told and "AUC not measurable" in told and "1.5 minutes" in told


# Whole runs, of a notebook that is small


def write_notebook(folder, source):
    """A notebook that does `source` and leaves what `make run` tells at the end, with the name of the run as device."""
    one, counts = {"value": 0.9, "low": 0.8, "high": 0.95}, {"NORMAL": 1, "PNEUMONIA": 1}
    report = {"data": "phantom", "official_split": False, "counts": dict.fromkeys(("train", "val", "test"), counts),
              "test": dict.fromkeys(("accuracy", "auc", "sensitivity", "specificity"), one)}
    end = f"import json, pathlib; pathlib.Path(OUTPUT_DIR, 'metrics.json').write_text(json.dumps({report!r} | {{'device': RUN_NAME}}))"
    cells = [nbformat.v4.new_code_cell('RUN_NAME = "reference"\nOUTPUT_DIR = ""', metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell(f"import os, signal, sys, time\n{source}"), nbformat.v4.new_code_cell(end)]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "small.ipynb")


def begin(folder, *words, stdout=subprocess.PIPE, **environment):
    return subprocess.Popen([*command_to_run(folder / "small.ipynb"), *words], stdout=stdout, stderr=subprocess.PIPE, text=True,
                            start_new_session=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment)


def finish(process):
    """Return (exit code, stdout, stderr) of a run."""
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


INTERRUPTED = "\nmake run: interrupted. The same command goes on where this one stopped, after the last finished epoch of a training.\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_run_says_one_sentence_and_the_same_command_goes_on(tmp_path, number, code):
    """The notebook knows that nobody sits at it, and its kernel is gone when the sentence is there."""
    write_notebook(tmp_path, """print(os.environ["CXR_HEADLESS"], os.getpid(), flush=True)
kept = os.path.join(OUTPUT_DIR, "kept")
if not os.path.exists(kept):
    open(kept, "w").close()
    print("begun", flush=True)
    time.sleep(60)""")
    first = begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}")
    headless, kernel = first.stdout.readline().split()
    assert first.stdout.readline() == "begun\n" and headless == "1"
    os.killpg(first.pid, number)
    returned, out, errors = finish(first)
    assert returned == code and out == ""
    assert errors == INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(int(kernel), 0)
    assert not list((tmp_path / "out").glob("*.html"))
    if number != signal.SIGINT:
        return
    returned, out, errors = finish(begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}"))
    assert returned == 0 and "begun" not in out and "ran from the first cell to the last" in out and errors == ""
    assert (tmp_path / "out/small.html").exists()


def test_an_interruption_that_a_destructor_swallows_is_raised_again_but_not_while_one_is_heeded(tmp_path):
    """After the first one is lost somebody sleeps; after the second one somebody cleans up, for longer than until a third would come."""
    write_notebook(tmp_path, "pass")
    code = f"""import os, sys, time
import run
class Deaf:
    def __del__(self):
        os.kill(os.getpid(), {signal.SIGHUP:d})
        time.sleep(0.1)
def execute(*_):
    Deaf()
    print("goes on", flush=True)
    try:
        time.sleep(50)
    finally:
        time.sleep(3)
        print("cleaned up", flush=True)
run.execute = execute
run.main()"""
    done = subprocess.run([sys.executable, "-c", code, f"OUTPUT_DIR={tmp_path / 'out'}"], capture_output=True, text=True, check=False,
                          timeout=300, start_new_session=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 129, done.stderr
    assert done.stdout == "goes on\ncleaned up\n"
    assert "Exception ignored" in done.stderr and done.stderr.endswith(INTERRUPTED)


def test_of_two_runs_in_one_folder_the_second_waits_and_each_tells_its_own_results(tmp_path):
    write_notebook(tmp_path, """print("in", flush=True)
while not os.path.exists(os.path.join(os.path.dirname(OUTPUT_DIR), "go")):
    time.sleep(0.05)""")
    first = begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}", "RUN_NAME=first")
    assert first.stdout.readline() == "in\n"
    second = begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}/.", "RUN_NAME=second")
    told = second.stdout.readline()
    assert told == (f"Another process is running the notebook into {tmp_path / 'out'} (name another OUTPUT_DIR to run both at once): "
                    "waiting until it has finished.\n")
    third = begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}")
    assert third.stdout.readline() == told
    third.send_signal(signal.SIGINT)  # who does not want to wait
    assert finish(third)[::2] == (130, INTERRUPTED)
    (tmp_path / "go").touch()
    returned, out, _ = finish(first)
    assert returned == 0 and "on first." in out and "second" not in out
    returned, out, _ = finish(second)
    assert returned == 0 and out.startswith("in\n") and "on second." in out


def test_a_run_into_the_folder_of_the_cache_does_not_wait_for_itself(tmp_path):
    write_notebook(tmp_path, """from pathlib import Path
from cxr.storage import hold_lock
with hold_lock(Path(OUTPUT_DIR), "loading"):
    print("in", flush=True)""")
    returned, out, _ = finish(begin(tmp_path, f"OUTPUT_DIR={tmp_path}"))
    assert returned == 0 and "waiting" not in out


def test_a_kernel_that_dies_is_one_sentence_with_advice(tmp_path):
    write_notebook(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    returned, out, errors = finish(begin(tmp_path, f"OUTPUT_DIR={tmp_path / 'out'}"))
    assert returned == 1 and out.strip() == "" and len(errors.strip().splitlines()) == 1
    assert "the kernel died" in errors and "smaller IMAGE_SIZE or BATCH_SIZE" in errors
    assert errors.strip().endswith(f"The notebook up to there is {tmp_path}/out/small.unfinished.ipynb.")


@pytest.mark.parametrize(("folder", "reason"), [("/proc", "No such file or directory"), ("/proc/outputs", "No such file or directory"),
                                                ("/dev/null", "File exists"), ("/dev/null/outputs", "Not a directory")])
def test_a_folder_that_cannot_be_written_is_one_sentence(monkeypatch, folder, reason):
    """Root may write everywhere but there."""
    monkeypatch.setattr("sys.argv", ["run.py", f"OUTPUT_DIR={folder}"])
    monkeypatch.setattr("run.signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        run.main()
    assert caught.value.code.strip() == f"make run: OUTPUT_DIR {folder} cannot be written ({reason}): choose another folder."


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "is full: free some space and run this again"),
                                                (errno.EROFS, "cannot be written (Read-only file system): choose another folder")])
def test_a_disk_that_fails_in_the_middle_of_a_run_is_one_sentence(tmp_path, monkeypatch, number, reason):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("run.papermill.execute_notebook", fail)
    monkeypatch.setattr("sys.argv", ["run.py", f"OUTPUT_DIR={tmp_path}"])
    monkeypatch.setattr("run.signal.signal", lambda *_: None)
    with pytest.raises(SystemExit, match=re.escape(f"make run: {tmp_path} {reason}.")):
        run.main()


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "", "LC_ALL": "C"}])
def test_a_terminal_that_lacks_a_character_costs_that_character_only(tmp_path, environment):
    """And a folder with braces, which papermill would fill in, costs nothing."""
    write_notebook(tmp_path, "print('epoch 1 – 肺')")
    process = begin(tmp_path, f"OUTPUT_DIR={tmp_path}/ö {{RUN_NAME}} {{0}}", "RUN_NAME=ö \"'\\$(x)", stdout=subprocess.PIPE, **environment)
    process.stdout.reconfigure(encoding="utf-8", errors="replace")
    returned, out, errors = finish(process)
    assert returned == 0 and "epoch 1 " in out and "ran from the first cell to the last" in out, errors
    folder = tmp_path / "ö {RUN_NAME} {0}"
    assert (folder / "small.html").exists() and json.loads((folder / "metrics.json").read_text())["device"] == "ö \"'\\$(x)"


def test_output_that_nobody_can_read_any_more_ends_the_run_with_one_sentence(tmp_path):
    write_notebook(tmp_path, "print('in')")
    with open("/dev/full", "w") as full:
        returned, _, errors = finish(begin(tmp_path, f"OUTPUT_DIR={tmp_path}", stdout=full))
    assert returned == 1 and errors == "make run: stopped, as what it prints goes nowhere (No space left on device).\n"


BAR = "for share in range(500): print(f'\\rLoading: {share / 5:.0f}%', end='', flush=True)\nprint('\\rLoading: 100%\\nloaded')"


def test_in_a_log_a_progress_bar_is_one_line(tmp_path):
    write_notebook(tmp_path, BAR)
    returned, out, errors = finish(begin(tmp_path, f"OUTPUT_DIR={tmp_path}"))
    assert returned == 0 and out.startswith("Loading: 100%\nloaded\n\nThe notebook ran") and "\r" not in out and errors == ""


def test_in_a_terminal_a_progress_bar_moves(tmp_path):
    write_notebook(tmp_path, BAR)
    ours, theirs = os.openpty()
    process = begin(tmp_path, f"OUTPUT_DIR={tmp_path}", stdout=theirs)
    os.close(theirs)
    text = b""
    while b"in a browser" not in text:
        text += os.read(ours, 65536)
    assert text.count(b"\rLoading") > 10 and process.wait() == 0
    os.close(ours)


class Sent:
    """A stream that is no terminal, and what was written to it."""

    def __init__(self):
        self.text = []

    def isatty(self):
        return False

    def flush(self):
        pass

    def write(self, text):
        self.text.append(text)


def test_a_bar_that_takes_long_is_a_line_a_minute_and_what_stands_last_is_not_lost(monkeypatch):
    seconds, stream = [0], Sent()
    monkeypatch.setattr("run.time.monotonic", lambda: seconds[0])
    log = run.Log(stream)
    for seconds[0] in range(0, 150, 10):
        log.write(f"\rDownloading: {seconds[0]} MB")
    assert stream.text == ["Downloading: 70 MB\n", "Downloading: 140 MB\n"]
    log.write("\rDownloading: 150 MB")
    log.close()
    assert stream.text[2:] == ["Downloading: 150 MB\n"]
