#!/usr/bin/env python3
"""Make docs/tutorial.ipynb, the copy of the tutorial with outputs: `make docs`.

GitHub shows it. The outputs come from a run on phantoms. Folded code is left out, and
nothing in the copy tells of the machine that made it. The notebook is only run again
when its code has changed; a change in the text refreshes the text of the copy.
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
# Of a figure, at most: half of the bytes, and no visible difference.
WIDTH = 900
COLOURS = 256
# The first of these that an output has is shown.
KINDS = ("image/png", "text/html", "text/markdown", "text/latex", "text/plain")
NOTE = """> **A copy to read, with its pictures.** All radiographs in it are
> **PHANTOMS**, drawn by this project: they show no patient, and the scores say nothing
> about patients. Folded code is left out, so this copy does not run. The notebook that
> runs, on the real radiographs, is
> [`notebooks/chest_xray_pneumonia.ipynb`](../notebooks/chest_xray_pneumonia.ipynb);
> what was measured on those is in [`results.md`](results.md)."""


# What the copy was made from


def describe_code(node):
    """Return a syntax tree as nested lists, without comments, layout and docstrings.

    Unlike that of ast.dump, the result is the same in every version of Python.
    """
    if isinstance(node, list):
        return [describe_code(one) for one in node if not is_docstring(one)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        [name, describe_code(value)]
        for name, value in ast.iter_fields(node)
        if value not in (None, [])
    ]
    return [type(node).__name__, *fields]


def is_docstring(node):
    """Return whether a statement is a string and nothing else."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


def short_hash(notebook):
    """Return a digest of the code of a notebook, whatever its text and comments say."""
    code = [
        describe_code(ast.parse(cell.source))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


# Outputs


def shrink_figure(encoded):
    """Return a PNG, in base64, with at most WIDTH pixels across and COLOURS colors."""
    figure = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    figure.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    figure = figure.quantize(
        COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
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
    """Return an output as the copy shows it, or None if nothing of it is left."""
    if output.output_type == "error":
        raise ValueError(f"a cell ended with {output.ename}: {output.evalue}")
    if output.output_type == "stream":
        output.text = clean_text(output.text)
        return output if output.text.strip() else None
    kind = next((kind for kind in KINDS if kind in output.data), "")
    clean = shrink_figure if kind == "image/png" else clean_text
    data = clean(output.data.get(kind, ""))
    if not data.strip() or any("widget" in other for other in output.data):
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
    """Return the text of a cell as it is true of the copy.

    The badge opens the other notebook, and the comment says how that one is made.
    GitHub shows no pictures that are embedded in the text, only files.
    """
    source = re.sub(r"<!--.*?-->\n*", "", source, flags=re.DOTALL)
    source = re.sub(r"\[!\[Open In Colab\].*\n*", "", source)
    return re.sub(r"\(data:image/png;base64,[^)]*\)", "(first_screen.png)", source)


def make_copy(notebook, outputs):
    """Return the copy of a notebook, with {number of a code cell: outputs}.

    Folded code is left out, except for its title where it has outputs.
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
        "sources": {"sha256": short_hash(notebook)},
    }
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def refresh_text(copy, notebook):
    """Return the copy with the text and the comments that the notebook has now."""
    outputs = {
        cell.execution_count: cell.outputs
        for cell in copy.cells
        if cell.cell_type == "code"
    }
    return make_copy(notebook, outputs)


def is_fresh(copy, notebook):
    """Return whether a copy shows the outputs of the code that the notebook has now."""
    return copy.metadata.get("sources", {}).get("sha256") == short_hash(notebook)


def run_on_phantoms():
    """Run the notebook on phantoms; return it executed."""
    if not Path(SETTINGS["DATA_DIR"]).exists():
        subprocess.run([sys.executable, "-m", "cxr.phantoms"], check=True)
    outputs = Path(SETTINGS["OUTPUT_DIR"])
    if outputs.exists():
        shutil.rmtree(outputs)  # the notebook would go on with a run that is there
    run.run(SETTINGS)
    report = json.loads((outputs / "metrics.json").read_text(encoding="utf-8"))
    if report["data"] != "phantom":
        sys.exit(
            f"make docs: {SETTINGS['DATA_DIR']} holds no phantoms, and no picture of a "
            "patient belongs in the repository. Move it away, and run make docs again, "
            "which draws them."
        )
    return nbformat.read(outputs / run.NOTEBOOK.name, as_version=4)


def main():
    os.chdir(build.ROOT)
    notebook = nbformat.read(run.NOTEBOOK, as_version=4)
    old = nbformat.read(COPY, as_version=4) if COPY.exists() else None
    if old and is_fresh(old, notebook):
        copy = refresh_text(old, notebook)
        print("The code has not changed: only the text is refreshed, nothing is run.")
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
