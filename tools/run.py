#!/usr/bin/env python3
"""Run the notebook without a browser: `python tools/run.py [SETTING=VALUE ...]`; this is what `make run` calls.

Leaves in OUTPUT_DIR the executed notebook, an HTML page of it, and the files that the notebook writes. `make run` names its settings in
CXR_GIVEN and hands each over in the environment, where no shell can misread it.
"""

import ast
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

import build
import nbclient
import nbconvert
import nbformat
import papermill
import traitlets.config
from pygments.formatters import HtmlFormatter

sys.path.insert(0, str(build.ROOT))
from cxr.settings import expand_home
from cxr.storage import hold_lock, prepare_folder, refuse_storage

NOTEBOOK = build.TEXT.with_suffix(".ipynb")


def parse_value(text):
    """Return the number, True, False or None that the text spells, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_settings(arguments):
    """Return {setting: value} of NAME=VALUE words; exit, naming it, where the notebook has no such setting or cannot keep its value."""
    known, chosen = build.read_settings(), {}
    for word in arguments:
        name, equals, value = word.partition("=")
        if not equals or name not in known or name == "PRESETS":
            sys.exit(f"make run: there is no setting {name}. The settings are {', '.join(n for n in known if n != 'PRESETS')}.")
        chosen[name] = value if isinstance(known[name], str) else parse_value(value)
        try:
            value.encode()
            if name.endswith("_DIR"):
                chosen[name] = "" if value in ("", "None") else str(Path(expand_home(value)).resolve())
        except UnicodeEncodeError:
            sys.exit(f"make run: {name} is {os.fsencode(value)}, which is not UTF-8: give that folder another name.")
        except ValueError as error:
            sys.exit(f"make run: {name} is {value!r}, but {error}.")
    return chosen


def read_settings():
    """Return the settings of the command line and of `make run`; OUTPUT_DIR always has a value."""
    given = [f"{name}={os.environ.get(name, '')}" for name in os.environ.pop("CXR_GIVEN", "").split()]
    chosen = parse_settings(sys.argv[1:] + given)
    return chosen | {"OUTPUT_DIR": chosen.get("OUTPUT_DIR") or str(build.ROOT / "outputs")}


def settle(line):
    """Return a line as a terminal would show it after the last of its carriage returns."""
    return line.rsplit("\r", 1)[-1]


class Log:
    """What the notebook prints, on its way to a stream; where that is no terminal, a progress bar is a line at its end, or each minute."""

    def __init__(self, stream):
        self.stream, self.rest, self.since = stream, "", time.monotonic()

    def write(self, text):
        if not self.stream.isatty():
            *lines, self.rest = (self.rest + text).split("\n")
            if self.rest and time.monotonic() > self.since + 60:
                lines.append(self.rest)
                self.rest = ""
            text = "".join(f"{settle(line)}\n" for line in lines)
        if text:
            self.since = time.monotonic()
            self.send(text)

    def send(self, text):
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:  # nothing can be told there any more, not even when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            sys.exit(f"make run: stopped, as what it prints goes nowhere ({error.strerror}).")

    def flush(self):
        """Each piece is sent at once."""

    def close(self):
        """Send what no line end has followed."""
        self.write("\n" if self.rest else "")


def settle_progress(executed):
    """Rewrite the notebook so that of each progress bar only its last state is left, as a terminal would show it."""
    book = nbformat.read(executed, as_version=4)
    for cell in book.cells:
        outputs = []
        for output in cell.get("outputs", []):
            if outputs and output.output_type == outputs[-1].output_type == "stream" and output.name == outputs[-1].name:
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        for output in outputs:
            if output.output_type == "stream":
                output.text = "\n".join(map(settle, output.text.split("\n")))
        if "outputs" in cell:
            cell.outputs = outputs
    nbformat.write(book, executed)


def list_sections(body):
    """Return HTML that links the H2 headings of a page."""
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', body, re.DOTALL)
    items = "\n".join(f'<li><a href="#{place}">{title.strip()}</a></li>' for place, title in headings)
    return f"<nav><details open><summary>Contents</summary><ul>\n{items}\n</ul></details></nav>" if headings else ""


def wrap_sentences(body):
    """Let printed sentences wrap at the edge of a screen; printed tables, and what comes with them, keep their columns."""
    def mark(found):
        columns = re.search(r"\S {3,}\S|[│┃]", found[2])
        return found[0] if columns else f'{found[1]}<pre class="sentences">{found[2]}</pre>'

    return re.sub(r'(<div class="[^"]*\boutput_text\b[^"]*">\s*)<pre>(.*?)</pre>', mark, body, flags=re.DOTALL)


def export_html(executed, page):
    """Write the executed notebook as an HTML page that needs nothing else, not even the network.

    The code that is folded in the notebook is left out; pictures on other servers become their names. Its look is in page.css.
    """
    book = nbformat.read(executed, as_version=4)
    for cell in book.cells:
        drawn = re.search(r'finish_figure\(.*?f?"(\w+)[{"]', cell.source, re.DOTALL) if cell.cell_type == "code" else None
        if drawn:
            cell.metadata["alt"] = f"Figure {drawn[1].strip('_')}: its title and text are in the picture"
    config = traitlets.config.Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide-input"}
    config.HTMLExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    exporter = nbconvert.HTMLExporter(config=config, template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(book)
    body = re.sub(r'<img\b(?=[^>]*\bsrc="https?:)(?:[^>]*\balt="([^"]*)")?[^>]*>', r"\1", body)
    body = wrap_sentences(body)
    title = re.search(r"<h1[^>]*>(.*?)<", body)
    colours = "\n".join(f"@media (prefers-color-scheme: {scheme}) {{\n{HtmlFormatter(style=style).get_style_defs('.highlight')}\n}}"
                        for scheme, style in (("light", "default"), ("dark", "github-dark")))
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    cells = [found.start() for found in re.finditer(r'<div[^>]*\bclass="cell ', body)]
    first = cells[1] if len(cells) > 1 else 0  # the sections are listed below the introduction
    page.write_text(f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title[1] if title else executed.stem}</title>
<style>
{colours}
{style}
</style>
</head>
<body>
<main>
{body[:first]}
{list_sections(body)}
{body[first:]}
</main>
</body>
</html>
""", encoding="utf-8")


def describe_outcome(output_dir, seconds):
    """Return the closing words: what happened, on which data, and where to look."""
    report = json.loads((output_dir / "metrics.json").read_text(encoding="utf-8"))
    data = {"phantom": "PHANTOM radiographs drawn by this project; the scores say nothing about patients",
            "chest-xray-pneumonia": "the chest X-ray set", "other": "pictures other than the chest X-ray set"}[report["data"]]
    if report["data"] == "chest-xray-pneumonia" and not report["official_split"]:
        data += ", not in its official split"

    def show(score):
        value = report["test"][score]
        return "not measurable" if value["value"] is None else f"{value['value']:.3f} [{value['low']:.3f}–{value['high']:.3f}]"

    counts = report["counts"]
    return (f"\nThe notebook ran from the first cell to the last in {seconds / 60:.1f} minutes, on {report['device']}.\n"
            f"Data: {data} ({sum(counts['train'].values()) + sum(counts['val'].values()):,} images to learn from and validate on, "
            f"{sum(counts['test'].values()):,} for test).\n"
            f"Test, with 95 % intervals: accuracy {show('accuracy')}, AUC {show('auc')}, sensitivity {show('sensitivity')}, "
            f"specificity {show('specificity')}.\n"
            f"Read {output_dir / (NOTEBOOK.stem + '.html')} in a browser; the numbers are in "
            f"{output_dir / 'metrics.json'}, the figures in {output_dir / 'figures'}.")


def execute(settings, unfinished):
    """Run the notebook into the file `unfinished`; exit, in one sentence, where it does not reach its end."""
    os.environ |= {"CXR_HEADLESS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # for the kernel
    so_far = f"The notebook up to there is {unfinished}."
    log = Log(sys.stdout)
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (NOTEBOOK, unfinished)]  # else papermill fills in what is in {}
    logging.getLogger("papermill").addHandler(logging.NullHandler())  # what it says of a dead kernel is said below
    try:
        papermill.execute_notebook(*paths, settings, cwd=str(build.ROOT), kernel_name="python3",
                                   progress_bar=sys.stderr.isatty() and {"desc": "Cells", "unit": "cell"}, stdout_file=log,
                                   extra_arguments=["--log-level=50"], shutdown_kernel="immediate")
    except papermill.PapermillExecutionError as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue))
        sys.exit(f"\nmake run: stopped with {error.ename}: {reason}\n{so_far}")
    except nbclient.exceptions.DeadKernelError:
        sys.exit("\nmake run: the kernel died, as it does when the memory is used up: close other programs, or choose a smaller IMAGE_SIZE "
                 f"or BATCH_SIZE. The same command goes on after the last finished epoch. {so_far}")
    finally:
        log.close()


def run(settings):
    """Run the notebook and make its page, one process at a time in OUTPUT_DIR; say what came out."""
    output_dir = Path(settings["OUTPUT_DIR"])
    executed = output_dir / NOTEBOOK.name
    unfinished = executed.with_name(f"{executed.stem}.unfinished.ipynb")
    prepare_folder(output_dir, "OUTPUT_DIR")
    (output_dir / "figures").mkdir(exist_ok=True)
    # Not the lock of OUTPUT_DIR itself: the notebook waits for that where it is its CACHE_DIR too.
    with hold_lock(output_dir / "figures", f"running the notebook into {output_dir} (name another OUTPUT_DIR to run both at once)"):
        since = time.monotonic()
        execute(settings, unfinished)
        settle_progress(unfinished)
        unfinished.replace(executed)
        export_html(executed, executed.with_suffix(".html"))
        print(describe_outcome(output_dir, time.monotonic() - since))


def is_interrupted():
    """Return whether a KeyboardInterrupt is on its way up, so that somebody is cleaning up after it."""
    error = sys.exc_info()[1]
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def main():
    heeded = [one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]  # nohup, &

    def interrupt(number, frame):
        for one in heeded:
            signal.signal(one, signal.SIG_IGN)  # the kernel is ended undisturbed
        signal.signal(signal.SIGALRM, lambda *_: None if is_interrupted() else interrupt(number, frame))
        signal.alarm(2)  # what is raised within a destructor, or where a library catches everything, is lost: then once more
        raise KeyboardInterrupt(number)

    for one in heeded:
        signal.signal(one, interrupt)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal may lack a character
    settings = read_settings()
    try:
        run(settings)
    except OSError as error:
        folder = Path(error.filename).parent if isinstance(error.filename, str) else settings["OUTPUT_DIR"]
        sys.exit(f"\nmake run: {refuse_storage(folder, error)}.")
    except KeyboardInterrupt as error:
        signal.alarm(0)
        print("\nmake run: interrupted. The same command goes on where this one stopped, after the last finished epoch of a training.",
              file=sys.stderr)
        sys.exit(128 + error.args[0])


if __name__ == "__main__":
    main()
