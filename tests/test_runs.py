"""Section 9: which runs are compared, what the table shows, and whether a difference is called one, from files on disk alone."""

import ast
import json
import re
from types import SimpleNamespace

import functions
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

PATIENTS = 200
SETTINGS = {"RUN_NAME": "", "EPOCHS": 3, "BASELINE_EPOCHS": 1, "LEARNING_RATE": 0.001, "AUGMENT": True, "POSE": 1.0, "SEED": 0,
            "RESAMPLES": 100}
LABELS = np.arange(PATIENTS) % 2


def answer(strength, seed):
    """Made-up probabilities for LABELS: the signal is `strength` times the noise."""
    return 1 / (1 + np.exp(-(strength * (LABELS - 0.5) + np.random.default_rng(seed).normal(size=PATIENTS))))


@pytest.fixture
def add(notebook, tmp_path):
    """A function that puts a run into tmp_path/runs, as sections 6 and 7 leave it."""
    def add(name, probabilities, threshold=0.5, answers=True, first_image=0, patients=None, trained="2026-01-02", validated=None,
            epochs=3, data="phantom", holdout="aaaa1111", **settings):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        patients = np.array([f"person{number}" for number in range(PATIENTS)]) if patients is None else patients
        files = pd.DataFrame({"path": [f"train/{first_image + number:04}.jpeg" for number in range(PATIENTS)], "label": LABELS,
                              "patient": patients, "width": 60, "height": 50})
        rows = [{"epoch": epoch, "val_loss": 1 / epoch, "val_auc": 0.9, "loss": 1} for epoch in range(1, epochs + 1)]
        pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
        record = {"name": name, "trained": trained, "data": data, "holdout": holdout, "settings": SETTINGS | {"RUN_NAME": name} | settings,
                  "epochs": epochs, "seconds": 90, "best_epoch": epochs, "threshold": threshold,
                  "validation": notebook.score(LABELS, probabilities, patients, threshold, 10, 0)}
        if answers:
            notebook.keep_answers(folder, record, files, probabilities)
            if validated:
                record["validated"] = validated
        (folder / "run.json").write_text(notebook.as_json(record))
    return add


def tell(notebook, folder, resamples=400):
    """What section 9 prints about the runs in folder/runs."""
    runs = notebook.list_runs(folder / "runs")
    return notebook.describe_differences(runs, notebook.compare_runs(runs, resamples, 0))


def sentence(text, name):
    return next(line for line in text.replace("\n    ", " ").splitlines() if line.startswith(f"{name} ("))


def test_the_table_is_sorted_and_bold_where_a_run_differs_from_the_reference(notebook, add, tmp_path):
    add("reference", answer(1.5, 0))
    add("better", answer(4, 1), LEARNING_RATE=0.01)
    add("plainer", answer(0.5, 2), AUGMENT=False, POSE=0.5, RESAMPLES=99)
    runs = notebook.list_runs(tmp_path / "runs")
    table = notebook.tabulate_runs(runs)
    assert table.index.tolist() == ["better", "reference", "plainer"]
    assert [column for column in table if column.isupper() and column != "AUC"] == ["LEARNING_RATE", "AUGMENT"]  # POSE had no effect
    assert table.AUC["better"].startswith(f"{sk.roc_auc_score(LABELS, answer(4, 1)):.3f} [")
    html = notebook.style_runs(runs).to_html()
    bold = [re.search(rf'id="T_\w+_{cell}"[^>]*>([^<]*)<', html)[1]
            for rule in re.findall(r"([^{}]*)\{[^}]*font-weight: bold", html.split("</style>")[0])
            for cell in re.findall(r"#T_[0-9a-f]+_(row\d+_col\d+)", rule)]
    assert sorted(bold) == ["0.01", "False"]
    heading = notebook.describe_runs(runs)
    assert "200 phantom radiographs (held-out set aaaa1111)" in heading and "Bold: not as in 'reference'." in heading
    assert "#888888" not in html


def test_where_html_cannot_be_shown_the_text_says_the_same(notebook, add, tmp_path, monkeypatch):
    add("reference", answer(1.5, 0))
    add("faster", answer(4, 1), LEARNING_RATE=0.01)
    shown = []
    monkeypatch.setitem(notebook.show_runs.__globals__, "display", lambda content, raw: shown.append(content))
    notebook.show_runs(notebook.list_runs(tmp_path / "runs"))
    assert set(shown[0]) == {"text/html", "text/plain"} and shown[0]["text/html"].count("<td") == 2 * 8
    text = shown[0]["text/plain"]
    assert "*0.01*" in text and "0.001" in text and "*0.001*" not in text
    assert text.startswith("Validated on the same 200 phantom radiographs")


def test_runs_that_answered_for_other_images_are_kept_apart(notebook, add, tmp_path):
    add("reference", answer(1, 0))
    add("second", answer(1.2, 1))
    add("other split", answer(6, 2), holdout="bbbb2222", first_image=500, validated="2020")
    add("real", answer(5, 3), data="chest-xray-pneumonia", validated="2020")
    add("namesake", answer(5, 3), first_image=7, validated="2020")  # the same hold-out by name, but not in content
    runs = notebook.list_runs(tmp_path / "runs")
    assert [one["name"] for one in runs] == ["second", "reference", "namesake", "other split", "real"]
    assert [bool(one["apart"]) for one in runs] == [False, False, True, True, True]
    assert list(notebook.compare_runs(runs, 20, 0)) == ["second"]
    html = notebook.style_runs(runs).to_html()
    grey = re.findall(r"_row(\d)_col0\b", re.search(r"([^{}]*)\{\s*color: #888888", html)[1])
    assert grey == ["2", "3", "4"] and "Grey: cannot be compared" in notebook.describe_runs(runs)
    told = tell(notebook, tmp_path)
    assert "Not compared, as they answered for other images" in told and "namesake, other split, real" in told


def test_the_reference_is_the_run_of_that_name_on_these_images_else_the_oldest(notebook, add, tmp_path):
    add("reference", answer(1, 0), holdout="bbbb2222", validated="2020", trained="2019")
    add("baseline", answer(1, 1), trained="2021")
    add("second", answer(1, 2), trained="2022")
    add("third", answer(1, 3), trained="2023")
    runs = notebook.list_runs(tmp_path / "runs")
    assert {one["reference"] for one in runs} == {"second"} and "not as in 'second', the oldest" in notebook.describe_runs(runs)
    add("reference", answer(1, 0), trained="2024")
    assert {one["reference"] for one in notebook.list_runs(tmp_path / "runs")} == {"reference"}


def test_a_paired_interval_of_accuracy_is_that_of_the_binomial(notebook, add, tmp_path):
    """Right for 30 more of 200 patients: in a draw of patients the number of those is binomial."""
    right = np.where(LABELS == 1, 0.9, 0.1)
    wrong = right.copy()
    wrong[:30] = 1 - wrong[:30]
    add("reference", wrong)
    add("right", right)
    found = notebook.compare_runs(notebook.list_runs(tmp_path / "runs"), 2000, 0)["right"]["accuracy"]
    assert found["value"] == pytest.approx(0.15)
    assert [found["low"], found["high"]] == pytest.approx(stats.binom.ppf([0.025, 0.975], PATIENTS, 0.15) / PATIENTS, abs=0.0051)


def test_the_scores_of_all_draws_at_once_are_those_that_measure_gives(notebook):
    generator = np.random.default_rng(3)
    probabilities = generator.integers(0, 9, PATIENTS) / 8  # many equal ones
    weights = generator.integers(0, 4, (5, PATIENTS)).astype(float)
    weights[4] *= LABELS  # a draw without healthy children has no AUC
    found = notebook.measure_draws(LABELS, probabilities, 0.375, weights)
    for row, one in zip(found.itertuples(), weights):
        expected = notebook.measure(LABELS, probabilities, 0.375, one)
        assert [row.auc, row.accuracy] == pytest.approx([expected["auc"], expected["accuracy"]], nan_ok=True)


def test_a_paired_interval_of_auc_draws_whole_patients_and_the_same_for_both(notebook, add, tmp_path):
    patients = np.array([f"person{number // 2 // 5 * 2 + number % 2}" for number in range(PATIENTS)])  # five images each
    one, other = answer(1.5, 0), answer(1.5, 0) + 0.1 * answer(1, 1)
    add("reference", one, patients=patients)
    add("other", other, patients=patients)
    found = notebook.compare_runs(notebook.list_runs(tmp_path / "runs"), 2000, 0)["other"]["auc"]
    members, generator, draws = [np.flatnonzero(patients == name) for name in set(patients)], np.random.default_rng(9), []
    for _ in range(600):
        rows = np.concatenate([members[number] for number in generator.integers(len(members), size=len(members))])
        draws.append(sk.roc_auc_score(LABELS[rows], other[rows]) - sk.roc_auc_score(LABELS[rows], one[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=0.15 * (high - low))


def test_a_better_run_is_called_better_and_an_equal_one_is_not(notebook, add, tmp_path):
    add("reference", answer(1.5, 0))
    add("truly better", answer(4, 0), EPOCHS=9)
    add("worse", answer(0.2, 0), EPOCHS=1)
    add("the same again", answer(1.5, 0))
    exchanged = answer(1.5, 0).reshape(-1, 2)[np.random.default_rng(1).permutation(PATIENTS // 2)].ravel()  # as good, for other patients
    add("as good", exchanged, EPOCHS=4)
    told = tell(notebook, tmp_path)
    assert "EPOCHS 9 instead of 3" in sentence(told, "truly better") and "better by more than" in sentence(told, "truly better")
    assert "worse by more than" in sentence(told, "worse") and "noise" not in sentence(told, "worse")
    assert sentence(told, "the same again").count("the same in every draw: no difference") == 2
    assert "its AUC is the same [-0." in sentence(told, "as good") and "better" not in sentence(told, "as good")
    assert "8 comparisons (4 runs, two scores)" in told and "34%" in told  # 1 − .95⁸
    assert "no two of these runs differ only in SEED" in told


def test_a_difference_smaller_than_that_between_seeds_is_not_believed(notebook, add, tmp_path):
    add("reference", answer(1.5, 0))
    add("seed 1", answer(4, 0), SEED=1)
    add("slightly", answer(2.5, 0), EPOCHS=9)
    spread = sk.roc_auc_score(LABELS, answer(4, 0)) - sk.roc_auc_score(LABELS, answer(1.5, 0))
    told = tell(notebook, tmp_path)
    assert f"by less than seeds differ ({spread:.4f})" in sentence(told, "slightly")
    assert "no setting but SEED differs" in sentence(told, "seed 1")
    assert f"Seeds differ too: seed 1, reference differ only in SEED, and yet by up to {spread:.4f} in AUC" in told


def test_a_change_repeated_with_other_seeds_is_judged_by_the_mean_of_the_pairs(notebook, add, tmp_path):
    for seed in (0, 1, 2):
        add(f"old {seed}" if seed else "reference", answer(1.5, seed), SEED=seed)
        if seed:
            add(f"new {seed}", answer(3, seed), SEED=seed, EPOCHS=9)
    gains = [sk.roc_auc_score(LABELS, answer(3, seed)) - sk.roc_auc_score(LABELS, answer(1.5, seed)) for seed in (1, 2)]
    told = tell(notebook, tmp_path)
    assert (f"Repeated with 2 seeds, EPOCHS 9 instead of 3 has the higher AUC with 2 of them. On average its AUC is {np.mean(gains):.4f} "
            "higher") in told
    assert "8 comparisons (4 runs, two scores)" in told  # not counting the mean


def test_a_record_of_an_earlier_version_is_shown_but_not_compared(notebook, add, tmp_path):
    add("old", answer(2, 1), answers=False)
    runs = notebook.list_runs(tmp_path / "runs")
    assert notebook.compare_runs(runs, 20, 0) == {} and "no run can be compared" in notebook.describe_runs(runs)
    assert "old. Set RUN_NAME to each of them and run section 7 again" in notebook.describe_differences(runs, {})
    add("reference", answer(1, 0))
    add("second", answer(1, 2))
    table = notebook.tabulate_runs(notebook.list_runs(tmp_path / "runs"))
    assert table.index[-1] == "old" and table.compared["old"] == "no: answers not kept"
    assert "old. Set RUN_NAME" in tell(notebook, tmp_path)


def test_answers_that_are_not_those_of_the_record_do_not_count(notebook, add, tmp_path):
    add("reference", answer(1, 0))
    add("second", answer(2, 0))
    kept = tmp_path / "runs/second/validation.csv"
    kept.write_text(kept.read_text()[:-40])
    assert [one["apart"] for one in notebook.list_runs(tmp_path / "runs")] == ["", "answers not kept"]
    add("second", answer(3, 0))  # run again under its name: its record is replaced
    assert [one["apart"] for one in notebook.list_runs(tmp_path / "runs")] == ["", ""]
    (tmp_path / "runs/second/run.json").write_text("{")
    with pytest.raises(ValueError, match=r"second/run.json is not the record of a run"):
        notebook.list_runs(tmp_path / "runs")


def test_after_a_restart_section_9_needs_section_0_and_the_disk_alone(add, tmp_path, capsys, notebook):
    add("reference", answer(1, 0))
    add("second", answer(3, 2), EPOCHS=2)
    cells = [source for _, source in functions.read_cells()]
    first = next(number for number, source in enumerate(cells) if 'timer.start("9 ' in source)
    section = cells[first:next(number for number, source in enumerate(cells) if source.startswith("# @title Solutions"))]
    start = next(number for number, source in enumerate(cells) if 'timer.start("1 ' in source)
    section_0 = [node for source in cells[:start] for node in ast.parse(source).body
                 if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))]
    figures, known = [], {"__name__": "restarted", "keras": notebook.keras}
    exec(compile(ast.Module(section_0, []), "section 0", "exec"), known)
    known |= functions.read_settings() | {"output_dir": tmp_path, "device_kind": "CPU", "RESAMPLES": 20,
                                                          "timer": SimpleNamespace(start=lambda name: None),
                                                          "finish_figure": lambda *arguments: figures.append(arguments)}
    assert sum(len(ast.parse(source).body) for source in section) < 15 and len(section) == 2
    for source in section:
        exec(source, known)
    assert "second (EPOCHS 2 instead of 3): its AUC is" in capsys.readouterr().out
    [(figure, name, _, kind)] = figures
    assert (name, kind) == ("runs", "phantom") and "phantom radiographs" in figure.get_suptitle()
    loss = figure.axes[2]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["reference", "second"]
    assert [line.get_ydata().tolist() for line in loss.lines if len(line.get_ydata()) > 1] == [[1, 1 / 2, 1 / 3]] * 2


def test_section_7_keeps_the_answers(notebook, tmp_path):
    folder, generator = tmp_path / "runs/baseline", np.random.default_rng(0)
    folder.mkdir(parents=True)
    model = notebook.build_baseline(32)
    model.save(folder / "training.keras")
    state = SimpleNamespace(folder=folder, rows=[{"epoch": 1, "val_loss": 0.7, "val_auc": 0.5, "seconds": 1}], ended="",
                            forget=lambda: None)
    files = pd.DataFrame({"path": list("dacb"), "label": [0, 1, 0, 1], "patient": list("wxyz"), "width": 9, "height": 8, "part": "holdout"})
    settings = SimpleNamespace(**SETTINGS)
    notebook.finish_run(state, settings, "phantom", notebook.identify_holdout(files))
    holdout = notebook.ImageBatches([generator.integers(0, 256, (4, 32, 32, 1), np.uint8)], np.arange(4), files.label.to_numpy(), 4)
    _, _, changed = notebook.validate_run(folder, holdout, files, settings)
    probabilities = changed["unchanged"]
    [run] = notebook.list_runs(tmp_path / "runs")
    assert run["answers"].path.tolist() == list("abcd") and run["answers"].patient.tolist() == list("xzyw")
    assert run["answers"].probability.tolist() == probabilities[[1, 3, 2, 0]].tolist()
    stored = json.loads((folder / "run.json").read_text())
    assert (stored["network"], stored["parameters"]) == ("baseline", model.count_params())
    sick, healthy = (np.concatenate([said[files.label == label] for said in changed.values()]) for label in (1, 0))
    assert len(sick) == len(healthy) == 2 * len(notebook.list_shifts(32)) > 20

    def worth(threshold):
        return 2 * (sick >= threshold).mean() + (healthy < threshold).mean()

    assert worth(stored["threshold"]) == pytest.approx(max(worth(step) for step in [*sick, *healthy]))
    assert not list(folder.glob("*unfinished*"))
