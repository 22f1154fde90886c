#!/usr/bin/env python3
"""Run the notebook without a browser: `python notebooks/run.py [SETTING=VALUE ...]`; this is what `make run` calls.

Leaves in OUTPUT_DIR the executed notebook, an HTML page of it, and the files that the notebook writes.
"""

import ast
import json
import re
import sys
import time
from pathlib import Path

import functions
import nbconvert
import nbformat
import papermill
import traitlets.config

ROOT = functions.NOTEBOOK.parent.parent


def parse_value(text):
    """Return the number, True, False or None that the text spells, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_settings(arguments):
    """Return {setting: value} of NAME=VALUE words; exit, naming the word, if the notebook has no such setting."""
    known, chosen = functions.read_settings(), {}
    for word in arguments:
        name, equals, value = word.partition("=")
        if not equals or name not in known or name == "PRESETS":
            sys.exit(f"make run: there is no setting {name}. The settings are {', '.join(n for n in known if n != 'PRESETS')}.")
        chosen[name] = value if isinstance(known[name], str) else parse_value(value)
        if name.endswith("_DIR"):
            chosen[name] = str(Path(value).resolve()) if value else value
    return chosen


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
                output.text = "\n".join(line.rsplit("\r", 1)[-1] for line in output.text.split("\n"))
        if "outputs" in cell:
            cell.outputs = outputs
    nbformat.write(book, executed)


def export_html(executed, page):
    """Write the executed notebook as an HTML page, without the code that is folded in the notebook."""
    config = traitlets.config.Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide-input"}
    config.HTMLExporter.preprocessors = ["nbconvert.preprocessors.TagRemovePreprocessor"]
    html, _ = nbconvert.HTMLExporter(config=config).from_filename(str(executed))
    page.write_text(html, encoding="utf-8")


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
            f"Read {output_dir / (functions.NOTEBOOK.stem + '.html')} in a browser; the numbers are in "
            f"{output_dir / 'metrics.json'}, the figures in {output_dir / 'figures'}.")


def main():
    settings = parse_settings(sys.argv[1:])
    settings.setdefault("OUTPUT_DIR", str(ROOT / "outputs"))
    output_dir = Path(settings["OUTPUT_DIR"])
    executed = output_dir / functions.NOTEBOOK.name
    unfinished = executed.with_name(f"{executed.stem}.unfinished.ipynb")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"make run: OUTPUT_DIR {output_dir} cannot be written ({error.strerror}): choose another folder.")
    since = time.monotonic()
    try:
        papermill.execute_notebook(functions.NOTEBOOK, unfinished, settings, cwd=str(ROOT), kernel_name="python3",
                                   progress_bar={"desc": "Cells", "unit": "cell"}, stdout_file=sys.stdout,
                                   extra_arguments=["--log-level=40"])
    except papermill.PapermillExecutionError as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue))
        sys.exit(f"\nmake run: stopped with {error.ename}: {reason}\nThe notebook up to there is {unfinished}.")
    except KeyboardInterrupt:
        sys.exit(f"\nmake run: interrupted. The notebook up to there is {unfinished}.")
    settle_progress(unfinished)
    unfinished.replace(executed)
    export_html(executed, executed.with_suffix(".html"))
    print(describe_outcome(output_dir, time.monotonic() - since))


if __name__ == "__main__":
    main()
