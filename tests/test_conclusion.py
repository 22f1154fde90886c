"""The conclusion states what the numbers of a report mean, in each case."""

import copy
import json

import pytest

from cxr.conclusion import summarize_findings


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def metrics(**changed):
    names = ("accuracy", "sensitivity", "specificity", "auc")
    return {name: estimate(0.9, 0.85, 0.95) for name in names} | changed


REPORT = {
    "data": "chest-xray-pneumonia",
    "counts": {
        "train": {"NORMAL": 250, "PNEUMONIA": 750},
        "val": {"NORMAL": 50, "PNEUMONIA": 150},
        "test": {"NORMAL": 40, "PNEUMONIA": 60},
    },
    "shortcuts": {"all": estimate(0.73, 0.7, 0.76)},
    "models": {
        name: {
            "auc_bias_aligned": estimate(0.99, 0.98, 1.0),
            "auc_bias_conflicting": estimate(conflicting, 0.6, 0.97),
        }
        for name, conflicting in (("linear_border", 0.7), ("residual_cnn", 0.95))
    },
    "model_choice": {
        "simpler_model": "linear_border",
        "aucs": {"linear_border": 0.7, "residual_cnn": 0.95},
        "difference": estimate(0.25, 0.1, 0.4),
    },
    "calibration_error": {
        "before": 0.03,
        "after": 0.012,
        "after_by_chance": 0.02,
        "test": 0.104,
        "test_by_chance": 0.04,
    },
    "validation": metrics(),
    "test": metrics(specificity=estimate(0.7, 0.65, 0.8)),
    "robustness": {
        "unchanged": {"auc": 0.99, "sensitivity": 0.9, "specificity": 0.8},
        "half_contrast": {"auc": 0.9, "sensitivity": 0.9, "specificity": 0.7},
        "brighter": {"auc": 0.95, "sensitivity": 1.0, "specificity": 0.1},
    },
    "adaptation": {
        0: {"value": 0.8, "low": 0.8, "high": 0.8},
        20: {"value": 0.85, "low": 0.82, "high": 0.88},
    },
}
INSPECTION = {
    "bacterial_minus_viral_auc": estimate(0.03, 0.01, 0.05),
    "grad_cam": {
        "random_weights": estimate(0.1, 0.0, 0.2),
        "drop_at_maximum": estimate(3.0, 2.5, 3.5),
        "drop_at_random": estimate(1.0, 0.5, 1.5),
        "border_share": estimate(0.2, 0.15, 0.25),
    },
    "auc_border_masked": estimate(0.9, 0.85, 0.95),
    "auc_border_only": estimate(0.6, 0.55, 0.65),
    "auc_lost_without_border": estimate(0.05, 0.01, 0.09),
}


def find_line(report, word):
    lines = [line for line in summarize_findings(report).split("\n") if word in line]
    assert len(lines) == 1
    return lines[0]


def change(path, value):
    report = copy.deepcopy(REPORT)
    place = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return report


def test_all_numbers_are_those_of_the_report():
    calibration = find_line(REPORT, "**Calibration.**")
    assert "0.0120 on validation" in calibration and "0.1040 on test" in calibration
    assert "up to 0.0200" in calibration and "up to 0.0400" in calibration
    assert calibration.endswith("so this one is not calibrated here.")
    data = find_line(REPORT, "**Data.**")
    for number in ("1,000 training", "200 validation", "100 test", "75%", "60%"):
        assert number in data
    models = find_line(REPORT, "highest AUC on them is that of the residual CNN")
    assert "+0.250 (95% CI +0.100 to +0.400)" in models and "is kept" in models
    robustness = find_line(REPORT, "Robust")
    assert "half contrast: 0.900 instead of 0.990" in robustness
    assert "brighter: sensitivity 1.000, specificity 0.100" in robustness


def test_a_difference_between_validation_and_test_is_named():
    assert "significantly lower" in find_line(REPORT, "**Specificity:**")
    assert "no significant difference" in find_line(REPORT, "**Sensitivity:**")


def test_alarms_at_a_prevalence_of_five_percent_worked_out_by_hand():
    """Sensitivity .9; specificity .9 on validation, .7 on test.

    .9 · .05 / (.9 · .05 + .1 · .95) = 32%; with .3 · .95 in the place of .1 · .95: 14%.
    """
    line = find_line(REPORT, "**Alarms.**")
    assert "32% of the alarms" in line and "14% with those of test" in line
    unknown = change(("test", "specificity"), estimate(None, None, None))
    unknown["test"]["auc"] = estimate(None, None, None)
    assert "could not be counted" in find_line(unknown, "**Alarms**")


@pytest.mark.parametrize(
    ("low", "is_better"), [(0.61, True), (0.6, False), (0.5, False)]
)
def test_the_accuracy_is_compared_with_the_majority_class(low, is_better):
    report = change(("test", "accuracy"), estimate(0.7, low, 0.8))
    line = find_line(report, "**Accuracy**")
    assert "(60.0%)" in line
    assert ("not significantly" in line) != is_better


def test_shortcuts_that_do_not_predict_are_said_to_do_so():
    report = change(("shortcuts", "all"), estimate(0.52, 0.48, 0.56))
    assert "do not significantly predict" in find_line(report, "**Shortcuts**")
    assert "do not" not in find_line(REPORT, "**Shortcuts**")


@pytest.mark.parametrize("aucs", [{}, {"unchanged": None}, {"unchanged": float("nan")}])
def test_what_could_not_be_measured_is_said(aucs):
    robustness = {name: {"auc": auc} for name, auc in aucs.items()}
    line = find_line(change(("robustness",), robustness), "Robust")
    assert "not be measured" in line
    empty = estimate(float("nan"), float("nan"), float("nan"))
    report = change(("models", "residual_cnn", "auc_bias_conflicting"), empty)
    assert "not measurable" in summarize_findings(report)


def test_what_a_new_place_needs_is_part_of_it():
    line = find_line(REPORT, "**A new place.**")
    assert "With 20 labeled images: 0.850 on average" in line
    read_again = json.loads(json.dumps(REPORT))  # JSON turns the numbers into texts
    assert find_line(read_again, "**A new place.**") == line


def test_what_section_8_found_is_part_of_it_once_it_was_run():
    assert "Grad-CAM" not in summarize_findings(REPORT)
    report = REPORT | {"inspection": INSPECTION}
    assert "the bacterial form is detected" in find_line(report, "**Findings.**")
    maps = find_line(report, "**Grad-CAM.**")
    assert "depend on what" in maps and "avoid the border" in maps
    border = find_line(report, "**Border.**")
    assert "to 0.900, by 0.050" in border and "0.600" in border


def test_phantoms_are_named_first():
    text = summarize_findings(REPORT | {"data": "phantom"})
    assert text.split("\n")[2].startswith("- **PHANTOM")
    assert "PHANTOM" not in summarize_findings(REPORT)
