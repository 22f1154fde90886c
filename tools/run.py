#!/usr/bin/env python3
"""Run the notebook without a browser: `python tools/run.py [SETTING=VALUE ...]`; this is what `make run` calls.

Leaves in OUTPUT_DIR the executed notebook, an HTML page of it, and the files that the notebook writes.
"""

import ast
import json
import re
import sys
import time
from pathlib import Path

import build
import nbconvert
import nbformat
import papermill
import traitlets.config
from pygments.formatters import HtmlFormatter

NOTEBOOK = build.TEXT.with_suffix(".ipynb")


def parse_value(text):
    """Return the number, True, False or None that the text spells, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_settings(arguments):
    """Return {setting: value} of NAME=VALUE words; exit, naming the word, if the notebook has no such setting."""
    known, chosen = build.read_settings(), {}
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


def main():
    settings = parse_settings(sys.argv[1:])
    settings.setdefault("OUTPUT_DIR", str(build.ROOT / "outputs"))
    output_dir = Path(settings["OUTPUT_DIR"])
    executed = output_dir / NOTEBOOK.name
    unfinished = executed.with_name(f"{executed.stem}.unfinished.ipynb")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"make run: OUTPUT_DIR {output_dir} cannot be written ({error.strerror}): choose another folder.")
    since = time.monotonic()
    try:
        papermill.execute_notebook(NOTEBOOK, unfinished, settings, cwd=str(build.ROOT), kernel_name="python3",
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
