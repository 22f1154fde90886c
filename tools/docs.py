#!/usr/bin/env python3
"""Make docs/tutorial.ipynb, the copy of the tutorial with pictures, from a run on phantoms: `make docs` (after `make notebook`).

GitHub shows it with its outputs. Folded code is left out, and nothing in it tells of the machine that ran it. Its metadata hold a digest
of its sources, by which tests/test_docs.py sees when it is stale.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import badge
import build
import nbformat
import run
from PIL import Image

COPY = build.ROOT / "docs/tutorial.ipynb"
# Relative to the project, as these paths are printed.
SETTINGS = {"DATA_DIR": "data/phantoms/chest_xray", "OUTPUT_DIR": "outputs/docs", "CACHE_DIR": "", "PRESET": "quick"}
WIDTH, COLOURS = 900, 256  # of a figure, at most: half of the bytes, and no difference to be seen
LIMIT = 3_000_000  # bytes; GitHub shows larger notebooks late or not at all
KINDS = ("image/png", "text/html", "text/markdown", "text/latex", "text/plain")  # the first that an output has is shown
NOTE = """> **A copy to read, with its pictures.** All films in it are **PHANTOMS**, drawn by this project: they show no patient, and the
> scores say nothing about patients. Folded code is left out, so this copy does not run. The notebook that runs, on the real radiographs,
> is [`notebooks/chest_xray_pneumonia.ipynb`](../notebooks/chest_xray_pneumonia.ipynb); what was measured on those is in
> [`results.md`](results.md)."""


def take_digest(notebook):
    """Return a digest of the text of a built notebook, whatever address its badge has, and of this file."""
    return hashlib.sha256(badge.LINE.sub("", notebook).encode() + Path(__file__).read_bytes()).hexdigest()


def shrink_figure(encoded):
    """Return a PNG, in base64, with at most WIDTH pixels across and COLOURS colours."""
    figure = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    figure.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    figure.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def clean_text(text):
    """Return what was printed without progress bars and without the folders of this machine."""
    for folder, name in ((f"{build.ROOT}/", ""), (str(build.ROOT), "."), (f"{Path.home()}/", "~/")):
        text = text.replace(folder, name)
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)  # GitHub has its own for tables
    return re.sub(r"^.*\d%\|.*\n?", "", text, flags=re.MULTILINE)


def clean_output(output):
    """Return an output of a cell as the copy shows it, or None if nothing is left of it."""
    if output.output_type == "error":
        raise ValueError(f"a cell ended with {output.ename}: {output.evalue}")
    if output.output_type == "stream":
        output.text = clean_text(output.text)
        return output if output.text.strip() else None
    kind = next((kind for kind in KINDS if kind in output.data), "")
    data = (shrink_figure if kind == "image/png" else clean_text)(output.data.get(kind, ""))
    if not data.strip() or any("widget" in other for other in output.data):
        return None
    output.data, output.metadata = {kind: data}, {}
    return output


def clean_cell(cell):
    """Return a cell as the copy shows it, or None for code that is folded and shows nothing, and for what papermill has added."""
    tags = cell.metadata.get("tags", [])
    cell.metadata = {}
    if cell.cell_type == "markdown":
        cell.source = badge.LINE.sub("", cell.source)  # it opens the notebook that runs, not this one
        cell.source = re.sub(r"\(data:image/png;base64,[^)]*\)", "(first_screen.png)", cell.source)  # GitHub shows files only
        return cell
    cell.outputs = list(filter(None, map(clean_output, cell.outputs)))
    if "hide-input" in tags:
        cell.source = cell.source.split("\n")[0]  # its title
    return None if "injected-parameters" in tags or ("hide-input" in tags and not cell.outputs) else cell


def make_copy(executed, digest):
    """Return the copy of an executed notebook; raise ValueError where a cell of it has failed."""
    note = nbformat.v4.new_markdown_cell(NOTE, id="a-copy-to-read")
    cells = [note, *filter(None, map(clean_cell, executed.cells))]
    for number, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    metadata = {"kernelspec": build.METADATA["kernelspec"], "language_info": {"name": "python"}, "sources": {"sha256": digest}}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def main():
    os.chdir(build.ROOT)
    digest = take_digest(run.NOTEBOOK.read_text(encoding="utf-8"))
    if Path(SETTINGS["OUTPUT_DIR"]).exists():
        shutil.rmtree(SETTINGS["OUTPUT_DIR"])  # the notebook would go on with a run that is there
    run.run(SETTINGS)
    outputs = Path(SETTINGS["OUTPUT_DIR"])
    if json.loads((outputs / "metrics.json").read_text(encoding="utf-8"))["data"] != "phantom":
        sys.exit(f"make docs: {SETTINGS['DATA_DIR']} holds no phantoms, and no picture of a patient belongs in the repository. "
                 "Move it away, and run make docs again, which draws them.")
    try:
        copy = make_copy(nbformat.read(outputs / run.NOTEBOOK.name, as_version=4), digest)
    except ValueError as error:
        sys.exit(f"make docs: {error}")
    text = build.render(copy)
    if len(text.encode()) > LIMIT:
        sys.exit(f"make docs: the copy has {len(text.encode()):,} bytes, more than {LIMIT:,}: choose smaller figures in tools/docs.py.")
    COPY.write_text(text, encoding="utf-8")
    print(f"{COPY.relative_to(build.ROOT)}: {len(text.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
