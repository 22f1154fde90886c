"""The model card says what the record of the run says."""

import re

import keras
import pytest

from cxr.model_card import render_model_card
from cxr.models import build_cnn

SCORES = (
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "auc",
    "average_precision",
)


def make_report(**changes):
    """A report with a different number in every place."""

    def part(start):
        return {
            name: {
                "value": start + place / 100,
                "low": start + place / 100 - 0.031,
                "high": start + place / 100 + 0.017,
            }
            for place, name in enumerate(SCORES)
        } | {"confusion_matrix": [[1, 2], [3, 4]]}

    return {
        "run": "mine",
        "data": "chest-xray-pneumonia",
        "official_split": True,
        "release": "Mendeley's version 3",
        "device": "GPU (T4)",
        "settings": {
            "EPOCHS": 77,
            "DROPOUT": 0.123,
            "DATA_DIR": "/home/somebody/secret",
            "OUTPUT_DIR": "/home/somebody/out",
        },
        "versions": {"keras": "3.99.1", "backend": "tensorflow"},
        "seconds": {"6 Train": 600, "7 Evaluate": 30},
        "counts": {
            "train": {"NORMAL": 1341, "PNEUMONIA": 3875},
            "val": {"NORMAL": 8, "PNEUMONIA": 9},
            "test": {"NORMAL": 234, "PNEUMONIA": 390},
            "validation": {"NORMAL": 201, "PNEUMONIA": 582},
        },
        "unreadable": [{"path": "a", "problem": "b"}] * 3,
        "temperature": 1.734,
        "shift": -0.567,
        "expected_calibration_error": {"before": 0.061, "after": 0.022, "test": 0.143},
        "clues": {"all of these": {"value": 0.984, "low": 0.979, "high": 0.988}},
        "classifiers": {
            "residual CNN": {
                "AUC, conflicting": {"value": 0.937, "low": 0.899, "high": 0.97},
                "AUC, agreeing": {"value": 0.999, "low": 0.998, "high": 1.0},
            }
        },
        "shifts": {
            "unchanged": {"auc": 0.987},
            "noisy": {"auc": 0.612},
            "blurred": {"auc": 0.9},
        },
        "threshold": {"value": 0.4321, "how": "the way it was chosen"},
        "validation": part(0.9),
        "test": part(0.7),
        **changes,
    }


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return build_cnn(32)


def test_the_card_holds_the_numbers_of_the_report(network):
    card = render_model_card(make_report(), network)
    for text in (
        "NOT intended for clinical use",
        "'mine'",
        f"{network.count_params():,} parameters",
        "(n, 32, 32, 1)",
        "1.734",
        "-0.567",
        "0.4321",
        "the way it was chosen",
        "EPOCHS 77, DROPOUT 0.123.",
        "Keras 3.99.1",
        "GPU (T4)",
        "10.5 minutes",
        "| images | train | val | test | validation |",
        "| NORMAL | 1341 | 8 | 234 | 201 |",
        "| PNEUMONIA | 3875 | 9 | 390 | 582 |",
        "3 files could not be read",
        "0.061",
        "0.022",
        "0.143",
        "'noisy' was the worst, with an AUC of 0.612 instead of 0.987",
        "CC BY 4.0",
        "has an AUC of 0.984 [0.979–0.988] here",
        "this network has 0.937 [0.899–0.970]; on the others, 0.999 [0.998–1.000]",
        "by doctors, Mendeley's version 3, in the official split",
        "arXiv:1810.03993",
        "| auc | 0.950 [0.919–0.967] | 0.750 [0.719–0.767] |",
    ):
        assert text in card, text
    for name in SCORES:
        assert re.search(
            rf"^\| {name} \|( \d\.\d{{3}} \[\d\.\d{{3}}–\d\.\d{{3}}\] \|){{2}}$",
            card,
            re.M,
        ), name
    assert (
        "PHANTOM" not in card
        and "somebody" not in card
        and "confusion" not in card
        and "alike" not in card
    )
    assert (
        "{" not in card
        and "\n\n\n" not in card
        and card.endswith("arXiv:1512.03385.\n")
    )


def test_a_line_of_a_table_has_as_many_cells_as_its_head(network):
    card = render_model_card(make_report(), network)
    tables = re.findall(r"(?:^\|.*\|\n)+", card, re.M)
    assert [len(table.splitlines()) for table in tables] == [4, 2 + len(SCORES)]
    assert all(
        len({line.count("|") for line in table.splitlines()}) == 1 for table in tables
    )


def test_a_card_of_phantoms_says_so_before_anything_else(network):
    card = render_model_card(make_report(data="phantom", official_split=False), network)
    lines = [line for line in card.splitlines() if line]
    assert (
        lines[0].startswith("# Model card")
        and "PHANTOM" in lines[1]
        and "CC BY" not in card
    )
    other = render_model_card(make_report(data="other", official_split=False), network)
    assert "PHANTOM" not in other and "Guangzhou" not in other
    part = render_model_card(make_report(official_split=False), network)
    assert "**not** in the official split" in part


@pytest.mark.parametrize(
    ("resize_mode", "words"),
    [
        ("stretch", "the whole picture shrunk to a square."),
        ("center_crop", "the middle square"),
        ("pad", "the whole picture shrunk at its own aspect, between black bars"),
        (None, "the whole picture shrunk to a square."),
    ],
)
def test_the_card_says_what_a_film_has_to_go_through(network, resize_mode, words):
    """A record of before there was a choice says nothing."""
    report = make_report()
    report["settings"] |= {"RESIZE_MODE": resize_mode} if resize_mode else {}
    assert f"gray levels from 0 to 255, {words}" in render_model_card(report, network)


@pytest.mark.parametrize("nothing", [float("nan"), None])
def test_what_was_not_measurable_is_called_so(network, nothing):
    report = make_report(shifts={"unchanged": {"auc": nothing}})
    report["test"]["auc"] = {"value": nothing, "low": nothing, "high": nothing}
    card = render_model_card(report, network)
    assert (
        "| auc | 0.950 [0.919–0.967] | not measurable |" in card
        and "nan" not in card
        and "None" not in card
    )
