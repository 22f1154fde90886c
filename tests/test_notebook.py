"""The whole notebook, run as users run it: alone, with other settings, in any order."""

import csv
import json
import re
import sys

import build
import keras
import nbclient
import nbformat
import numpy as np
import papermill
import pytest
import run
import sweep
from conftest import hide_project
from PIL import Image
from sklearn import metrics as sk

import docs
from cxr.dataset import list_images
from cxr.evaluation import predict_probabilities
from cxr.images import load_split
from cxr.sections import SECTIONS

NOTEBOOK = build.TEXT.with_suffix(".ipynb")
SMALLEST = {
    "IMAGE_SIZE": 32,
    "EPOCHS": 2,
    "BASELINE_EPOCHS": 1,
    "BOOTSTRAP_SAMPLES": 20,
    "BATCH_SIZE": 64,
}


def prepare(parameters):
    """Return the notebook with these settings, as papermill would run it."""
    return papermill.parameterize.parameterize_notebook(
        papermill.iorw.load_notebook_node(str(NOTEBOOK)), parameters
    )


def sections(book):
    """{section number: [(cell number, cell)]}, by the H2 headings."""
    found, current = {}, None
    for number, cell in enumerate(book.cells):
        heading = re.match(r"## (\d+)\.", cell.source)
        current = (
            int(heading[1]) if cell.cell_type == "markdown" and heading else current
        )
        found.setdefault(current, []).append((number, cell))
    return found


class Kernel:
    """A running kernel with the notebook, which runs sections and single lines."""

    def __init__(self, book, folder):
        self.book = book
        self.client = nbclient.NotebookClient(
            book,
            startup_timeout=run.KERNEL_START_TIMEOUT,
            timeout=1200,
            resources={"metadata": {"path": str(folder)}},
        )
        self.parts = sections(book)

    def run(self, *numbers):
        for part in numbers:
            for number, cell in self.parts[part]:
                if cell.cell_type == "code":
                    self.client.execute_cell(cell, number)

    def run_after_settings(self, part):
        """Run a section without its cells of settings, which would undo a change."""
        cells, tags = self.parts[part], {"parameters", "injected-parameters"}
        start = max(
            (
                place
                for place, (_, cell) in enumerate(cells)
                if tags & set(cell.metadata.get("tags", []))
            ),
            default=-1,
        )
        for number, cell in cells[start + 1 :]:
            if cell.cell_type == "code":
                self.client.execute_cell(cell, number)

    def begin(self, part):
        """Ask what the first cells of a section ask: are its inputs here?"""
        self.line(f"section.require({part}); section({part})")

    def refusal(self, part, run=None):
        """Run a section, or only begin it; return the error that stopped it, or ""."""
        try:
            (run or self.run)(part)
        except nbclient.exceptions.CellExecutionError as error:
            return f"{error.ename}: {error.evalue}"
        return ""

    def save_state(self):
        """Keep what the sections have left, as a later section would replace it."""
        self.line(
            "import copy; kept = copy.deepcopy(section.runs), section.current, "
            "{name: globals()[name] for one in section.sections "
            "for name in one.results if name in globals()}"
        )

    def restore_state(self):
        self.line("section.runs, section.current = kept[:2]; globals().update(kept[2])")

    def line(self, source):
        cell = nbformat.v4.new_code_cell(source)
        self.book.cells.append(cell)
        self.client.execute_cell(cell, len(self.book.cells) - 1)
        return "".join(output.get("text", "") for output in cell.outputs)


def text_of(book):
    return "".join(
        output.get("text", "")
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


@pytest.fixture(scope="module")
def kernel(few_phantoms, tmp_path_factory):
    """The notebook, run whole on phantoms with the smallest settings; its kernel stays.

    This is the only whole run of `make test`: what is asked of an executed notebook is
    asked in this file, which one process runs.
    """
    folder = tmp_path_factory.mktemp("run")
    running = Kernel(
        prepare(
            SMALLEST
            | {
                "DATA_DIR": str(few_phantoms / "chest_xray"),
                "OUTPUT_DIR": str(folder / "out"),
            }
        ),
        folder,
    )
    with running.client.setup_kernel(env=hide_project(folder / "ipython")):
        running.run(*range(11))
        running.out = folder / "out"
        running.first = json.loads((running.out / "metrics.json").read_text())
        running.executed = folder / "executed.ipynb"
        nbformat.write(running.book, running.executed)
        yield running


def test_the_package_is_not_there_and_not_needed(kernel):
    assert (
        kernel.line(
            "import importlib.util; print(importlib.util.find_spec('cxr'))"
        ).strip()
        == "None"
    )
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        kernel.line("import cxr.storage")
    assert caught.value.ename == "ModuleNotFoundError"


def count_figures(book):
    return sum(
        "image/png" in output.get("data", {})
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_the_page_of_the_whole_notebook_has_all_figures_and_sections(kernel, tmp_path):
    run.export_html(kernel.executed, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    executed = nbformat.read(kernel.executed, 4)
    assert page.count("data:image/png;base64,") >= count_figures(executed) > 15
    for number in range(11):
        assert re.search(rf"<h2[^>]*>{number}\. ", page)
    assert "PHANTOM" in page and "def lock_folder" not in page


def test_the_copy_of_the_whole_notebook_shows_what_came_out_of_each_section(kernel):
    outputs = docs.collect_outputs(nbformat.read(kernel.executed, 4))
    copy = docs.make_copy(nbformat.read(NOTEBOOK, 4), outputs)
    nbformat.validate(copy)
    assert count_figures(copy) == count_figures(nbformat.read(kernel.executed, 4))
    for number, cells in sections(copy).items():
        if number is not None:
            assert any(cell.get("outputs") for _, cell in cells), number


def list_keys(value, free=("settings", "versions", "counts", "files", "unreadable")):
    """Return the keys of nested dictionaries, except those of settings and files."""
    if not isinstance(value, dict):
        return []
    inner = [
        key
        for name, part in value.items()
        for key in list_keys(part)
        if name not in free
    ]
    return [*value, *inner]


def test_metrics_json_keeps_its_contract(kernel):
    report = kernel.first
    assert (
        report["data"] == "phantom"
        and report["official_split"] is False
        and report["release"] == "none"
    )
    assert report["schema"] == 1
    assert set(report["models"]) == {
        "linear_border",
        "linear_thumbnail",
        "baseline_cnn",
        "residual_cnn",
    }
    cnn = report["models"]["residual_cnn"]
    assert cnn["auc"] == report["validation"]["auc"]
    assert cnn["test_auc"] == report["test"]["auc"]
    assert "auc_bias_conflicting" in cnn
    assert len(report["shortcuts"]) == 7
    assert (
        report["settings"]["IMAGE_SIZE"] == 32
        and report["versions"]["keras"]
        and report["device"]
    )
    assert report["counts"]["test"] == {"NORMAL": 22, "PNEUMONIA": 38}
    names = {section.name for section in SECTIONS}
    assert set(report["seconds"]) == names
    assert report["threshold"]["rule"]
    assert report["thresholds"]["fixed_sensitivity"] == report["threshold"]["value"]
    assert all(re.fullmatch("[a-z0-9_]+", key) for key in list_keys(report))
    for part in ("validation", "test"):
        for name in (
            "accuracy",
            "sensitivity",
            "specificity",
            "precision",
            "f1",
            "auc",
            "average_precision",
        ):
            estimate = report[part][name]
            values = [estimate[key] for key in ("low", "value", "high")]
            assert None in values or values == sorted(values)


def test_the_metrics_follow_from_the_predictions(kernel):
    with (kernel.out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"validation", "test"}
    for part in ("validation", "test"):
        own = [row for row in rows if row["split"] == part]
        labels = np.array([int(row["label"]) for row in own])
        probabilities = np.array([float(row["probability"]) for row in own])
        predicted = probabilities >= kernel.first["threshold"]["value"]
        report = kernel.first[part]
        assert (
            report["confusion_matrix"]
            == sk.confusion_matrix(labels, predicted).tolist()
        )
        assert report["accuracy"]["value"] == pytest.approx(
            (labels == predicted).mean()
        )
        assert report["auc"]["value"] == pytest.approx(
            sk.roc_auc_score(labels, probabilities)
        )
        assert report["f1"]["value"] == pytest.approx(sk.f1_score(labels, predicted))
        assert all(("PNEUMONIA" in row["path"]) == (row["label"] == "1") for row in own)


def test_history_checkpoint_and_figures_are_left(kernel, few_phantoms):
    with (kernel.out / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    figures = {path.stem for path in (kernel.out / "figures").glob("*.png")}
    assert {
        "class_balance",
        "samples",
        "learning_curves",
        "confusion_matrix",
        "roc_pr_curves",
        "grad_cam",
        "runs",
    } <= figures
    figures -= {name for name in figures if name.startswith("exercise")}
    assert count_figures(nbformat.read(kernel.executed, 4)) == len(figures)
    for path in (kernel.out / "figures").glob("*.png"):
        assert min(Image.open(path).size) > 150
    assert not list(kernel.out.rglob("*unfinished*"))


def test_the_checkpoint_gives_the_same_probabilities_in_another_process(
    kernel, few_phantoms
):
    """In this process; the notebook ran in that of its kernel."""
    with (kernel.out / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    files = list_images(few_phantoms / "chest_xray")
    files = files.set_index("path").loc[[row["path"] for row in rows]].reset_index()
    x, *_ = load_split(few_phantoms / "chest_xray", files, 32, "again")
    model = keras.models.load_model(kernel.out / "best.keras")
    expected = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(predict_probabilities(model, x), expected, atol=1e-6)


def test_the_sweep_reads_what_a_run_has_written(kernel):
    run = sweep.run_once({}, kernel.out)
    predictions = run["predictions"]
    test = predictions[predictions.split == "test"]
    auc = sk.roc_auc_score(test.label, test.probability)
    assert run["test"]["auc"]["value"] == pytest.approx(auc)
    assert 2 < predictions.patient.nunique() < len(predictions)


def test_phantoms_are_named_wherever_a_result_is_told(kernel):
    told = text_of(kernel.book)
    for sentence in (
        "PHANTOM radiographs",
        r"\d+ phantom radiographs in test are misclassified",
    ):
        assert re.search(sentence, told)


@pytest.mark.parametrize("exercise", range(1, 4))
def test_the_solution_of_each_exercise_runs_and_says_something(kernel, exercise):
    """Their cell is run as a reader does who has chosen a number in its form."""
    source = next(
        cell.source
        for cell in kernel.book.cells
        if cell.source.startswith("# @title Solutions")
    )
    told = kernel.line(source.replace("EXERCISE = 0", f"EXERCISE = {exercise}", 1))
    assert told or (kernel.out / f"figures/exercise_{exercise}.png").exists()
    assert f"\n{exercise}. **" in "".join(
        cell.source for cell in kernel.book.cells if cell.cell_type == "markdown"
    )


@pytest.fixture
def aside(kernel):
    """The same kernel, emptied; afterwards it has everything again."""
    kernel.line("import builtins; builtins.kept_aside = dict(globals())")
    kernel.line("get_ipython().run_line_magic('reset', '-f')")
    yield kernel
    kernel.line("globals().update(__import__('builtins').kept_aside)")


def test_each_section_run_alone_says_in_one_sentence_what_to_run(aside):
    """In an empty kernel, and after section 0; section 9 then shows older runs."""
    for section in range(1, 11):
        sentence = (
            f"Section {section} needs what section 0 defines: run section 0 first."
        )
        assert aside.refusal(section) == f"RuntimeError: {sentence}"
    aside.run(0)
    for section in (2, 3, 4, 5, 6, 7, 8, 10):
        sentence = (
            rf"RuntimeError: Section {section} needs the results of earlier sections: "
            r"run sections? [\d, ]+ first\."
        )
        assert re.fullmatch(sentence, aside.refusal(section))
    assert aside.refusal(9) == ""
    assert "reference" in aside.line(
        "print(tabulate_runs(list_runs(output_dir / 'runs')).to_string())"
    )


def try_all(kernel, sections):
    """Begin these sections, each from one state; return {section: refusal or ""}."""
    told = {}
    for section in sections:
        kernel.save_state()
        told[section] = kernel.refusal(section, kernel.begin)
        kernel.restore_state()
    return told


def again(earlier, section):
    return (
        f"RuntimeError: Section {earlier} has run since section {section}, with "
        f"another result: run section {section} again."
    )


def test_what_a_section_made_is_told_from_another_result_and_from_the_same(kernel):
    """Some pairs of sections in the notebook; test_sections.py has the rules."""
    kernel.run(1, 2, 4)  # the same results
    assert set(try_all(kernel, range(1, 11)).values()) == {""}

    kernel.line("old_size = IMAGE_SIZE; IMAGE_SIZE = 40")
    for section, told in try_all(kernel, (3, 5, 6, 7, 8, 10)).items():
        assert told.startswith("RuntimeError: IMAGE_SIZE was "), section
        assert told.endswith("run section 2 again, or set it back."), section
    assert try_all(kernel, (2, 9)) == {2: "", 9: ""}
    kernel.run(2)
    assert try_all(kernel, (3, 4, 5, 7, 9)) == {
        3: "",
        4: again(2, 3),
        5: "",
        7: again(2, 3),
        9: "",
    }
    kernel.line("IMAGE_SIZE = old_size")
    kernel.run(2)
    assert try_all(kernel, (7, 8, 10)) == {
        7: "",
        8: "",
        10: "",
    }  # the old images are back

    kernel.line("SPLIT_SEED = 1")
    kernel.run(4)
    assert try_all(kernel, (5, 8, 9, 10)) == {
        5: "",
        8: again(4, 7),
        9: "",
        10: again(4, 7),
    }
    kernel.line("SPLIT_SEED = 0")
    kernel.run(4)
    assert try_all(kernel, (8,)) == {8: ""}


def test_the_same_training_again_gives_the_same_and_stands_beside_the_first(kernel):
    """Under another name, in the same kernel."""
    kernel.line('RUN_NAME, BASELINE_EPOCHS = "again", 0')
    kernel.run(6)
    for told in try_all(kernel, (8, 10)).values():
        assert "run section 7 again" in told
    kernel.run(7, 9)
    report = json.loads((kernel.out / "metrics.json").read_text())
    assert report["run"] == "again"
    for part in ("threshold", "validation", "test", "counts"):
        assert report[part] == kernel.first[part]
    table = kernel.line(
        "print(tabulate_runs(list_runs(output_dir / 'runs')).to_string())"
    )
    assert "reference" in table and "again" in table and "baseline" in table


def test_a_run_is_not_validated_on_images_that_it_may_have_learned_from(kernel):
    kernel.line("SPLIT_SEED = 1")
    kernel.run(4)
    assert kernel.refusal(7).startswith("ValueError: The run ")


def test_the_first_cell_installs_all_that_the_notebook_imports():
    """Each import of any cell is listed, of the standard library, or optional."""
    import ast

    book = nbformat.read(NOTEBOOK, 4)
    codes = [cell.source for cell in book.cells if cell.cell_type == "code"]
    listed = ast.literal_eval(
        re.search(r"packages = (\{.*?\})\n", codes[0], re.DOTALL)[1]
    )
    optional = {
        "jax",
        "google",
        "pydicom",
        "IPython",
    }  # another backend, Colab, asked for by its sentence, always there
    imported = {
        name.split(".")[0]
        for code in codes
        for node in ast.walk(ast.parse(code))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) - set(listed) - optional == set()
    assert {"jinja2", "pydantic", "sklearn", "kaggle", "tensorflow"} <= set(listed)


@pytest.mark.parametrize(
    ("section", "setting", "value", "message"),
    [
        (1, "DATA_DIR", "/nowhere/at/all", "does not exist"),
        (0, "OUTPUT_DIR", "/dev/null/outputs", "cannot be written"),
    ],
)
def test_bad_input_stops_a_section_with_one_clear_sentence(
    kernel, section, setting, value, message
):
    kernel.save_state()
    kernel.line(f"before, {setting} = {setting}, {value!r}")
    assert message in kernel.refusal(section, kernel.run_after_settings)
    kernel.line(f"{setting} = before")
    kernel.restore_state()


def test_the_notebook_is_committed_without_outputs_and_with_what_colab_needs():
    book = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(book)
    assert all(
        not cell.outputs and cell.execution_count is None
        for cell in book.cells
        if cell.cell_type == "code"
    )
    assert (
        book.metadata.accelerator == "GPU"
        and book.metadata.colab.toc_visible
        and book.metadata.kernelspec.name == "python3"
    )
    assert [number for number in sections(book) if number is not None] == list(
        range(11)
    )
