"""The copy to read: it is no older than its sources, shows pictures and no folded code, and tells nothing of the machine that made it."""

import base64
import io
import re

import build
import nbformat
import pytest
import run
from conftest import ROOT
from PIL import Image

import docs

FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["hide-input"]}
BADGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/{}) {}"
BAR = "Loading:  50%|█████     | 5/10 [00:01<00:01, 4.9it/s]"


# The copy in the repository


@pytest.fixture(scope="module")
def copy():
    return nbformat.read(docs.COPY, as_version=4)


def find_outputs(cells):
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_copy_is_no_older_than_its_sources(copy):
    built = build.build()
    is_fresh = copy.metadata.sources.sha256 == docs.take_digest(build.render(built))
    assert is_fresh, "docs/tutorial.ipynb is older than its sources: run `make docs`, and commit what it writes"
    names, known = [cell.id for cell in copy.cells[1:]], [cell.id for cell in built.cells]
    assert names == [name for name in known if name in names]


def test_the_copy_is_small_and_whole(copy):
    nbformat.validate(copy)
    assert docs.COPY.stat().st_size < 3e6
    assert len({cell.id for cell in copy.cells}) == len(copy.cells)
    outputs = find_outputs(copy.cells)
    assert not [output for output in outputs if output.output_type == "error"]
    assert "widgets" not in copy.metadata and "widget" not in str([output.get("data", {}).keys() for output in outputs])


def test_each_section_of_the_copy_shows_what_came_out(copy):
    sections = []
    for cell in copy.cells:
        if cell.cell_type == "markdown" and re.search(r"^## \d", cell.source, re.M):
            sections.append([])
        elif sections:
            sections[-1].append(cell)
    assert len(sections) == 11 and all(map(find_outputs, sections))
    assert sum("image/png" in output.get("data", {}) for output in find_outputs(copy.cells)) >= 15


def test_the_copy_says_first_that_its_films_are_phantoms_and_where_the_notebook_is(copy):
    note = copy.cells[0].source
    assert "PHANTOMS" in note and "nothing about patients" in " ".join(note.replace("> ", "").split())
    links = re.findall(r"\]\(([^)]+)\)", note)
    assert links[0] == "../notebooks/chest_xray_pneumonia.ipynb"
    assert all((docs.COPY.parent / link).exists() for link in links)
    assert "Open In Colab" not in str(copy)  # that would ask to upload this file


def test_the_copy_has_no_folded_code_and_no_trace_of_a_machine(copy):
    folded = {cell.source for cell in build.build().cells if "hide-input" in cell.metadata.get("tags", []) and "\n" in cell.source}
    assert len(folded) > 20 and not folded & {cell.source for cell in copy.cells}
    assert not [cell.id for cell in copy.cells if cell.metadata or cell.source.startswith("# @title cxr/")]
    texts = [output.get("text") or "".join(data for kind, data in output.data.items() if kind != "image/png")
             for output in find_outputs(copy.cells)]
    for text in texts:
        assert not re.search(r"(?<![\w.])/(home|root|tmp|var|work|Users)/|\d%\|", text), text


# How it is made


def draw_figure(width, height):
    """A figure as matplotlib leaves it: white, with an orange box."""
    figure, file = Image.new("RGBA", (width, height), "white"), io.BytesIO()
    figure.paste("#D55E00", (10, 10, width // 2, height // 2))
    figure.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def read_figure(encoded):
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def make_executed():
    """An executed notebook with all that a copy leaves out or changes."""
    code, output = nbformat.v4.new_code_cell, nbformat.v4.new_output
    text = f"# Lungs\n\n{BADGE.format('', 'Upload.')}\n"
    figure = output("display_data", {"image/png": draw_figure(1800, 900), "text/plain": "<Figure>"}, metadata={"needs": "light"})
    html = "<style scoped>\n th {}\n</style>\n<table>1</table>"
    table = output("execute_result", {"text/html": html, "text/plain": "1"}, execution_count=7)
    bar = output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "HBox()"})
    kept = output("stream", name="stdout", text=f"{ROOT}/outputs/a of {ROOT}\n{docs.Path.home()}/b\n")
    cells = [nbformat.v4.new_markdown_cell(text, id="start-1"), code("OUTPUT_DIR = 1", metadata={"tags": ["injected-parameters"]}),
             code("# @title cxr/a.py: A\nsecret = 1", id="module-a", metadata=FOLDED, outputs=[bar, output("stream", text=f"{BAR}\n")]),
             code("# @title Solution\nanswer = 2\nprint(answer)", id="end-1", metadata=FOLDED, outputs=[output("stream", text="2\n")]),
             code("show()", id="end-2", metadata={"papermill": {"duration": 3}}, execution_count=7, outputs=[kept, figure, table])]
    return nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"output_path": "/home/ada"}, "widgets": {"state": {}}})


def test_what_a_reader_needs_is_kept_and_nothing_else():
    made = docs.make_copy(make_executed(), "12ab")
    nbformat.validate(made)
    assert [(cell.id, cell.source) for cell in made.cells] == [
        ("a-copy-to-read", docs.NOTE), ("start-1", "# Lungs\n\n\n"), ("end-1", "# @title Solution"), ("end-2", "show()")]
    assert all(not cell.metadata for cell in made.cells)
    assert made.metadata == {"kernelspec": build.METADATA["kernelspec"], "language_info": {"name": "python"}, "sources": {"sha256": "12ab"}}
    solution, shown = made.cells[2:]
    assert [output.text for output in solution.outputs] == ["2\n"]
    assert shown.outputs[0].text == "outputs/a of .\n~/b\n"
    assert list(shown.outputs[1].data) == ["image/png"] and not shown.outputs[1].metadata
    assert shown.outputs[2].data == {"text/html": "<table>1</table>"}
    assert (solution.execution_count, shown.execution_count, shown.outputs[2].execution_count) == (1, 2, 2)


@pytest.mark.parametrize(("size", "expected"), [((1800, 900), (900, 450)), ((600, 400), (600, 400)), ((900, 2000), (900, 2000))])
def test_figures_are_made_as_wide_as_a_page_and_keep_their_colours(size, expected):
    small = read_figure(docs.shrink_figure(draw_figure(*size)))
    assert small.format == "PNG" and small.size == expected
    colours = small.convert("RGB")
    assert colours.getpixel((100, 100)) == (0xD5, 0x5E, 0x00) and colours.getpixel((expected[0] - 5, expected[1] - 5)) == (255, 255, 255)


def test_printed_lines_survive_where_a_progress_bar_goes():
    assert docs.clean_text(f"before\n{BAR}\nafter: 97.5%, 3 | 4\n") == "before\nafter: 97.5%, 3 | 4\n"


def test_a_cell_that_failed_makes_no_copy():
    executed = make_executed()
    executed.cells[-1].outputs.append(nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[]))
    with pytest.raises(ValueError, match="a cell ended with KeyError: 'x'"):
        docs.make_copy(executed, "")


def test_the_digest_follows_the_notebook_and_not_the_address_of_its_badge():
    texts = [f'"{BADGE.format(*words)}\\n",' for words in (("", "Choose *Upload* there."), ("github/ada/lungs", "Run it."))]
    assert docs.take_digest(texts[0]) == docs.take_digest(texts[1]) != docs.take_digest(texts[0] + "print(1)")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project where the run of the notebook leaves the small executed notebook, and `docs.main` what it makes of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(docs, "COPY", tmp_path / "tutorial.ipynb")
    monkeypatch.setattr(run, "NOTEBOOK", tmp_path / "small.ipynb")
    run.NOTEBOOK.write_text("source", encoding="utf-8")
    (tmp_path / "outputs/docs").mkdir(parents=True)
    (tmp_path / "outputs/docs/former").touch()
    kind = {"data": "phantom"}

    def leave(settings):
        folder = docs.Path(settings["OUTPUT_DIR"])
        assert not folder.exists() and settings["DATA_DIR"] == "data/phantoms/chest_xray" and settings["PRESET"] == "quick"
        folder.mkdir()
        (folder / "metrics.json").write_text(f'{{"data": "{kind["data"]}"}}', encoding="utf-8")
        nbformat.write(make_executed(), folder / "small.ipynb")

    monkeypatch.setattr(run, "run", leave)
    return kind


def test_make_docs_runs_anew_and_writes_the_copy_with_the_digest_of_what_it_ran(place, capsys):
    docs.main()
    assert nbformat.read(docs.COPY, 4).metadata.sources.sha256 == docs.take_digest("source")
    assert capsys.readouterr().out == "tutorial.ipynb: 0.0 MB\n"


def test_pictures_of_patients_are_refused(place):
    place["data"] = "chest-xray-pneumonia"
    with pytest.raises(SystemExit, match="data/phantoms/chest_xray holds no phantoms"):
        docs.main()
    assert not docs.COPY.exists()


def test_a_copy_that_is_too_large_is_not_written(place, monkeypatch):
    monkeypatch.setattr(docs, "LIMIT", 1000)
    with pytest.raises(SystemExit, match=r"make docs: the copy has [\d,]+ bytes, more than 1,000: choose smaller figures"):
        docs.main()
    assert not docs.COPY.exists()
