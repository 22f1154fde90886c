#!/usr/bin/env python3
"""Make docs/tutorial.ipynb, the copy of the tutorial with outputs: `make docs`.

GitHub shows this copy. Its outputs are those of a run on phantoms. Collapsed code is
left out, and so are the paths of the machine that made it. The notebook is run again
only when its code has changed; otherwise only the text of the copy is refreshed.
"""

import ast
import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build
import nbformat
import run
from PIL import Image

COPY = build.ROOT / "docs/tutorial.ipynb"
SETTINGS = {  # relative to the project, as the notebook prints these paths
    "DATA_DIR": "data/phantoms/chest_xray",
    "OUTPUT_DIR": "outputs/docs",
    "CACHE_DIR": "",
    "PRESET": "quick",
}
# Limits of a figure: half of the bytes, and no visible difference.
WIDTH = 900
COLORS = 256
# The first of these that an output has is shown.
KINDS = ("image/png", "text/html", "text/markdown", "text/latex", "text/plain")
NOTE = """> **A copy to read, with figures.** All radiographs in it are **PHANTOMS**,
> drawn by this project: they show no patient, and the scores say nothing about
> patients. Collapsed code is left out, so this copy cannot be run. Run
> [`notebooks/chest_xray_pneumonia.ipynb`](../notebooks/chest_xray_pneumonia.ipynb),
> which uses the real radiographs; the results measured on them are in
> [`results.md`](results.md)."""


# The code that the copy was made from


def describe_code(node):
    """Return a syntax tree as nested lists, without comments, layout and docstrings.

    Unlike that of ast.dump, the result is the same in every version of Python.
    """
    if isinstance(node, list):
        return [describe_code(item) for item in node if not is_docstring(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        [name, describe_code(value)]
        for name, value in ast.iter_fields(node)
        if value not in (None, [])
    ]
    return [type(node).__name__, *fields]


def is_docstring(node):
    """Return whether a statement is only a string."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


def code_hash(notebook):
    """Return a digest of the code of a notebook, without its text and comments."""
    code = [
        describe_code(ast.parse(cell.source))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


# Outputs


def shrink_figure(encoded):
    """Return a PNG, in base64, at most WIDTH pixels wide and with COLORS colors."""
    figure = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    figure.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    figure = figure.quantize(
        COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
    small = io.BytesIO()
    figure.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def clean_text(text):
    """Return printed text without progress bars and the folders of this machine."""
    text = text.replace(f"{build.ROOT}/", "").replace(str(build.ROOT), ".")
    text = text.replace(f"{Path.home()}/", "~/")
    # GitHub has a style of its own for tables.
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)
    return re.sub(r"^.*\d%\|.*\n?", "", text, flags=re.MULTILINE)


def clean_output(output):
    """Return an output as the copy shows it, or None if nothing remains."""
    if output.output_type == "error":
        raise ValueError(f"a cell ended with {output.ename}: {output.evalue}")
    if output.output_type == "stream":
        output.text = clean_text(output.text)
        return output if output.text.strip() else None
    kind = next((kind for kind in KINDS if kind in output.data), "")
    clean = shrink_figure if kind == "image/png" else clean_text
    data = clean(output.data.get(kind, ""))
    if not data.strip() or any("widget" in name for name in output.data):
        return None
    output.data = {kind: data}
    output.metadata = {}
    return output


def collect_outputs(executed):
    """Return {number of a code cell: its outputs, as the copy shows them}."""
    cells = [
        cell
        for cell in executed.cells
        if cell.cell_type == "code"
        and "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    return {
        number: list(filter(None, map(clean_output, cell.outputs)))
        for number, cell in enumerate(cells, 1)
    }


# The copy


def clean_markdown(source):
    """Return the text of a cell, adapted to the copy.

    The badge and the comment about the build belong to the other notebook. GitHub does
    not show images that are embedded in the text, so a file replaces them.
    """
    source = re.sub(r"<!--.*?-->\n*", "", source, flags=re.DOTALL)
    source = re.sub(r"\[!\[Open In Colab\].*\n*", "", source)
    return re.sub(r"\(data:image/png;base64,[^)]*\)", "(first_screen.png)", source)


def make_copy(notebook, outputs):
    """Return the copy of a notebook, with {number of a code cell: outputs}.

    Collapsed code is left out, except for its title where it has outputs.
    """
    cells = [nbformat.v4.new_markdown_cell(NOTE, id="a-copy-to-read")]
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = clean_markdown(cell.source)
            cells.append(nbformat.v4.new_markdown_cell(source, id=cell.id))
            continue
        number += 1
        shown = outputs.get(number, [])
        is_folded = "hide-input" in cell.metadata.get("tags", [])
        if is_folded and not shown:
            continue
        for output in shown:
            if output.output_type == "execute_result":
                output.execution_count = number
        source = cell.source.split("\n")[0] if is_folded else cell.source
        cells.append(
            nbformat.v4.new_code_cell(
                source, id=cell.id, outputs=shown, execution_count=number
            )
        )
    metadata = {
        "kernelspec": build.METADATA["kernelspec"],
        "language_info": {"name": "python"},
        "sources": {"sha256": code_hash(notebook)},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def refresh_text(copy, notebook):
    """Return the copy with the present text and comments of the notebook."""
    outputs = {
        cell.execution_count: cell.outputs
        for cell in copy.cells
        if cell.cell_type == "code"
    }
    return make_copy(notebook, outputs)


def is_fresh(copy, notebook):
    """Return whether a copy shows the outputs of the notebook's present code."""
    return copy.metadata.get("sources", {}).get("sha256") == code_hash(notebook)


def run_on_phantoms():
    """Run the notebook on phantoms; return it executed."""
    if not Path(SETTINGS["DATA_DIR"]).exists():
        subprocess.run([sys.executable, "-m", "cxr.phantoms"], check=True)
    outputs = Path(SETTINGS["OUTPUT_DIR"])
    if outputs.exists():
        shutil.rmtree(outputs)  # otherwise an earlier training would be resumed
    run.run(SETTINGS)
    report = json.loads((outputs / "metrics.json").read_text(encoding="utf-8"))
    if report["data"] != "phantom":
        sys.exit(
            f"make docs: {SETTINGS['DATA_DIR']} contains no phantoms, and no image of "
            "a patient belongs in the repository. Move that folder away and run "
            "`make docs` again, which draws phantoms."
        )
    return nbformat.read(outputs / run.NOTEBOOK.name, as_version=4)


def main():
    os.chdir(build.ROOT)
    notebook = nbformat.read(run.NOTEBOOK, as_version=4)
    old = nbformat.read(COPY, as_version=4) if COPY.exists() else None
    if old and is_fresh(old, notebook):
        copy = refresh_text(old, notebook)
        print("The code has not changed: only the text is refreshed.")
    else:
        try:
            copy = make_copy(notebook, collect_outputs(run_on_phantoms()))
        except ValueError as error:
            sys.exit(f"make docs: {error}")
    text = build.render(copy)
    COPY.write_text(text, encoding="utf-8")
    print(f"{COPY.relative_to(build.ROOT)}: {len(text.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
