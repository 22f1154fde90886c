"""The model card holds the numbers of metrics.json."""

import re

import keras
import pytest

from cxr.model_card import render_model_card
from cxr.models import build_cnn

METRICS = (
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "auc",
    "average_precision",
)


def make_metrics(start):
    metrics = {"confusion_matrix": [[1, 2], [3, 4]]}
    for place, name in enumerate(METRICS):
        value = start + place / 100
        metrics[name] = {"value": value, "low": value - 0.031, "high": value + 0.017}
    return metrics


def make_report(**changes):
    """Return the content of metrics.json with a different number in every place."""
    return {
        "schema": 1,
        "run": "mine",
        "data": "chest-xray-pneumonia",
        "official_split": True,
        "release": "Mendeley's version 3",
        "device": "GPU (T4)",
        "settings": {
            "EPOCHS": 77,
            "DROPOUT": 0.123,
            "RESIZE_MODE": "stretch",
            "DATA_DIR": "/home/somebody/secret",
            "OUTPUT_DIR": "/home/somebody/out",
        },
        "versions": {"keras": "3.99.1", "backend": "tensorflow"},
        "seconds": {"training": 600, "evaluation": 30},
        "counts": {
            "train_folder": {"NORMAL": 1341, "PNEUMONIA": 3875},
            "val_folder": {"NORMAL": 8, "PNEUMONIA": 9},
            "test": {"NORMAL": 234, "PNEUMONIA": 390},
            "train": {"NORMAL": 1148, "PNEUMONIA": 3302},
            "val": {"NORMAL": 201, "PNEUMONIA": 582},
        },
        "unreadable": [{"path": "a", "problem": "b"}] * 3,
        "temperature": 1.734,
        "shift": -0.567,
        "calibration_error": {"before": 0.061, "after": 0.022, "test": 0.143},
        "shortcuts": {"all": {"value": 0.984, "low": 0.979, "high": 0.988}},
        "models": {
            "residual_cnn": {
                "auc_bias_conflicting": {"value": 0.937, "low": 0.899, "high": 0.97},
                "auc_bias_aligned": {"value": 0.999, "low": 0.998, "high": 1.0},
            }
        },
        "robustness": {
            "unchanged": {"auc": 0.987},
            "half_contrast": {"auc": 0.612},
            "blurred": {"auc": 0.9},
        },
        "threshold": {"value": 0.4321, "rule": "the rule that chose it"},
        "validation": make_metrics(0.9),
        "test": make_metrics(0.7),
        **changes,
    }


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return build_cnn(32)


def render_on_one_line(report, network):
    """Return the card without its line breaks, which may stand anywhere."""
    return " ".join(render_model_card(report, network).split())


def test_the_card_holds_the_numbers_of_the_report(network):
    report = make_report()
    card = render_model_card(report, network)
    text = render_on_one_line(report, network)
    for expected in (
        "NOT intended for clinical use",
        "'mine'",
        f"{network.count_params():,} parameters",
        "(n, 32, 32, 1)",
        "temperature 1.734",
        "shift -0.567",
        "if its probability is at least 0.4321 (the rule that chose it)",
        "Settings: EPOCHS 77, DROPOUT 0.123, RESIZE_MODE stretch - Time",
        "Keras 3.99.1 (tensorflow)",
        "GPU (T4)",
        "10.5 minutes",
        "3 files could not be read",
        "0.061 before Platt scaling, 0.022 after; on test: 0.143.",
        "'half contrast' had the lowest AUC, 0.612 (unchanged: 0.987)",
        "CC BY 4.0",
        "reaches an AUC of 0.984 [0.979–0.988] here",
        "has an AUC of 0.937 [0.899–0.970]; on the others, 0.999 [0.998–1.000]",
        "by physicians, Mendeley's version 3, in the official split.",
        "arXiv:1810.03993",
    ):
        assert expected in text, expected
    for row in (
        "| images | train_folder | val_folder | test | train | val |",
        "| NORMAL | 1341 | 8 | 234 | 1148 | 201 |",
        "| PNEUMONIA | 3875 | 9 | 390 | 3302 | 582 |",
        "| auc | 0.950 [0.919–0.967] | 0.750 [0.719–0.767] |",
    ):
        assert row in card.splitlines()
    interval = r"\d\.\d{3} \[\d\.\d{3}–\d\.\d{3}\]"
    for name in METRICS:
        row = rf"^\| {name} \| {interval} \| {interval} \|$"
        assert re.search(row, card, re.M), name
    for absent in ("PHANTOM", "somebody", "confusion", "{", "\n\n\n"):
        assert absent not in card
    assert card.endswith("arXiv:1512.03385.\n")


def test_a_row_of_a_table_has_as_many_cells_as_its_head(network):
    card = render_model_card(make_report(), network)
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\|\n)+", card, re.M)]
    assert [len(rows) for rows in tables] == [4, 2 + len(METRICS)]
    for rows in tables:
        assert len({row.count("|") for row in rows}) == 1


def test_a_card_of_phantoms_says_so_before_anything_else(network):
    report = make_report(data="phantom", official_split=False)
    card = render_model_card(report, network)
    title, warning, *_ = [line for line in card.splitlines() if line]
    assert title.startswith("# Model card")
    assert "PHANTOM" in warning
    assert "CC BY" not in card


def test_a_card_names_the_data_and_the_split(network):
    report = make_report(data="other", official_split=False)
    card = render_on_one_line(report, network)
    assert "Images that the user of the notebook provided." in card
    assert "PHANTOM" not in card
    assert "Guangzhou" not in card
    card = render_on_one_line(make_report(official_split=False), network)
    assert "**not** in the official split" in card


@pytest.mark.parametrize(
    ("resize_mode", "sentence"),
    [
        ("stretch", "the whole image is stretched to a square"),
        ("center_crop", "the central square of the image is resized"),
        ("pad", "the whole image is resized at its own aspect ratio and padded"),
    ],
)
def test_the_card_says_how_images_become_square(network, resize_mode, sentence):
    report = make_report()
    report["settings"]["RESIZE_MODE"] = resize_mode
    card = render_on_one_line(report, network)
    assert f"gray levels from 0 to 255; {sentence} - Output" in card


@pytest.mark.parametrize("missing", [float("nan"), None])
def test_a_metric_without_a_value_is_not_measurable(network, missing):
    report = make_report(robustness={"unchanged": {"auc": missing}})
    report["test"]["auc"] = {"value": missing, "low": missing, "high": missing}
    card = render_model_card(report, network)
    assert "| auc | 0.950 [0.919–0.967] | not measurable |" in card
    assert "Robustness: not measurable." in card
    assert "nan" not in card
    assert "None" not in card
