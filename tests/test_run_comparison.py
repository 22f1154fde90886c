"""Section 9: what the table of runs shows, and which differences are significant."""

import html
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from cxr.evaluation import metrics_with_ci
from cxr.plots import plot_runs
from cxr.run_comparison import (
    describe_differences,
    describe_runs,
    is_significant,
    paired_differences,
    reference_run,
    show_runs,
    tabulate_runs,
)
from cxr.runs import list_runs, save_predictions
from cxr.storage import short_hash, to_json

PATIENTS = 200
SETTINGS = {
    "RUN_NAME": "",
    "EPOCHS": 3,
    "BASELINE_EPOCHS": 1,
    "LEARNING_RATE": 0.001,
    "AUGMENT": True,
    "AUG_AFFINE": 1.0,
    "SEED": 0,
    "BOOTSTRAP_SAMPLES": 100,
}
LABELS = np.arange(PATIENTS) % 2


def predict_with(strength, seed):
    """Return probabilities for LABELS: the signal is `strength` times the noise."""
    noise = np.random.default_rng(seed).normal(size=PATIENTS)
    return 1 / (1 + np.exp(-(strength * (LABELS - 0.5) + noise)))


@pytest.fixture
def add(tmp_path):
    """Return a function that writes a run to tmp_path/runs as sections 6 and 7 do."""

    def add(
        name,
        probabilities,
        threshold=0.5,
        predictions=True,
        first_image=0,
        patients=None,
        trained="2026-01-02",
        validated=None,
        epochs=3,
        data="phantom",
        validation_set="aaaa1111",
        more=None,
        **settings,
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        if patients is None:
            patients = np.array([f"person{number}" for number in range(PATIENTS)])
        numbers = range(first_image, first_image + PATIENTS)
        files = pd.DataFrame(
            {
                "path": [f"train/{number:04}.jpeg" for number in numbers],
                "label": LABELS,
                "patient": patients,
                "width": 60,
                "height": 50,
            }
        )
        history = pd.DataFrame({"epoch": range(1, epochs + 1), "val_auc": 0.9})
        history["val_loss"] = 1 / history.epoch
        history.to_csv(folder / "history.csv", index=False)
        metrics = metrics_with_ci(LABELS, probabilities, patients, threshold, 10, 0)
        record = {
            "schema": 1,
            "name": name,
            "trained": trained,
            "data": data,
            "validation_set": validation_set,
            "settings": SETTINGS | {"RUN_NAME": name} | settings,
            "epochs": epochs,
            "seconds": 90,
            "best_epoch": epochs,
            "threshold": threshold,
            "validation": metrics,
            "files": {"history.csv": short_hash((folder / "history.csv").read_bytes())},
        } | (more or {})
        if predictions:
            record = save_predictions(folder, record, files, probabilities)
        if validated:
            record["validated"] = validated
        (folder / "run.json").write_text(to_json(record))

    return add


@pytest.fixture
def shown(monkeypatch):
    """Return the list to which show_runs adds the HTML that it displays."""
    shown = []
    monkeypatch.setattr(
        "cxr.run_comparison.display", lambda style: shown.append(style.to_html())
    )
    return shown


def describe_all(folder, bootstrap_samples=400):
    """Return what section 9 prints about the runs in folder/runs."""
    runs = list_runs(folder / "runs")
    return describe_differences(runs, paired_differences(runs, bootstrap_samples, 0))


def find_sentence(text, name):
    """Return what the text says about the run of this name."""
    lines = text.replace("\n    ", " ").splitlines()
    return next(line for line in lines if line.startswith(f"{name} ("))


def find_styled(page, style):
    """Return {(row, column): text} of the cells that are shown in this style."""
    css = page.split("</style>")[0]
    cells = {}
    for rule in re.findall(rf"([^{{}}]*)\{{[^}}]*{style}", css):
        for row, column in re.findall(r"#T_[0-9a-f]+_row(\d+)_col(\d+)", rule):
            cell = rf'id="T_\w+_row{row}_col{column}"[^>]*>([^<]*)<'
            cells[int(row), int(column)] = re.search(cell, page)[1]
    return cells


def test_the_table_is_sorted_and_bold_where_a_run_differs_from_the_reference(
    add, shown, tmp_path
):
    add("reference", predict_with(1.5, 0))
    add("better", predict_with(4, 1), LEARNING_RATE=0.01)
    add(
        "plainer",
        predict_with(0.5, 2),
        AUGMENT=False,
        AUG_AFFINE=0.5,
        BOOTSTRAP_SAMPLES=99,
    )
    runs = list_runs(tmp_path / "runs")
    table = tabulate_runs(runs)
    assert table.index.tolist() == ["better", "reference", "plainer"]
    assert table.compared.tolist() == ["yes", "reference", "yes"]
    settings = [column for column in table if column.isupper() and column != "AUC"]
    assert settings == ["LEARNING_RATE", "AUGMENT"]  # AUG_AFFINE had no effect
    assert table.AUGMENT.tolist() == ["True", "True", "False"]
    assert set(table.minutes) == {"1.5"}
    assert set(table["best epoch"]) == {"3 of 3"}
    auc = sk.roc_auc_score(LABELS, predict_with(4, 1))
    assert table.AUC["better"].startswith(f"{auc:.3f} [")
    show_runs(runs)
    bold = find_styled(shown[0], "font-weight: bold")
    assert sorted(bold.values()) == ["0.01", "False"]
    assert shown[0].count("<td") == 3 * len(table.columns) == 3 * 9
    assert "#888888" not in shown[0]
    caption = describe_runs(runs)
    assert html.escape(caption, quote=False) in shown[0]
    assert "200 validation images (phantom radiographs, validation set aaaa1111)" in (
        caption
    )
    assert "differs from the reference, 'reference'" in caption


def test_the_baseline_differs_by_its_network_and_not_by_settings_without_effect(
    add, shown, tmp_path
):
    network = {"network": "residual", "parameters": 1_900_000}
    add("reference", predict_with(1.5, 0), more=network)
    add("wider", predict_with(2, 0), more=network | {"parameters": 3_000_000})
    add(
        "baseline",
        predict_with(0.5, 1),
        more={"network": "baseline", "parameters": 1000},
        EPOCHS=7,
        LEARNING_RATE=0.01,
    )
    text = describe_all(tmp_path)
    changes = "(network baseline instead of residual, LEARNING_RATE 0.01 instead of"
    assert changes in find_sentence(text, "baseline")
    changes = "(parameters 3000000 instead of 1900000)"
    assert changes in find_sentence(text, "wider")
    assert tabulate_runs(list_runs(tmp_path / "runs")).parameters["baseline"] == "–"


def test_names_are_not_interpreted_as_html(add, shown, tmp_path):
    add("a & b", predict_with(1.5, 0), LEARNING_RATE="<b>")
    add("reference", predict_with(1.5, 0))
    show_runs(list_runs(tmp_path / "runs"))
    assert "a &amp; b" in shown[0]
    assert "&lt;b&gt;" in shown[0]
    assert "<b>" not in shown[0]


def test_runs_that_cannot_be_compared_are_gray_and_named(add, shown, tmp_path):
    add("reference", predict_with(1, 0))
    add("second", predict_with(1.2, 1))
    other_split = {"validation_set": "bbbb2222", "first_image": 500}
    add("other split", predict_with(6, 2), validated="2020", **other_split)
    add("real", predict_with(5, 3), data="chest-xray-pneumonia", validated="2020")
    # The same validation set by name, but not by content.
    add("namesake", predict_with(5, 3), first_image=7, validated="2020")
    runs = list_runs(tmp_path / "runs")
    reasons = {record["name"]: record["exclusion_reason"] for record in runs}
    assert reasons == {
        "second": "",
        "reference": "",
        "namesake": "other images under the same file names",
        "other split": "other validation images",
        "real": "other data",
    }
    assert list(reasons)[2:] == ["namesake", "other split", "real"]
    assert list(paired_differences(runs, 20, 0)) == ["second"]
    show_runs(runs)
    table = tabulate_runs(runs)
    gray = find_styled(shown[0], "color: #888888")
    assert {row for row, _ in gray} == {2, 3, 4}
    assert len(gray) == 3 * len(table.columns)
    text = describe_all(tmp_path)
    for name, reason in list(reasons.items())[2:]:
        assert f"{name} is not compared: {reason}." in text
        assert table.compared[name] == f"no: {reason}"


def test_the_oldest_run_is_the_reference_where_none_has_that_name(add, tmp_path):
    add("baseline", predict_with(1, 1), trained="2021")
    add("second", predict_with(1, 2), trained="2022")
    runs = list_runs(tmp_path / "runs")
    assert reference_run(runs)["name"] == "second"
    assert "'second' (the oldest run" in describe_runs(runs)


def test_a_paired_interval_of_accuracy_is_that_of_the_binomial(add, tmp_path):
    """Right for 30 more of 200 patients: in a sample their number is binomial."""
    right = np.where(LABELS == 1, 0.9, 0.1)
    wrong = right.copy()
    wrong[:30] = 1 - wrong[:30]
    add("reference", wrong)
    add("right", right)
    differences = paired_differences(list_runs(tmp_path / "runs"), 2000, 0)
    found = differences["right"]["accuracy"]
    assert found["value"] == pytest.approx(0.15)
    expected = stats.binom.ppf([0.025, 0.975], PATIENTS, 0.15) / PATIENTS
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.0051)


def test_a_paired_interval_of_auc_samples_whole_patients_and_the_same_for_both(
    add, tmp_path
):
    # Five images of each patient.
    numbers = np.arange(PATIENTS)
    patients = np.char.add("person", (numbers // 10 * 2 + numbers % 2).astype(str))
    probabilities = predict_with(1.5, 0)
    others = probabilities + 0.1 * predict_with(1, 1)
    add("reference", probabilities, patients=patients)
    add("other", others, patients=patients)
    found = paired_differences(list_runs(tmp_path / "runs"), 1000, 0)["other"]["auc"]
    members = [np.flatnonzero(patients == name) for name in sorted(set(patients))]
    generator = np.random.default_rng(9)
    differences = []
    for _ in range(600):
        sample = generator.integers(len(members), size=len(members))
        rows = np.concatenate([members[number] for number in sample])
        positive = rows[LABELS[rows] == 1]
        negative = rows[LABELS[rows] == 0]
        # AUC: the fraction of pairs in the right order.
        auc = np.mean(probabilities[positive][:, None] > probabilities[negative])
        other_auc = np.mean(others[positive][:, None] > others[negative])
        differences.append(other_auc - auc)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx(
        [low, high], abs=0.15 * (high - low)
    )


def test_a_better_run_is_called_better_and_an_equal_one_is_not(add, tmp_path):
    add("reference", predict_with(1.5, 0))
    add("truly better", predict_with(4, 0), EPOCHS=9)
    add("worse", predict_with(0.2, 0), EPOCHS=1)
    add("the same again", predict_with(1.5, 0))
    # As good, for other patients.
    order = np.random.default_rng(1).permutation(PATIENTS // 2)
    exchanged = predict_with(1.5, 0).reshape(-1, 2)[order].ravel()
    add("as good", exchanged, EPOCHS=4)
    text = describe_all(tmp_path)
    better = find_sentence(text, "truly better")
    assert "EPOCHS 9 instead of 3" in better
    assert "significantly better" in better
    worse = find_sentence(text, "worse")
    assert "significantly worse" in worse
    assert "noise" not in worse
    same = find_sentence(text, "the same again")
    identical = "is equal [+0.0000 to +0.0000]: identical in every bootstrap sample"
    assert same.count(identical) == 2
    assert "(the same settings)" in same
    as_good = find_sentence(text, "as good")
    assert "its AUC is equal [-0." in as_good
    assert "better" not in as_good
    assert "not distinguishable from noise" in as_good
    assert "8 intervals, two for each run" in text
    assert "34%" in text  # 1 − .95⁸
    assert "no two of these runs differ only in SEED" in text


def test_a_difference_smaller_than_that_between_seeds_may_be_noise(add, tmp_path):
    add("reference", predict_with(1.5, 0))
    add("seed 1", predict_with(4, 0), SEED=1)
    add("slightly", predict_with(2.5, 0), EPOCHS=9)
    auc, other_auc = (
        sk.roc_auc_score(LABELS, predict_with(strength, 0)) for strength in (1.5, 4)
    )
    spread = f"{other_auc - auc:.4f}"
    text = describe_all(tmp_path)
    slightly = find_sentence(text, "slightly")
    assert f"smaller than that between seeds ({spread})" in slightly
    assert "no setting but SEED differs" in find_sentence(text, "seed 1")
    assert f"seed 1, reference differ only in SEED, by up to {spread} in AUC" in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.2, True), (-0.2, -0.01, True), (-0.1, 0.1, False), (0, 0.1, False)],
)
def test_a_difference_is_significant_where_its_interval_excludes_0(low, high, expected):
    difference = {"value": (low + high) / 2, "low": low, "high": high}
    assert is_significant(difference) is expected


def test_a_run_without_predictions_is_shown_but_not_compared(add, tmp_path):
    add("old", predict_with(2, 1), predictions=False)
    runs = list_runs(tmp_path / "runs")
    assert paired_differences(runs, 20, 0) == {}
    assert "No run can be compared" in describe_runs(runs)
    sentence = "old is not compared: predictions missing (run section 7)"
    assert sentence in describe_differences(runs, {})
    add("reference", predict_with(1, 0))
    assert "nothing to compare yet" in describe_all(tmp_path)
    add("second", predict_with(1, 2))
    table = tabulate_runs(list_runs(tmp_path / "runs"))
    assert table.index[-1] == "old"
    assert table.compared["old"] == "no: predictions missing (run section 7)"
    assert sentence in describe_all(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run.json", "{", "is missing or damaged"),
        ("run.json", "{}", "was written by an earlier version"),
        ("run.json", "[]", "is missing or damaged"),
        ("history.csv", "", "is missing or damaged"),
    ],
)
def test_a_damaged_run_does_not_affect_what_is_said_of_others(
    add, shown, tmp_path, name, content, reason
):
    add("reference", predict_with(1, 0))
    add("second", predict_with(3, 2), EPOCHS=2)
    before = list_runs(tmp_path / "runs")
    add("broken", predict_with(2, 3))
    (tmp_path / "runs/broken" / name).write_text(content)
    runs = list_runs(tmp_path / "runs")
    differences = paired_differences(runs, 50, 0)
    assert differences == paired_differences(before, 50, 0)
    table = tabulate_runs(runs)
    assert table.iloc[:-1].equals(tabulate_runs(before))
    assert table.index[-1] == "broken"
    excluded, *others = table.loc["broken"]
    assert excluded == f"no: {runs[-1]['exclusion_reason']}"
    assert set(others) == {"–"}
    text = describe_differences(runs, differences)
    text_before = describe_differences(before, differences)
    assert text.startswith(text_before)
    [line] = text.removeprefix(text_before).strip().splitlines()
    assert line.startswith("broken is not compared: ")
    assert f"broken/{name} {reason}" in line
    show_runs(runs)
    assert {row for row, _ in find_styled(shown[0], "color: #888888")} == {2}


def test_a_run_that_is_not_evaluated_is_named_in_the_table(add, tmp_path):
    add("reference", predict_with(1, 0))
    more = {"validation": {}}
    add("waiting", predict_with(1, 0), predictions=False, more=more)
    runs = list_runs(tmp_path / "runs")
    reason = "not evaluated yet (run section 7)"
    assert tabulate_runs(runs).compared["waiting"] == f"no: {reason}"
    assert paired_differences(runs, 20, 0) == {}
    assert f"waiting is not compared: {reason}" in describe_all(tmp_path)


def test_the_figure_shows_the_auc_of_all_runs_and_the_curves_of_the_best(add, tmp_path):
    add("reference", predict_with(1, 0))
    for number in range(8):
        name = f"run {number}" + "x" * 30 * (number == 7)
        probabilities = predict_with(1 + number / 2, number)
        add(name, probabilities, EPOCHS=number, epochs=2 + number)
    runs = list_runs(tmp_path / "runs")
    differences = paired_differences(runs, 50, 0)
    figure = plot_runs(runs, differences, most=3)
    left, right, loss, auc = figure.axes
    assert len(left.lines) == 9
    assert len(right.lines) == 9  # no difference of the reference, but the zero
    labels = [label.get_text() for label in left.get_yticklabels()]
    starts = [label[:5] for label in reversed(labels)]
    assert starts == [record["name"][:5] for record in runs]
    assert all(len(label) < 28 for label in labels)
    for place, record in enumerate(reversed(runs)):
        estimate = record["validation"]["auc"]
        line = left.lines[place]
        expected = [estimate["low"], estimate["value"], estimate["high"]]
        assert line.get_xdata() == pytest.approx(expected)
        assert line.get_markevery() == [1]
        assert set(line.get_ydata()) == {place}
    others = [record for record in runs if record["name"] != "reference"]
    drawn = [reference_run(runs), *others[:3]]
    for axis, name in ((loss, "val_loss"), (auc, "val_auc")):
        curves = [line.get_ydata().tolist() for line in axis.lines]
        assert curves == [record["history"][name].tolist() for record in drawn]
        colors = [line.get_color() for line in axis.lines]
        assert colors[0] == "black"
        assert len(set(colors)) == 4
        assert axis.lines[0].get_linewidth() > axis.lines[1].get_linewidth()
        [marks] = axis.collections
        assert sorted(map(tuple, marks.get_offsets().tolist())) == sorted(
            (record["best_epoch"], record["history"][name].iloc[-1]) for record in drawn
        )
    low, high = loss.get_ylim()
    assert low == 0
    assert high <= 1.1
    plt.close(figure)


@pytest.mark.parametrize("broken", [False, True])
def test_a_single_run_has_a_figure_too(add, tmp_path, broken):
    add("reference", predict_with(1, 0))
    if broken:
        add("broken", predict_with(2, 3))
        (tmp_path / "runs/broken/run.json").write_text("{")
    runs = list_runs(tmp_path / "runs")
    figure = plot_runs(runs, paired_differences(runs, 20, 0))
    assert len(figure.axes[0].lines) == 1
    assert len(figure.axes[1].lines) == 1
    assert len(figure.axes[2].lines) == 1
    plt.close(figure)
