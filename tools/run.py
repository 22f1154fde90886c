#!/usr/bin/env python3
"""Run the notebook without a browser: `python tools/run.py [SETTING=VALUE ...]`.

`make run` calls this script. It writes the executed notebook and an HTML page of it
into OUTPUT_DIR, where the notebook writes its own files. `make run` lists the names of
its settings in CXR_GIVEN and passes each value in the environment, so that no shell
interprets it.
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
KERNEL_START_TIMEOUT = 600  # seconds; a busy machine needs more than papermill's 60

# nbconvert's page without the scripts that it would load from the network: RequireJS,
# widgets, MathJax and Mermaid. The notebook needs none of them.
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
    """Return the Python literal that the text is, otherwise the text itself."""
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
                "rename that folder."
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
    """Forwards the printed output of the notebook; papermill writes into it.

    A terminal receives everything at once. Other streams receive whole lines only: the
    last state of a progress bar, and its present state every minute.
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
            # Python flushes the stream again when it exits, which would fail as well.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            sys.exit(
                "make run: stopped, as its output cannot be written "
                f"({error.strerror})."
            )

    def flush(self):
        """Do nothing: each piece is flushed when it is written."""

    def close(self):
        """Write the last, unfinished line."""
        if self.pending:
            self.write("\n")


def execute(settings, unfinished):
    """Run the notebook into the file `unfinished`.

    Exit with one sentence if it does not reach its end.
    """
    os.environ["CXR_HEADLESS"] = "1"  # for the kernel, like the next line
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    # Papermill formats paths, so braces are doubled.
    paths = [
        re.sub(r"[{}]", r"\g<0>\g<0>", str(path)) for path in (NOTEBOOK, unfinished)
    ]
    # A dead kernel is reported below; its log message is not needed.
    logging.getLogger("papermill").addHandler(logging.NullHandler())
    so_far = f"The outputs up to this point are in {unfinished}."
    log = Log(sys.stdout)
    try:
        papermill.execute_notebook(
            *paths,
            settings,
            cwd=str(build.ROOT),
            kernel_name="python3",
            progress_bar=sys.stderr.isatty() and {"desc": "Cells", "unit": "cell"},
            stdout_file=log,
            start_timeout=KERNEL_START_TIMEOUT,
            extra_arguments=["--log-level=50"],
            shutdown_kernel="immediate",
        )
    except papermill.PapermillExecutionError as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue))
        sys.exit(f"\nmake run: stopped with {error.ename}: {reason}\n{so_far}")
    except nbclient.exceptions.DeadKernelError:
        sys.exit(
            "\nmake run: the kernel died, probably because memory ran out: close other "
            "programs, or choose a smaller IMAGE_SIZE or BATCH_SIZE. The same command "
            f"resumes after the last finished epoch. {so_far}"
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

    Collapsed code is left out; an image on another server becomes its description.
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
    """Return the closing summary: data, test metrics, and where the results are."""
    report = json.loads((output_dir / "metrics.json").read_text(encoding="utf-8"))
    data = {
        "phantom": "PHANTOM radiographs drawn by this project; "
        "the scores say nothing about patients",
        "chest-xray-pneumonia": "the chest X-ray set",
        "other": "images other than the chest X-ray set",
    }[report["data"]]
    if report["data"] == "chest-xray-pneumonia" and not report["official_split"]:
        data += ", not in its official split"
    counts = {part: sum(count.values()) for part, count in report["counts"].items()}
    metrics = []
    for name in ("accuracy", "AUC", "sensitivity", "specificity"):
        estimate = report["test"][name.lower()]
        text = "not measurable"
        if estimate["value"] is not None:
            text = "{value:.3f} [{low:.3f}–{high:.3f}]".format(**estimate)
        metrics.append(f"{name} {text}")
    return f"""
The notebook ran from the first cell to the last in {seconds / 60:.1f} minutes, \
on {report["device"]}.
Data: {data} ({counts["train"]:,} training, {counts["val"]:,} validation and \
{counts["test"]:,} test images).
Test, with 95% intervals: {", ".join(metrics)}.
Open {output_dir / NOTEBOOK.stem}.html in a browser; the metrics are in \
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
        "(choose another OUTPUT_DIR to run both at once)"
    )
    # Not OUTPUT_DIR: the notebook locks it where it is its CACHE_DIR as well.
    with lock_folder(figures, task):
        started_at = time.monotonic()
        execute(settings, unfinished)
        settle_progress(unfinished)
        unfinished.replace(executed)
        export_html(executed, executed.with_suffix(".html"))
        print(describe_outcome(output_dir, time.monotonic() - started_at))


def end_interrupted(number, frame):
    """End the kernel and this process; the handler of a signal.

    An exception could be swallowed on its way up, by a destructor or by a library that
    catches everything. No file of a run is ever incomplete under its own name.
    """
    kernel = psutil.Process().children(recursive=True)
    for process in kernel:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(kernel, timeout=5)
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(
            sys.stderr.fileno(),
            b"\nmake run: interrupted. The same command resumes after the last finished"
            b" epoch.\n",
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
