"""The copy to read: up to date, and without traces of the machine that made it."""

import base64
import io
import json
import re

import build
import nbformat
import pytest
import run
from conftest import ROOT
from PIL import Image

import docs

BADGE = (
    "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/) Choose *Upload*."
)
BAR = "Loading:  50%|█████     | 5/10 [00:01<00:01, 4.9it/s]"


# The copy in the repository


@pytest.fixture(scope="module")
def copy():
    return nbformat.read(docs.COPY, as_version=4)


def find_outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def find_texts(copy):
    """Return what is printed and tabulated in a copy."""
    return [
        output.get("text")
        or "".join(data for kind, data in output.data.items() if kind != "image/png")
        for output in find_outputs(copy.cells)
    ]


def test_the_copy_is_no_older_than_its_sources(copy):
    notebook = nbformat.read(run.NOTEBOOK, as_version=4)
    assert docs.is_fresh(copy, notebook), (
        "docs/tutorial.ipynb shows the outputs of other code: run `make docs` (some "
        "minutes), and commit the result"
    )
    refreshed = build.render(docs.refresh_text(copy, notebook))
    assert docs.COPY.read_text(encoding="utf-8") == refreshed, (
        "docs/tutorial.ipynb has an older text: run `make docs` (the notebook is not "
        "run again), and commit the result"
    )


def test_the_copy_is_complete_and_each_section_has_outputs(copy):
    nbformat.validate(copy)
    sections = []
    for cell in copy.cells:
        is_heading = re.search(r"^## \d", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and is_heading:
            sections.append([])
        elif sections:
            sections[-1].append(cell)
    assert sections and all(map(find_outputs, sections))
    outputs = find_outputs(copy.cells)
    assert not [output for output in outputs if output.output_type == "error"]
    kinds = [kind for output in outputs for kind in output.get("data", ())]
    assert "image/png" in kinds and not [kind for kind in kinds if "widget" in kind]


def test_the_copy_shows_phantoms_and_says_where_the_notebook_is(copy):
    note = copy.cells[0].source
    assert "PHANTOMS" in note and "PHANTOM" in "".join(find_texts(copy))
    links = re.findall(r"\]\(([^)]+)\)", note)
    assert links[0] == "../notebooks/chest_xray_pneumonia.ipynb"
    assert all((docs.COPY.parent / link).exists() for link in links)
    assert "Open In Colab" not in str(copy)  # that would ask to upload this file


def test_the_copy_has_no_folded_code_and_no_trace_of_a_machine(copy):
    notebook = nbformat.read(run.NOTEBOOK, as_version=4)
    folded = {
        cell.source
        for cell in notebook.cells
        if "hide-input" in cell.metadata.get("tags", []) and "\n" in cell.source
    }
    assert folded and not folded & {cell.source for cell in copy.cells}
    assert not [cell.id for cell in copy.cells if cell.metadata]
    for text in find_texts(copy):
        assert not re.search(r"(?<![\w.])/(home|root|tmp|var|work|Users)/|\d%\|", text)


# How it is made


def draw_figure(width, height):
    """Return a figure as matplotlib leaves it: white, with an orange box."""
    figure = Image.new("RGBA", (width, height), "white")
    figure.paste("#D55E00", (10, 10, width // 2, height // 2))
    file = io.BytesIO()
    figure.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


FOLDED = {"tags": ["hide-input"]}


def make_notebook():
    """Return a small notebook, as it is built."""
    code = nbformat.v4.new_code_cell
    picture = "![two](data:image/png;base64,iVBORw0K)"
    text = f"<!-- Generated -->\n\n# Lungs\n\n{BADGE}\n\n{picture}"
    cells = [
        nbformat.v4.new_markdown_cell(text, id="start-1"),
        code("# @title cxr/a.py: A\nsecret = 1", id="module-a", metadata=FOLDED),
        code("# @title Solution\nprint(2)", id="end-1", metadata=FOLDED),
        code('def show():\n    """Show."""\n\nshow()', id="end-2"),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def make_executed():
    """Return the same notebook executed, with all that a copy leaves out or changes."""
    output = nbformat.v4.new_output
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"}
    printed = f"{ROOT}/outputs/a of {ROOT}\n{docs.Path.home()}/b\n{BAR}\n97.5%, 3 | 4\n"
    figure = {"image/png": draw_figure(1800, 900), "text/plain": "<Figure>"}
    html = "<style scoped>\n th {}\n</style>\n<table>1</table>"
    table = {"text/html": html, "text/plain": "1"}
    notebook = make_notebook()
    module, solution, shown = notebook.cells[1:]
    module.outputs = [output("display_data", widget), output("stream", text=f"{BAR}\n")]
    solution.outputs = [output("stream", text="2\n")]
    shown.outputs = [
        output("stream", text=printed),
        output("display_data", figure, metadata={"needs": "light"}),
        output("execute_result", table, execution_count=7),
    ]
    settings = {"tags": ["injected-parameters"]}
    injected = nbformat.v4.new_code_cell("OUTPUT_DIR = 1", metadata=settings)
    notebook.cells.insert(1, injected)
    notebook.metadata = {"papermill": {"output_path": "/home/ada"}}
    return notebook


def test_what_a_reader_needs_is_kept_and_nothing_else():
    made = docs.make_copy(make_notebook(), docs.collect_outputs(make_executed()))
    nbformat.validate(made)
    assert [(cell.id, cell.source) for cell in made.cells[1:]] == [
        ("start-1", "# Lungs\n\n![two](first_screen.png)"),
        ("end-1", "# @title Solution"),
        ("end-2", 'def show():\n    """Show."""\n\nshow()'),
    ]
    assert "papermill" not in made.metadata
    assert not [cell for cell in made.cells if cell.metadata]
    solution, shown = made.cells[2:]
    assert [output.text for output in solution.outputs] == ["2\n"]
    assert shown.outputs[0].text == "outputs/a of .\n~/b\n97.5%, 3 | 4\n"
    assert list(shown.outputs[1].data) == ["image/png"]
    assert not shown.outputs[1].metadata
    assert shown.outputs[2].data == {"text/html": "<table>1</table>"}
    assert shown.execution_count == shown.outputs[2].execution_count == 3


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1800, 900), (900, 450)), ((600, 400), (600, 400)), ((900, 2000), (900, 2000))],
)
def test_figures_are_made_as_wide_as_a_page_and_keep_their_colors(size, expected):
    small = docs.shrink_figure(draw_figure(*size))
    figure = Image.open(io.BytesIO(base64.b64decode(small)))
    assert figure.format == "PNG" and figure.size == expected
    colors = figure.convert("RGB")
    assert colors.getpixel((100, 100)) == (0xD5, 0x5E, 0x00)
    assert colors.getpixel((expected[0] - 5, expected[1] - 5)) == (255, 255, 255)


def test_a_cell_that_failed_makes_no_copy():
    executed = make_executed()
    error = nbformat.v4.new_output("error", ename="KeyError", evalue="'x'")
    executed.cells[-1].outputs.append(error)
    with pytest.raises(ValueError, match="a cell ended with KeyError: 'x'"):
        docs.collect_outputs(executed)


# When the notebook is run again


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project whose notebook is small, and whose runs are counted, not run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "COPY", tmp_path / "tutorial.ipynb")
    monkeypatch.setattr(run, "NOTEBOOK", tmp_path / "small.ipynb")
    nbformat.write(make_notebook(), run.NOTEBOOK)
    (tmp_path / "data/phantoms/chest_xray").mkdir(parents=True)
    (tmp_path / "outputs/docs").mkdir(parents=True)
    (tmp_path / "outputs/docs/former").touch()
    state = {"data": "phantom", "runs": 0}

    def leave(settings):
        state["runs"] += 1
        folder = docs.Path(settings["OUTPUT_DIR"])
        assert not folder.exists()
        assert settings["DATA_DIR"] == "data/phantoms/chest_xray"
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({"data": state["data"]}))
        nbformat.write(make_executed(), folder / "small.ipynb")

    monkeypatch.setattr(run, "run", leave)
    return state


def change_notebook(old, new):
    text = run.NOTEBOOK.read_text(encoding="utf-8")
    assert old in text
    run.NOTEBOOK.write_text(text.replace(old, new), encoding="utf-8")


def test_a_change_in_the_text_refreshes_the_copy_without_a_run(place):
    docs.main()
    first = nbformat.read(docs.COPY, as_version=4)
    change_notebook("# Lungs", "# Two lungs, seen")
    change_notebook("Show.", "Show, once.")
    change_notebook('"show()"', '"show()  # all"')
    docs.main()
    second = nbformat.read(docs.COPY, as_version=4)
    assert place["runs"] == 1
    assert second.cells[1].source.startswith("# Two lungs, seen")
    last = second.cells[-1].source
    assert "Show, once." in last and "# all" in last
    assert find_outputs(second.cells) == find_outputs(first.cells)


@pytest.mark.parametrize(
    ("old", "new"), [("print(2)", "print(3)"), ("secret = 1", "secret = None")]
)
def test_a_change_in_the_code_runs_the_notebook_again(place, old, new):
    docs.main()
    change_notebook(old, new)
    docs.main()
    assert place["runs"] == 2


def test_images_of_patients_are_refused(place):
    place["data"] = "chest-xray-pneumonia"
    with pytest.raises(
        SystemExit, match="data/phantoms/chest_xray contains no phantoms"
    ):
        docs.main()
    assert not docs.COPY.exists()
