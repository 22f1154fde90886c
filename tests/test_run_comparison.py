"""Section 9: what the table of runs shows, and whether a difference is called one."""

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
from cxr.storage import to_json

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


def answer(strength, seed):
    """Made-up probabilities for LABELS: the signal is `strength` times the noise."""
    return 1 / (
        1
        + np.exp(
            -(
                strength * (LABELS - 0.5)
                + np.random.default_rng(seed).normal(size=PATIENTS)
            )
        )
    )


@pytest.fixture
def add(tmp_path):
    """A function that puts a run into tmp_path/runs, as sections 6 and 7 leave it."""

    def add(
        name,
        probabilities,
        threshold=0.5,
        answers=True,
        first_image=0,
        patients=None,
        trained="2026-01-02",
        validated=None,
        epochs=3,
        data="phantom",
        holdout="aaaa1111",
        more=None,
        **settings,
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        patients = (
            np.array([f"person{number}" for number in range(PATIENTS)])
            if patients is None
            else patients
        )
        files = pd.DataFrame(
            {
                "path": [
                    f"train/{first_image + number:04}.jpeg"
                    for number in range(PATIENTS)
                ],
                "label": LABELS,
                "patient": patients,
                "width": 60,
                "height": 50,
            }
        )
        rows = [
            {"epoch": epoch, "val_loss": 1 / epoch, "val_auc": 0.9, "loss": 1}
            for epoch in range(1, epochs + 1)
        ]
        pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
        record = {
            "name": name,
            "trained": trained,
            "data": data,
            "holdout": holdout,
            "settings": SETTINGS | {"RUN_NAME": name} | settings,
            "epochs": epochs,
            "seconds": 90,
            "best_epoch": epochs,
            "threshold": threshold,
            "validation": metrics_with_ci(
                LABELS, probabilities, patients, threshold, 10, 0
            ),
        } | (more or {})
        if answers:
            save_predictions(folder, record, files, probabilities)
            if validated:
                record["validated"] = validated
        (folder / "run.json").write_text(to_json(record))

    return add


@pytest.fixture
def shown(monkeypatch):
    """What show_runs displays: a list of HTML."""
    shown = []
    monkeypatch.setattr(
        "cxr.run_comparison.display", lambda style: shown.append(style.to_html())
    )
    return shown


def tell(folder, bootstrap_samples=400):
    """What section 9 prints about the runs in folder/runs."""
    runs = list_runs(folder / "runs")
    return describe_differences(runs, paired_differences(runs, bootstrap_samples, 0))


def sentence(text, name):
    return next(
        line
        for line in text.replace("\n    ", " ").splitlines()
        if line.startswith(f"{name} (")
    )


def find_styled(html, style):
    """Return {(row, column): text} of the cells that are shown in this style."""
    return {
        (int(row), int(column)): re.search(
            rf'id="T_\w+_row{row}_col{column}"[^>]*>([^<]*)<', html
        )[1]
        for rule in re.findall(
            rf"([^{{}}]*)\{{[^}}]*{style}", html.split("</style>")[0]
        )
        for row, column in re.findall(r"#T_[0-9a-f]+_row(\d+)_col(\d+)", rule)
    }


def test_the_table_is_sorted_and_bold_where_a_run_differs_from_the_reference(
    add, shown, tmp_path
):
    add("reference", answer(1.5, 0))
    add("better", answer(4, 1), LEARNING_RATE=0.01)
    add("plainer", answer(0.5, 2), AUGMENT=False, AUG_AFFINE=0.5, BOOTSTRAP_SAMPLES=99)
    runs = list_runs(tmp_path / "runs")
    table = tabulate_runs(runs)
    assert table.index.tolist() == [
        "better",
        "reference",
        "plainer",
    ] and table.compared.tolist() == ["yes", "the reference", "yes"]
    assert [column for column in table if column.isupper() and column != "AUC"] == [
        "LEARNING_RATE",
        "AUGMENT",
    ]  # AUG_AFFINE had no effect
    assert (
        table.AUGMENT.tolist() == ["True", "True", "False"]
        and set(table.minutes) == {"1.5"}
        and set(table["best epoch"]) == {"3 of 3"}
    )
    assert table.AUC["better"].startswith(
        f"{sk.roc_auc_score(LABELS, answer(4, 1)):.3f} ["
    )
    show_runs(runs)
    assert sorted(find_styled(shown[0], "font-weight: bold").values()) == [
        "0.01",
        "False",
    ]
    assert (
        shown[0].count("<td") == 3 * 9
        and "#888888" not in shown[0]
        and describe_runs(runs) in shown[0]
    )
    heading = describe_runs(runs)
    assert (
        "200 phantom radiographs (held-out set aaaa1111)" in heading
        and "Bold: not as in 'reference'." in heading
    )


def test_the_baseline_differs_by_its_network_and_not_by_settings_that_it_does_not_use(
    add, shown, tmp_path
):
    network = {"network": "residual", "parameters": 1_900_000}
    add("reference", answer(1.5, 0), more=network)
    add("wider", answer(2, 0), more=network | {"parameters": 3_000_000})
    add(
        "baseline",
        answer(0.5, 1),
        more={"network": "baseline", "parameters": 1000},
        EPOCHS=7,
        LEARNING_RATE=0.01,
    )
    told = tell(tmp_path)
    assert (
        "network baseline instead of residual, LEARNING_RATE 0.01 instead of 0.001)"
        in sentence(told, "baseline")
    )
    assert "(parameters 3000000 instead of 1900000)" in sentence(told, "wider")
    assert tabulate_runs(list_runs(tmp_path / "runs")).parameters["baseline"] == "–"


def test_names_are_shown_as_they_are_and_not_as_html(add, shown, tmp_path):
    add("a & b", answer(1.5, 0), LEARNING_RATE="<b>")
    add("reference", answer(1.5, 0))
    show_runs(list_runs(tmp_path / "runs"))
    assert "a &amp; b" in shown[0] and "&lt;b&gt;" in shown[0] and "<b>" not in shown[0]


def test_runs_that_cannot_be_compared_are_gray_and_named(add, shown, tmp_path):
    add("reference", answer(1, 0))
    add("second", answer(1.2, 1))
    add(
        "other split",
        answer(6, 2),
        holdout="bbbb2222",
        first_image=500,
        validated="2020",
    )
    add("real", answer(5, 3), data="chest-xray-pneumonia", validated="2020")
    add(
        "namesake", answer(5, 3), first_image=7, validated="2020"
    )  # the same hold-out by name, but not in content
    runs = list_runs(tmp_path / "runs")
    assert [one["name"] for one in runs] == [
        "second",
        "reference",
        "namesake",
        "other split",
        "real",
    ]
    assert list(paired_differences(runs, 20, 0)) == ["second"]
    show_runs(runs)
    gray = find_styled(shown[0], "color: #888888")
    assert {row for row, _ in gray} == {2, 3, 4} and len(gray) == 3 * len(
        tabulate_runs(runs).columns
    )
    told = tell(tmp_path)
    for name, reason in {
        "namesake": "other images of these names",
        "other split": "other held-out images",
        "real": "other data",
    }.items():
        assert (
            f"{name} is not compared: {reason}." in told
            and tabulate_runs(runs).compared[name] == f"no: {reason}"
        )


def test_the_oldest_run_is_the_reference_where_none_has_that_name(add, tmp_path):
    add("baseline", answer(1, 1), trained="2021")
    add("second", answer(1, 2), trained="2022")
    runs = list_runs(tmp_path / "runs")
    assert reference_run(runs)[
        "name"
    ] == "second" and "not as in 'second', the oldest" in describe_runs(runs)


def test_a_paired_interval_of_accuracy_is_that_of_the_binomial(add, tmp_path):
    """Right for 30 more of 200 patients: in a draw of patients the number of those is binomial."""
    right = np.where(LABELS == 1, 0.9, 0.1)
    wrong = right.copy()
    wrong[:30] = 1 - wrong[:30]
    add("reference", wrong)
    add("right", right)
    found = paired_differences(list_runs(tmp_path / "runs"), 2000, 0)["right"][
        "accuracy"
    ]
    assert found["value"] == pytest.approx(0.15)
    assert [found["low"], found["high"]] == pytest.approx(
        stats.binom.ppf([0.025, 0.975], PATIENTS, 0.15) / PATIENTS, abs=0.0051
    )


def test_a_paired_interval_of_auc_draws_whole_patients_and_the_same_for_both(
    add, tmp_path
):
    patients = np.array(
        [f"person{number // 2 // 5 * 2 + number % 2}" for number in range(PATIENTS)]
    )  # five images each
    one, other = answer(1.5, 0), answer(1.5, 0) + 0.1 * answer(1, 1)
    add("reference", one, patients=patients)
    add("other", other, patients=patients)
    found = paired_differences(list_runs(tmp_path / "runs"), 1000, 0)["other"]["auc"]
    members, generator, draws = (
        [np.flatnonzero(patients == name) for name in set(patients)],
        np.random.default_rng(9),
        [],
    )
    for _ in range(600):
        rows = np.concatenate(
            [
                members[number]
                for number in generator.integers(len(members), size=len(members))
            ]
        )
        sick, healthy = rows[LABELS[rows] == 1], rows[LABELS[rows] == 0]
        better, worse = (
            np.mean(run[sick][:, None] > run[healthy]) for run in (other, one)
        )  # AUC: the share of pairs in order
        draws.append(better - worse)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx(
        [low, high], abs=0.15 * (high - low)
    )


def test_a_better_run_is_called_better_and_an_equal_one_is_not(add, tmp_path):
    add("reference", answer(1.5, 0))
    add("truly better", answer(4, 0), EPOCHS=9)
    add("worse", answer(0.2, 0), EPOCHS=1)
    add("the same again", answer(1.5, 0))
    exchanged = (
        answer(1.5, 0)
        .reshape(-1, 2)[np.random.default_rng(1).permutation(PATIENTS // 2)]
        .ravel()
    )  # as good, for other patients
    add("as good", exchanged, EPOCHS=4)
    told = tell(tmp_path)
    assert "EPOCHS 9 instead of 3" in sentence(
        told, "truly better"
    ) and "better by more than" in sentence(told, "truly better")
    assert "worse by more than" in sentence(told, "worse") and "noise" not in sentence(
        told, "worse"
    )
    assert (
        sentence(told, "the same again").count(
            "is the same [+0.0000 to +0.0000]: no difference in any draw"
        )
        == 2
    )
    assert "(the same settings)" in sentence(told, "the same again")
    assert "its AUC is the same [-0." in sentence(
        told, "as good"
    ) and "better" not in sentence(told, "as good")
    assert "8 comparisons, two scores of each run" in told and "34%" in told  # 1 − .95⁸
    assert "no two of these runs differ only in SEED" in told


def test_a_difference_smaller_than_that_between_seeds_is_not_believed(add, tmp_path):
    add("reference", answer(1.5, 0))
    add("seed 1", answer(4, 0), SEED=1)
    add("slightly", answer(2.5, 0), EPOCHS=9)
    spread = sk.roc_auc_score(LABELS, answer(4, 0)) - sk.roc_auc_score(
        LABELS, answer(1.5, 0)
    )
    told = tell(tmp_path)
    assert f"by less than seeds differ ({spread:.4f})" in sentence(told, "slightly")
    assert "no setting but SEED differs" in sentence(told, "seed 1")
    assert (
        f"Seeds differ too: seed 1, reference differ only in SEED, and yet by up to {spread:.4f} in AUC"
        in told
    )


@pytest.mark.parametrize(
    "low, high, sure",
    [(0.01, 0.2, True), (-0.2, -0.01, True), (-0.1, 0.1, False), (0, 0.1, False)],
)
def test_a_difference_is_sure_where_its_interval_excludes_0(low, high, sure):
    assert is_significant({"value": (low + high) / 2, "low": low, "high": high}) is sure


def test_a_record_of_an_earlier_version_is_shown_but_not_compared(add, tmp_path):
    add("old", answer(2, 1), answers=False)
    runs = list_runs(tmp_path / "runs")
    assert paired_differences(
        runs, 20, 0
    ) == {} and "no run can be compared" in describe_runs(runs)
    assert (
        "old is not compared: answers not kept (run section 7)"
        in describe_differences(runs, {})
    )
    add("reference", answer(1, 0))
    assert "nothing to compare yet" in tell(tmp_path)
    add("second", answer(1, 2))
    table = tabulate_runs(list_runs(tmp_path / "runs"))
    assert (
        table.index[-1] == "old"
        and table.compared["old"] == "no: answers not kept (run section 7)"
    )
    assert "old is not compared: answers not kept (run section 7)" in tell(tmp_path)


@pytest.mark.parametrize(
    "name, content",
    [("run.json", "{"), ("run.json", "{}"), ("run.json", "[]"), ("history.csv", "")],
)
def test_a_damaged_run_costs_its_own_lines_and_nothing_else(
    add, shown, tmp_path, name, content
):
    add("reference", answer(1, 0))
    add("second", answer(3, 2), EPOCHS=2)
    before = list_runs(tmp_path / "runs")
    figure = plot_runs(before, paired_differences(before, 50, 0))
    add("broken", answer(2, 3))
    (tmp_path / "runs/broken" / name).write_text(content)
    runs = list_runs(tmp_path / "runs")
    differences = paired_differences(runs, 50, 0)
    assert differences == paired_differences(before, 50, 0)
    table, told = tabulate_runs(runs), describe_differences(runs, differences)
    assert table.iloc[:-1].equals(tabulate_runs(before)) and table.index[-1] == "broken"
    assert table.loc["broken"].tolist() == [
        "no: damaged",
        *"–" * (len(table.columns) - 1),
    ]
    assert told.startswith(describe_differences(before, differences))
    [line] = told[len(describe_differences(before, differences)) :].strip().splitlines()
    assert (
        line.startswith("broken is not compared: ")
        and f"broken/{name} is missing or damaged" in line
    )
    show_runs(runs)
    assert {row for row, _ in find_styled(shown[0], "color: #888888")} == {2}
    assert len(plot_runs(runs, differences).axes[2].lines) == len(figure.axes[2].lines)
    plt.close("all")


def test_a_run_that_is_not_evaluated_is_named_in_the_table(add, tmp_path):
    add("reference", answer(1, 0))
    add("waiting", answer(1, 0), answers=False, more={"validation": {}})
    runs = list_runs(tmp_path / "runs")
    assert (
        tabulate_runs(runs).loc["waiting"].tolist()[0]
        == "no: not evaluated yet (run section 7)"
    )
    assert paired_differences(
        runs, 20, 0
    ) == {} and "waiting is not compared: not evaluated yet" in tell(tmp_path)


def test_the_figure_shows_the_scores_of_all_and_the_curves_of_the_best(add, tmp_path):
    add("reference", answer(1, 0))
    for number in range(8):
        add(
            f"run {number}" + "x" * 30 * (number == 7),
            answer(1 + number / 2, number),
            EPOCHS=number,
            epochs=2 + number,
        )
    runs = list_runs(tmp_path / "runs")
    differences = paired_differences(runs, 50, 0)
    figure = plot_runs(runs, differences, most=3)
    left, right, loss, auc = figure.axes
    assert (
        len(left.lines) == 9 and len(right.lines) == 9
    )  # no difference of the reference; the zero
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert [label[:5] for label in reversed(labels)] == [
        one["name"][:5] for one in runs
    ] and all(len(label) < 28 for label in labels)
    for place, one in enumerate(reversed(runs)):
        interval = one["validation"]["auc"]
        assert left.lines[place].get_xdata() == pytest.approx(
            [interval["low"], interval["value"], interval["high"]]
        )
        assert left.lines[place].get_markevery() == [1] and set(
            left.lines[place].get_ydata()
        ) == {place}
    drawn = [one for one in runs if one["name"] != "reference"][:3]
    for axis, name in ((loss, "val_loss"), (auc, "val_auc")):
        curves = [line.get_ydata().tolist() for line in axis.lines]
        assert curves == [
            one["history"][name].tolist() for one in [reference_run(runs), *drawn]
        ]
        colors = [line.get_color() for line in axis.lines]
        assert (
            colors[0] == "black"
            and len(set(colors)) == 4
            and axis.lines[0].get_linewidth() > axis.lines[1].get_linewidth()
        )
        [marks] = axis.collections
        assert sorted(map(tuple, marks.get_offsets().tolist())) == sorted(
            (one["best_epoch"], one["history"][name].iloc[-1])
            for one in [reference_run(runs), *drawn]
        )
    assert loss.get_ylim()[0] == 0 and loss.get_ylim()[1] <= 1.1
    plt.close(figure)


def test_a_run_alone_has_a_figure_too(add, tmp_path):
    add("reference", answer(1, 0))
    runs = list_runs(tmp_path / "runs")
    figure = plot_runs(runs, paired_differences(runs, 20, 0))
    assert len(figure.axes[0].lines) == 1 and len(figure.axes[1].lines) == 1
    plt.close(figure)
