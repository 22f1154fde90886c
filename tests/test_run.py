"""`make run`: settings from the command line, progress bars settled, the page, the closing words."""

import json
import re

import nbformat
import pytest
import run


def test_settings_are_read_as_numbers_words_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["EPOCHS=3", "LEARNING_RATE=1e-4", "RUN_NAME=7", "AUGMENT=False", "IMAGE_SIZE=None", "DATA_DIR=a b", "PRESET=full"]
    settings = run.parse_settings(words)
    assert settings == {"EPOCHS": 3, "LEARNING_RATE": 1e-4, "RUN_NAME": "7", "AUGMENT": False, "IMAGE_SIZE": None,
                        "DATA_DIR": str(tmp_path / "a b"), "PRESET": "full"}


@pytest.mark.parametrize("word", ["EPOCH=3", "EPOCHS", "PRESETS={}"])
def test_a_setting_that_does_not_exist_is_refused(word):
    with pytest.raises(SystemExit, match="no setting"):
        run.parse_settings([word])


@pytest.fixture
def executed(tmp_path):
    """A small executed notebook: a folded cell, and one with a progress bar in three pieces."""
    pieces = ["\rLoading:  10%", "\rLoading: 100%\n", "epoch 1:  50%\r        \repoch 1/1: done\n"]
    cells = [nbformat.v4.new_code_cell("secret_plumbing = 1", metadata={"tags": ["hide-input"]}),
             nbformat.v4.new_code_cell("lesson = 2", outputs=[nbformat.v4.new_output("stream", text=text) for text in pieces])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    return tmp_path / "a.ipynb"


def test_of_a_progress_bar_only_the_last_state_is_left(executed):
    run.settle_progress(executed)
    outputs = nbformat.read(executed, 4).cells[1].outputs
    assert [output.text for output in outputs] == ["Loading: 100%\nepoch 1/1: done\n"]


def test_the_page_shows_the_lesson_and_not_the_folded_code(executed):
    run.export_html(executed, executed.with_suffix(".html"))
    page = executed.with_suffix(".html").read_text(encoding="utf-8")
    assert "lesson" in page and "secret_plumbing" not in page


@pytest.fixture
def page(tmp_path):
    """The page of a notebook with headings, a badge, a figure, printed sentences and a printed table."""
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    badge = "[![Open In Colab](https://colab.example/badge.svg)](https://colab.example/)"
    figure = nbformat.v4.new_output("display_data", {"image/png": png, "text/plain": "<Figure>"})
    cells = [nbformat.v4.new_markdown_cell(f"# Of lungs\n\n{badge}\n\nAn introduction."),
             nbformat.v4.new_markdown_cell("## 0. Begin & set up\n\nText."),
             nbformat.v4.new_code_cell('finish_figure(plot(1), "grad_cam", here)', outputs=[figure]),
             nbformat.v4.new_code_cell("print(1)", outputs=[nbformat.v4.new_output("stream", text="A sentence of many words.\n")]),
             nbformat.v4.new_code_cell("print(2)", outputs=[nbformat.v4.new_output("stream", text="label      recall\nNORMAL       .5\n")]),
             nbformat.v4.new_markdown_cell("## 1. End")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "b.ipynb")
    run.export_html(tmp_path / "b.ipynb", tmp_path / "b.html")
    return (tmp_path / "b.html").read_text(encoding="utf-8")


def test_the_page_needs_no_network_and_fits_a_phone(page):
    assert '<meta name="viewport" content="width=device-width' in page
    assert "<title>Of lungs</title>" in page
    assert not re.findall(r'<script|<link|@import|\bsrc="(?!data:)|url\((?!data:)', page)
    assert '<a href="https://colab.example/">Open In Colab</a>' in page  # a link leads there; its picture would be fetched
    assert "prefers-color-scheme: dark" in page and "prefers-color-scheme: light" in page
    assert 'alt="Figure grad_cam' in page


def test_the_page_lists_its_sections_below_the_introduction(page):
    contents = re.search(r"<nav>.*</nav>", page, re.DOTALL)
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', contents[0])
    assert [title for _, title in links] == ["0. Begin &amp; set up", "1. End"]
    assert all(f'<h2 id="{place}">' in page for place, _ in links)
    assert page.index("An introduction.") < contents.start() < page.index("<h2 ")


def test_printed_sentences_wrap_and_printed_tables_keep_their_columns(page):
    assert '<pre class="sentences">A sentence' in page and "<pre>label      recall" in page


@pytest.mark.parametrize(("data", "official", "words"), [
    ("phantom", False, "PHANTOM radiographs"), ("chest-xray-pneumonia", False, "not in its official split"),
    ("chest-xray-pneumonia", True, "Data: the chest X-ray set (10 images to learn from and validate on, 4 for test)")])
def test_the_closing_words_name_the_data_and_the_uncertainty(tmp_path, data, official, words):
    one, none = {"value": 0.9, "low": 0.8, "high": 0.95}, {"value": None, "low": None, "high": None}
    (tmp_path / "metrics.json").write_text(json.dumps({
        "data": data, "official_split": official, "device": "CPU",
        "counts": {"train": {"NORMAL": 3, "PNEUMONIA": 5}, "val": {"NORMAL": 1, "PNEUMONIA": 1}, "test": {"NORMAL": 2, "PNEUMONIA": 2}},
        "test": {"accuracy": one, "auc": none, "sensitivity": one, "specificity": one}}))
    told = run.describe_outcome(tmp_path, 90)
    assert words in told and "0.900 [0.800–0.950]" in told and "AUC not measurable" in told and "1.5 minutes" in told
