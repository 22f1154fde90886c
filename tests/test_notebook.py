"""The whole notebook, run as a user runs it: alone in an empty folder, with other settings, section after section."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import build
import nbclient
import nbformat
import numpy as np
import papermill
import pytest
from conftest import ROOT
from PIL import Image
from sklearn import metrics as sk

NOTEBOOK = build.TEXT.with_suffix(".ipynb")
SMALLEST = {"IMAGE_SIZE": 32, "EPOCHS": 2, "BASELINE_EPOCHS": 1, "RESAMPLES": 20, "BATCH_SIZE": 64}


def prepare(parameters):
    """The notebook with these settings, as papermill would run it."""
    return papermill.parameterize.parameterize_notebook(papermill.iorw.load_notebook_node(str(NOTEBOOK)), parameters)


def sections(book):
    """{section number: [(cell number, cell)]}, by the H2 headings."""
    found, current = {}, None
    for number, cell in enumerate(book.cells):
        heading = re.match(r"## (\d+)\.", cell.source)
        current = int(heading[1]) if cell.cell_type == "markdown" and heading else current
        found.setdefault(current, []).append((number, cell))
    return found


class Kernel:
    """A running kernel with the notebook in it, to which sections and single lines can be sent."""

    def __init__(self, book, folder):
        self.book = book
        self.client = nbclient.NotebookClient(book, timeout=1200, resources={"metadata": {"path": str(folder)}})
        self.parts = sections(book)

    def run(self, *numbers):
        for part in numbers:
            for number, cell in self.parts[part]:
                if cell.cell_type == "code":
                    self.client.execute_cell(cell, number)

    def begin(self, part):
        """Run a section as far as its `tour.start`, which says what it needs."""
        for number, cell in self.parts[part]:
            if cell.cell_type == "code":
                self.client.execute_cell(cell, number)
                if "tour.start(" in cell.source:
                    return

    def refusal(self, part, run=None):
        """Run a section until it ends or stops, or only `begin` it; return the last line of what stopped it, or ""."""
        try:
            (run or self.run)(part)
        except nbclient.exceptions.CellExecutionError as error:
            return f"{error.ename}: {error.evalue}"
        return ""

    def line(self, source):
        cell = nbformat.v4.new_code_cell(source)
        self.book.cells.append(cell)
        self.client.execute_cell(cell, len(self.book.cells) - 1)
        return "".join(output.get("text", "") for output in cell.outputs)


def text_of(book):
    return "".join(output.get("text", "") for cell in book.cells if cell.cell_type == "code" for output in cell.outputs)


@pytest.fixture(scope="module")
def kernel(phantoms, tmp_path_factory):
    """The notebook, run whole on phantoms with the smallest settings; its kernel stays for more."""
    folder = tmp_path_factory.mktemp("run")
    running = Kernel(prepare(SMALLEST | {"DATA_DIR": str(phantoms / "chest_xray"), "OUTPUT_DIR": str(folder / "out")}), folder)
    with running.client.setup_kernel(env={**os.environ, "PYTHONPATH": ""}):
        running.run(*range(11))
        running.out = folder / "out"
        running.first = json.loads((running.out / "metrics.json").read_text())
        yield running


def test_the_package_is_not_there_and_not_needed(kernel):
    assert kernel.line("import importlib.util; print(importlib.util.find_spec('cxr'))").strip() == "None"


def test_metrics_json_keeps_its_contract(kernel):
    report = kernel.first
    assert report["data"] == "phantom" and report["official_split"] is False and report["release"] == "none"
    assert set(report["classifiers"]) == {"linear, only the frame", "linear, thumbnails", "baseline CNN", "residual CNN"}
    ours = report["classifiers"]["residual CNN"]
    assert (ours["AUC"], ours["test AUC"]) == (report["validation"]["auc"], report["test"]["auc"]) and "AUC, conflicting" in ours
    assert len(report["clues"]) == 7
    assert report["settings"]["IMAGE_SIZE"] == 32 and report["versions"]["keras"] and report["device"]
    assert report["counts"]["test"] == {"NORMAL": 60, "PNEUMONIA": 100}
    assert len(report["seconds"]) == 10 and report["threshold"]["how"]
    for part in ("validation", "test"):
        for name in ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "average_precision"):
            one = report[part][name]
            assert one["low"] <= one["value"] <= one["high"] or None in one.values()


def test_the_metrics_follow_from_the_predictions(kernel):
    with (kernel.out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"validation", "test"}
    for part in ("validation", "test"):
        own = [row for row in rows if row["split"] == part]
        labels = np.array([int(row["label"]) for row in own])
        probabilities = np.array([float(row["probability"]) for row in own])
        answers = probabilities >= kernel.first["threshold"]["value"]
        report = kernel.first[part]
        assert report["confusion_matrix"] == sk.confusion_matrix(labels, answers).tolist()
        assert report["accuracy"]["value"] == pytest.approx((labels == answers).mean())
        assert report["auc"]["value"] == pytest.approx(sk.roc_auc_score(labels, probabilities))
        assert report["f1"]["value"] == pytest.approx(sk.f1_score(labels, answers))
        assert all(("PNEUMONIA" in row["path"]) == (row["label"] == "1") for row in own)


def test_history_checkpoint_and_figures_are_left(kernel, phantoms):
    with (kernel.out / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    figures = {path.stem for path in (kernel.out / "figures").glob("*.png")}
    assert {"class_balance", "samples", "learning_curves", "confusion_matrix", "roc_pr_curves", "grad_cam", "runs"} <= figures
    figures -= {name for name in figures if name.startswith("exercise")}
    shown = sum("image/png" in output.get("data", {}) for cell in kernel.book.cells if cell.cell_type == "code" for output in cell.outputs)
    assert shown == len(figures)
    for path in (kernel.out / "figures").glob("*.png"):
        assert min(Image.open(path).size) > 150
    assert not list(kernel.out.rglob("*unfinished*"))


def test_the_checkpoint_gives_the_same_probabilities_in_another_process(kernel, phantoms):
    code = f"""if True:
        import keras, pandas
        from cxr.images import load_split
        from cxr.measure import predict_probabilities
        rows = pandas.read_csv({str(kernel.out / 'predictions.csv')!r}).query("split == 'test'")
        x, *_ = load_split({str(phantoms / 'chest_xray')!r}, rows, 32, "again")
        model = keras.models.load_model({str(kernel.out / 'best.keras')!r})
        print("largest difference", abs(predict_probabilities(model, x) - rows.probability.to_numpy()).max())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.rsplit("largest difference", 1)[1]) < 1e-6


def test_phantoms_are_named_wherever_a_result_is_told(kernel):
    told = text_of(kernel.book)
    for sentence in ("PHANTOM radiographs", r"On \d+ phantom radiographs held out", r"Missed \d+ of \d+ phantom radiographs"):
        assert re.search(sentence, told)


@pytest.mark.parametrize("exercise", range(1, 4))
def test_the_solution_of_each_exercise_runs_and_says_something(kernel, exercise):
    """Their cell is run as a reader does who has chosen a number in its form."""
    source = next(cell.source for cell in kernel.book.cells if cell.source.startswith("# @title Solutions"))
    told = kernel.line(source.replace("EXERCISE = 0", f"EXERCISE = {exercise}", 1))
    assert told or (kernel.out / f"figures/exercise_{exercise}.png").exists()
    assert f"\n{exercise}. **" in "".join(cell.source for cell in kernel.book.cells if cell.cell_type == "markdown")


def test_the_kernel_is_this_python_with_the_versions_that_were_asked_for(kernel):
    """make test-colab names a file with exact versions in EXACT_VERSIONS."""
    pins = (ROOT / os.environ["EXACT_VERSIONS"]).read_text() if "EXACT_VERSIONS" in os.environ else ""
    wanted = re.findall(r"^([\w-]+)==(\S+)", pins, re.M)
    found = kernel.line("import importlib.metadata; print(json.dumps([sys.prefix, "
                        f"[[name, importlib.metadata.version(name)] for name, _ in {wanted}]]))")
    assert json.loads(found) == [sys.prefix, [list(pin) for pin in wanted]]


# What each section needs, written down from its text and not from the code that checks it.
NEEDS = {1: "", 2: "1", 3: "1, 2", 4: "1, 2, 3", 5: "1, 2", 6: "1, 2, 3, 4, 5", 7: "1, 2, 3, 4", 8: "1, 2, 3, 4, 7",
         10: "1, 2, 3, 4, 5, 7"}


@pytest.fixture
def aside(kernel):
    """The same kernel, emptied; afterwards it has everything again."""
    kernel.line("import builtins; builtins.kept_aside = dict(globals())")
    kernel.line("get_ipython().run_line_magic('reset', '-f')")
    yield kernel
    kernel.line("globals().update(__import__('builtins').kept_aside)")


def test_each_section_run_alone_says_in_one_sentence_what_to_run(aside):
    """In an empty kernel, and after section 0 alone; section 9 then works, from the records on disk."""
    for section in range(1, 11):
        assert aside.refusal(section) == f"RuntimeError: Section {section} needs the tools and the settings: run section 0 first."
    aside.run(0)
    for section, missing in NEEDS.items():
        told = aside.refusal(section) if section > 1 else ""
        assert told == (f"RuntimeError: Section {section} needs what is made before: run section{'s' * (', ' in missing)} {missing} first."
                        if section > 1 else "")
    assert aside.refusal(9) == ""
    assert "reference" in aside.line("print(tabulate_runs(list_runs(output_dir / 'runs')).to_string())")


def try_all(kernel, sections):
    """Run these sections as far as they come, each with the kernel's state kept; return {section: what refused it, or ""}."""
    told = {}
    for section in sections:
        kernel.line("import copy; builtins_done = copy.deepcopy(tour.done)")
        told[section] = kernel.refusal(section)
        kernel.line("tour.done = builtins_done")
    return told


def again(earlier, section):
    return f"RuntimeError: Section {earlier} has been run since section {section}, with another result: run section {section} again."


@pytest.mark.long
def test_a_section_run_again_never_mixes_its_result_with_older_ones(kernel, phantoms):
    """Every pair (rerun, later section): it works on what fits together, or one sentence says which section to run."""
    everything = range(1, 11)
    kernel.line("set_before = {name: globals()[name] for name in ('DATA_DIR', 'IMAGE_SIZE', 'SPLIT_SEED', 'RUN_NAME', 'OUTPUT_DIR')}")

    def restore(*sections):
        kernel.line("globals().update(set_before)")
        kernel.run(*sections)

    # the same result again: all that follows still fits
    for section in (1, 2, 3, 4, 5):
        kernel.run(section)
    assert set(try_all(kernel, (6, 7, 8, 9, 10)).values()) == {""}
    kernel.run(7)

    # a setting changed, and the section that it decides not run again
    for name, value, decides in (("OUTPUT_DIR", "'elsewhere'", 0), ("DATA_DIR", "DATA_DIR + '/.'", 1), ("IMAGE_SIZE", "40", 2),
                                 ("GEOMETRY", "'crop'", 2),
                                 ("SPLIT_SEED", "1", 4), ("RUN_NAME", "'another'", 7)):
        kernel.line(f"old = {name}; {name} = {value}")
        for section in everything:
            if decides and section == decides:
                continue
            kernel.line("tour_copy = copy.deepcopy(tour.done)")
            told, needs = kernel.refusal(section, kernel.run if section == 7 else kernel.begin), NEEDS.get(section, "").split(", ")
            kernel.line("tour.done = tour_copy")
            if decides == 0 or str(decides) in needs:
                assert told.startswith(f"RuntimeError: {name} was ") and f"run section {decides} again, or set it back." in told, told
            elif section == 7 and name == "RUN_NAME":
                assert "There is no finished run" in told
            else:
                assert told == "", (name, section, told)
        kernel.line(f"{name} = old")

    # section 6 trained again: the network in memory is the old one
    kernel.run(6)
    assert try_all(kernel, (8, 10)) == {8: again(6, 7), 10: again(6, 7)}
    assert "There is no evaluated run in" in kernel.refusal(9)
    kernel.run(7)
    assert kernel.refusal(9) == ""

    # another split
    kernel.line("SPLIT_SEED = 1")
    kernel.run(4)
    assert try_all(kernel, (5, 8, 9, 10)) == {5: "", 8: again(4, 7), 9: "", 10: again(4, 7)}
    restore(4)
    assert kernel.refusal(8) == ""  # the split is the old one again, though section 4's cells have defined their classes anew
    kernel.line("SPLIT_SEED = 1")
    kernel.run(4)
    assert "held out other images" in kernel.refusal(7)
    restore(4)
    assert kernel.refusal(8) == "RuntimeError: Section 8 needs what is made before: run section 7 first."
    kernel.run(7)

    # other images
    kernel.line("IMAGE_SIZE = 40")
    kernel.run(2)
    told = try_all(kernel, (4, 6, 7, 8, 10))
    assert told == {section: again(2, 3) for section in (4, 6, 7, 8, 10)}
    assert try_all(kernel, (3, 5, 9)) == {3: "", 5: "", 9: ""}
    kernel.run(3)
    kernel.run(4)
    assert try_all(kernel, (6, 8)) == {6: again(2, 5), 8: again(2, 7)}
    restore(2, 3, 4, 5)
    assert kernel.refusal(8) == ""

    # another folder
    (kernel.out.parent / "other").symlink_to(phantoms / "chest_xray")
    kernel.line(f"DATA_DIR = {str(kernel.out.parent / 'other')!r}")
    kernel.run(1)
    told = try_all(kernel, (3, 4, 5, 6, 7, 8, 10))
    assert told == {section: again(1, 2) for section in (3, 4, 5, 6, 7, 8, 10)}
    restore(1)
    assert kernel.refusal(8) == ""


@pytest.mark.long
def test_sections_run_again_in_the_same_kernel_give_the_same(kernel):
    kernel.run(2, 5, 6, 7)
    again = json.loads((kernel.out / "metrics.json").read_text())
    for part in ("threshold", "validation", "test", "counts", "settings"):
        assert again[part] == kernel.first[part]


@pytest.mark.long
def test_a_changed_setting_makes_a_second_run_beside_the_first(kernel):
    kernel.line('RUN_NAME, LEARNING_RATE, EPOCHS, BASELINE_EPOCHS = "slower", 0.0001, 1, 0')
    kernel.run(6, 7, 9)
    table = kernel.line("print(tabulate_runs(list_runs(output_dir / 'runs')).to_string())")
    assert "reference" in table and "slower" in table and "LEARNING_RATE" in table and "baseline" in table
    assert json.loads((kernel.out / "metrics.json").read_text())["run"] == "slower"
    kernel.line("IMAGE_SIZE = 48")
    assert "run section 2 again" in kernel.refusal(6)
    kernel.run(2, 3, 4, 5, 6, 7)
    assert json.loads((kernel.out / "metrics.json").read_text())["settings"]["IMAGE_SIZE"] == 48


def test_a_run_is_not_validated_on_images_that_it_may_have_learnt_from(kernel):
    kernel.line("SPLIT_SEED = 1")
    kernel.run(4)
    assert "held out other images" in kernel.refusal(7)


def test_the_first_cell_installs_all_that_the_notebook_imports():
    """Standard library aside, each import of any cell is in the list of the first code cell, or optional within a function."""
    import ast
    book = nbformat.read(NOTEBOOK, 4)
    codes = [cell.source for cell in book.cells if cell.cell_type == "code"]
    listed = ast.literal_eval(re.search(r"packages = (\{.*?\})\n", codes[0], re.DOTALL)[1])
    optional = {"jax", "google", "pydicom", "IPython"}  # another backend, Colab, asked for by its sentence, always there
    imported = {name.split(".")[0] for code in codes for node in ast.walk(ast.parse(code))
                for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                             else [node.module] if isinstance(node, ast.ImportFrom) else [])}
    assert imported - set(sys.stdlib_module_names) - set(listed) - optional == set()
    assert {"jinja2", "pydantic", "sklearn", "kaggle", "tensorflow"} <= set(listed)


def test_the_lone_notebook_runs_in_an_empty_folder_with_every_setting_of_the_contract(tmp_path):
    """No project around it, no network, settings through papermill; half precision, which newer GPUs use, to the last section."""
    shutil.copy(NOTEBOOK, tmp_path)
    chosen = SMALLEST | {"EPOCHS": 1, "BASELINE_EPOCHS": 0, "OUTPUT_DIR": "results", "LEARNING_RATE": 0.002, "SEED": 5, "RUN_NAME": "lone",
                         "PRESET": "full", "MIXED_PRECISION": "on"}
    command = [sys.executable, "-m", "papermill", NOTEBOOK.name, "out.ipynb", "--no-progress-bar"]
    for name, value in chosen.items():
        command += ["-p", name, str(value)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "results/metrics.json").read_text())
    assert {name: report["settings"][name] for name in chosen} == chosen
    assert report["data"] == "phantom" and (tmp_path / "results/best.keras").exists()


@pytest.mark.parametrize(("parameters", "message"), [
    ({"DATA_DIR": "/nowhere/at/all"}, "does not exist"),
    ({"OUTPUT_DIR": "/dev/null/outputs"}, "cannot be written"),
])
def test_bad_input_stops_the_notebook_with_one_clear_sentence(tmp_path, parameters, message):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(NOTEBOOK, tmp_path / "out.ipynb", parameters, cwd=str(tmp_path), kernel_name="python3",
                                   progress_bar=False)


def test_the_notebook_is_committed_without_outputs_and_with_what_colab_needs():
    book = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(book)
    assert all(not cell.outputs and cell.execution_count is None for cell in book.cells if cell.cell_type == "code")
    assert book.metadata.accelerator == "GPU" and book.metadata.colab.toc_visible and book.metadata.kernelspec.name == "python3"
    assert [number for number in sections(book) if number is not None] == list(range(11))


def test_the_text_restates_the_rules_of_the_code_as_they_are():
    """A sentence with a rule in it, and where the rule stands: who changes one is reminded of the other."""
    import inspect

    import keras

    from cxr.measure import choose_threshold
    from cxr.network import build_baseline
    from cxr.release import ChestXray
    from cxr.rivals import find_conflicting
    book = nbformat.read(NOTEBOOK, 4)
    text = " ".join(" ".join(cell.source.split()) for cell in book.cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    kinds = [type(layer) for layer in build_baseline(32).layers]
    rules = {
        "ours makes *twice* the sensitivity plus the specificity": inspect.signature(choose_threshold).parameters["miss"].default == 2,
        "The quarter of the healthy held-out films": inspect.signature(find_conflicting).parameters["share"].default == 0.25,
        "A hundred children, drawn as dots": "groups = [(hits, " in code,
        "5,856 chest X-rays": sum(ChestXray.counts.values()) == 5856,
        "folder has 16 images": ChestXray.counts["val/NORMAL"] + ChestXray.counts["val/PNEUMONIA"] == 16,
        "four times, then two dense layers": (kinds.count(keras.layers.Conv2D), kinds.count(keras.layers.Dense)) == (4, 2),
        "thumbnails of 24 × 24 pixels": "make_thumbnails(itertools.chain(x_train, x_val), 24)" in code,
        "what accuracies might 16 images show": "plot_small_samples((16, " in code,
        "Usual blocks are 2 × 2; here 4 × 4": "layers.MaxPooling2D(4)(rectified)" in code and "layers.MaxPooling2D(2, name" in code,
        "This kernel, written by hand, answers where it gets brighter from top to bottom": "[[-1, -2, -1], [0, 0, 0], [1, 2, 1]]" in code,
        "if one child in twenty has pneumonia": "prevalences=(0.05, " in code,
        "(it reduces a film `by` 2, 4 or 8)": "for by in (8, 4, 2, 1):" in code,
        "`auto` is `full` on a GPU and `quick` on a CPU": '{"auto": "quick" if device == "CPU" else "full"}' in code}
    assert [sentence for sentence, holds in rules.items() if sentence not in text or not holds] == []
