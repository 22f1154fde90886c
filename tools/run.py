#!/usr/bin/env python3
"""Run the notebook without a browser: `python tools/run.py [SETTING=VALUE ...]`.

This is what `make run` calls. It leaves in OUTPUT_DIR the executed notebook, an HTML
page of it, and the files that the notebook writes. `make run` lists its settings in
CXR_GIVEN and passes each in the environment, so that no shell interprets a value.
"""

import ast
import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

try:
    import build
    import nbclient
    import nbconvert
    import nbformat
    import papermill
    import psutil
    import traitlets.config
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    from cxr.settings import RENAMED_SETTINGS, describe_renamed_setting, expand_home
    from cxr.storage import (
        as_storage_error,
        lock_folder,
        prepare_folder,
        write_atomically,
    )
except ModuleNotFoundError as error:
    sys.exit(
        f"tools/run.py: {sys.executable} has no package {error.name}: type `make run`, "
        "which installs everything into .venv and runs the notebook with it."
    )

NOTEBOOK = build.TEXT.with_suffix(".ipynb")

# nbconvert's page without what it would fetch from the network: RequireJS, widgets,
# MathJax and Mermaid, none of which the notebook needs.
PAGE = """{%- extends 'index.html.j2' -%}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}
<style>
main { max-width: 64rem; margin: auto; }
.highlight pre, .jp-RenderedHTML { overflow-x: auto; }
.jp-OutputArea-output pre { word-break: normal; }
.celltag_hide-input.jp-mod-noOutputs { display: none; }
</style>
{% endblock %}
"""


def parse_value(text):
    """Return the number, True, False or None that the text spells, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_settings(arguments):
    """Return {setting: value} of NAME=VALUE words.

    Exit, with the name, where the notebook has no such setting or cannot use its value.
    """
    known = build.read_settings()
    known.pop("PRESETS")
    chosen = {}
    for word in arguments:
        name, equals, value = word.partition("=")
        if name in RENAMED_SETTINGS:
            sys.exit(f"make run: {describe_renamed_setting(name, value)}.")
        if not equals or name not in known:
            sys.exit(
                f"make run: there is no setting {name}. "
                f"The settings are {', '.join(known)}."
            )
        chosen[name] = value if isinstance(known[name], str) else parse_value(value)
        try:
            value.encode()
            if name.endswith("_DIR"):
                is_empty = value in ("", "None")
                folder = "" if is_empty else str(Path(expand_home(value)).resolve())
                chosen[name] = folder
        except UnicodeEncodeError:
            sys.exit(
                f"make run: {name} is {os.fsencode(value)}, which is not UTF-8: "
                "give that folder another name."
            )
        except ValueError as error:
            sys.exit(f"make run: {name} is {value!r}, but {error}.")
    return chosen


def read_settings():
    """Return the settings of the command line and of `make run`.

    OUTPUT_DIR always has a value.
    """
    names = os.environ.pop("CXR_GIVEN", "").split()
    given = [f"{name}={os.environ.get(name, '')}" for name in names]
    settings = parse_settings(sys.argv[1:] + given)
    settings["OUTPUT_DIR"] = settings.get("OUTPUT_DIR") or str(build.ROOT / "outputs")
    return settings


class Log:
    """Passes on what the notebook prints; papermill writes into it.

    A terminal gets everything at once. Elsewhere only whole lines are written: the last
    state of a progress bar, and every minute its state so far.
    """

    def __init__(self, stream):
        self.stream = stream
        self.pending = ""
        self.written_at = time.monotonic()

    def write(self, text):
        if not self.stream.isatty():
            *lines, self.pending = (self.pending + text).split("\n")
            if self.pending and time.monotonic() > self.written_at + 60:
                lines.append(self.pending)
                self.pending = ""
            text = "".join(line.rsplit("\r", 1)[-1] + "\n" for line in lines)
        if not text:
            return
        self.written_at = time.monotonic()
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            # Python itself flushes the stream once more at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            sys.exit(
                "make run: stopped, as its output cannot be written "
                f"({error.strerror})."
            )

    def flush(self):
        """Do nothing: each piece is flushed when it is written."""

    def close(self):
        """Write what no line end has followed."""
        if self.pending:
            self.write("\n")


def execute(settings, unfinished):
    """Run the notebook into the file `unfinished`.

    Exit, in one sentence, where it does not reach its end.
    """
    os.environ["CXR_HEADLESS"] = "1"  # for the kernel, as is the next
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    # Papermill fills in what stands between braces.
    paths = [
        re.sub(r"[{}]", r"\g<0>\g<0>", str(path)) for path in (NOTEBOOK, unfinished)
    ]
    # What it logs about a dead kernel is said below.
    logging.getLogger("papermill").addHandler(logging.NullHandler())
    so_far = f"The notebook up to there is {unfinished}."
    log = Log(sys.stdout)
    try:
        papermill.execute_notebook(
            *paths,
            settings,
            cwd=str(build.ROOT),
            kernel_name="python3",
            progress_bar=sys.stderr.isatty() and {"desc": "Cells", "unit": "cell"},
            stdout_file=log,
            extra_arguments=["--log-level=50"],
            shutdown_kernel="immediate",
        )
    except papermill.PapermillExecutionError as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue))
        sys.exit(f"\nmake run: stopped with {error.ename}: {reason}\n{so_far}")
    except nbclient.exceptions.DeadKernelError:
        sys.exit(
            "\nmake run: the kernel died, as it does when the memory is used up: close "
            "other programs, or choose a smaller IMAGE_SIZE or BATCH_SIZE. The same "
            f"command goes on after the last finished epoch. {so_far}"
        )
    finally:
        log.close()


def settle_progress(path):
    """Rewrite an executed notebook with only the last state of each progress bar."""
    notebook = nbformat.read(path, as_version=4)
    notebook, _ = CoalesceStreamsPreprocessor(enabled=True)(notebook, {})
    nbformat.write(notebook, path)


def export_html(executed, page):
    """Write an executed notebook as one HTML page that loads nothing from the network.

    Folded code is left out; a picture on another server becomes its description.
    """
    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"!\[([^]]*)\]\(https?:[^)]*\)", r"\1", cell.source)
    config = traitlets.config.Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide-input"}
    exporter = nbconvert.HTMLExporter(
        config=config,
        template_name="lab",
        raw_template=PAGE,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"metadata": {"name": executed.stem}}
    html, _ = exporter.from_notebook_node(notebook, resources)
    write_atomically(page, html)


def describe_outcome(output_dir, seconds):
    """Return the closing words: what happened, on which data, and where to look."""
    report = json.loads((output_dir / "metrics.json").read_text(encoding="utf-8"))
    data = {
        "phantom": "PHANTOM radiographs drawn by this project; "
        "the scores say nothing about patients",
        "chest-xray-pneumonia": "the chest X-ray set",
        "other": "pictures other than the chest X-ray set",
    }[report["data"]]
    if report["data"] == "chest-xray-pneumonia" and not report["official_split"]:
        data += ", not in its official split"
    counts = {part: sum(count.values()) for part, count in report["counts"].items()}
    scores = []
    for name in ("accuracy", "AUC", "sensitivity", "specificity"):
        score = report["test"][name.lower()]
        value = "not measurable"
        if score["value"] is not None:
            value = f"{score['value']:.3f} [{score['low']:.3f}–{score['high']:.3f}]"
        scores.append(f"{name} {value}")
    return f"""
The notebook ran from the first cell to the last in {seconds / 60:.1f} minutes, \
on {report["device"]}.
Data: {data} ({counts["train"] + counts["val"]:,} images to learn from and validate \
on, {counts["test"]:,} for test).
Test, with 95 % intervals: {", ".join(scores)}.
Read {output_dir / NOTEBOOK.stem}.html in a browser; the numbers are in \
{output_dir / "metrics.json"}, the figures in {output_dir / "figures"}."""


def run(settings):
    """Run the notebook and make its page, one process at a time in OUTPUT_DIR."""
    output_dir = Path(settings["OUTPUT_DIR"])
    executed = output_dir / NOTEBOOK.name
    unfinished = executed.with_suffix(".unfinished.ipynb")
    figures = output_dir / "figures"
    prepare_folder(output_dir, "OUTPUT_DIR")
    figures.mkdir(exist_ok=True)
    task = (
        f"running the notebook into {output_dir} "
        "(name another OUTPUT_DIR to run both at once)"
    )
    # The notebook locks OUTPUT_DIR itself where that is its CACHE_DIR, too.
    with lock_folder(figures, task):
        started_at = time.monotonic()
        execute(settings, unfinished)
        settle_progress(unfinished)
        unfinished.replace(executed)
        export_html(executed, executed.with_suffix(".html"))
        print(describe_outcome(output_dir, time.monotonic() - started_at))


def end_interrupted(number, frame):
    """End the kernel and this process: what a signal does.

    An exception could be swallowed on its way up, by a destructor or by a library that
    catches everything. Every file of a run is whole at any moment, or is not yet under
    its own name.
    """
    kernel = psutil.Process().children(recursive=True)
    for process in kernel:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(kernel, timeout=5)
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(
            sys.stderr.fileno(),
            b"\nmake run: interrupted. The same command goes on where this one stopped,"
            b" after the last finished epoch of a training.\n",
        )
    os._exit(128 + number)


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and & leave it
            signal.signal(number, end_interrupted)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal may lack a character
    settings = read_settings()
    try:
        run(settings)
    except OSError as error:
        folder = settings["OUTPUT_DIR"]
        if isinstance(error.filename, str):
            folder = Path(error.filename).parent
        sys.exit(f"\nmake run: {as_storage_error(folder, error)}.")


if __name__ == "__main__":
    main()
