"""Each setting has its kind and its range, and what is wrong is named."""

import os

import papermill
import pytest
from build import TEXT, read_cells, read_settings

from cxr.settings import Settings, resolve_settings

DEFAULTS = read_settings()
WRONG = {
    "IMAGE_SIZE": [7, 2000, 64.5, "big", True],
    "EPOCHS": [0, -1, 2.5, "ten"],
    "LEARNING_RATE": [0, -1, 5, "fast", float("nan"), True],
    "PRESET": ["fast", None],
    "BATCH_SIZE": [0, None],
    "SEED": [-1, 2**32],
    "SPLIT_SEED": [-1],
    "RUN_NAME": ["", "a/b", "baseline", ".hidden", "x" * 61, "one, two", "two\nlines"],
    "VALIDATION_FRACTION": [0, 0.9],
    "RESIZE_MODE": ["stretch", "Fit", None],
    "AUGMENT": ["yes", 1],
    "FLIP": [None],
    "DROPOUT": [1],
    "AUG_AFFINE": [2.5, -0.1],
    "PATIENCE": [0],
    "BOOTSTRAP_SAMPLES": [5],
    "MIXED_PRECISION": ["bfloat16", True],
    "OUTPUT_DIR": ["", "~nobody-of-this-name/x"],
    "DATA_DIR": ["~nobody-of-this-name"],
}
RIGHT = {
    "IMAGE_SIZE": [32, 1024],
    "EPOCHS": [1],
    "BASELINE_EPOCHS": [0],
    "LEARNING_RATE": [1e-7, 1, 1.0],
    "DROPOUT": [0, 0.95],
    "SEED": [0, 2**32 - 1],
    "RUN_NAME": ["mine", "2 seeds", "a.b+c-d_e", "x" * 60],
    "MIXED_PRECISION": ["auto", "on", "off"],
    "RESIZE_MODE": ["stretch", "pad", "center_crop"],
    "AUG_AFFINE": [0, 2],
    "VALIDATION_FRACTION": [0.02, 0.5],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
)
def test_a_setting_that_makes_no_sense_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as caught:
        resolve_settings(DEFAULTS | {name: value}, "CPU")
    assert str(caught.value).startswith(f"{name} is {value!r}, but it ") and str(
        caught.value
    ).endswith(": change it in the settings cell.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in RIGHT.items() for value in values],
)
def test_a_setting_within_its_range_is_taken_as_it_is(name, value):
    """A whole number is as good a number as any."""
    assert getattr(resolve_settings(DEFAULTS | {name: value}, "CPU"), name) == value


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ({"IMAGE_SIZE": 7}, "32"),
        ({"IMAGE_SIZE": 2000}, "1024"),
        ({"PRESET": "fast"}, "'quick'"),
        ({"AUGMENT": "yes"}, "boolean"),
        ({"EPOCHS": 2.5}, "integer"),
        ({"DROPOUT": 1}, "0.95"),
        ({"RUN_NAME": "a/b"}, "letters, digits, spaces"),
    ],
)
def test_the_sentence_says_what_would_be_right(values, allowed):
    with pytest.raises(ValueError, match=allowed):
        resolve_settings(DEFAULTS | values, "CPU")


def test_the_first_wrong_setting_is_named_and_the_others_wait():
    with pytest.raises(ValueError, match=r"^EPOCHS is 0") as caught:
        resolve_settings(DEFAULTS | {"SEED": -1, "EPOCHS": 0}, "CPU")
    assert "SEED" not in str(caught.value)


def test_the_preset_fills_in_and_an_explicit_value_wins():
    presets = DEFAULTS["PRESETS"]
    assert (
        resolve_settings(DEFAULTS, "CPU").IMAGE_SIZE == presets["quick"]["IMAGE_SIZE"]
    )
    assert (
        resolve_settings(DEFAULTS, "GPU").EPOCHS
        == resolve_settings(DEFAULTS, "TPU").EPOCHS
        == presets["full"]["EPOCHS"]
    )
    chosen = resolve_settings(DEFAULTS | {"PRESET": "full", "EPOCHS": 3}, "CPU")
    assert (chosen.EPOCHS, chosen.IMAGE_SIZE) == (3, presets["full"]["IMAGE_SIZE"])
    assert (
        resolve_settings(DEFAULTS | {"PRESET": "quick"}, "GPU").IMAGE_SIZE
        == presets["quick"]["IMAGE_SIZE"]
    )


def test_a_preset_that_makes_no_sense_is_named_too():
    presets = {"quick": {"IMAGE_SIZE": 8, "EPOCHS": 1, "BASELINE_EPOCHS": 0}}
    with pytest.raises(ValueError, match="IMAGE_SIZE is 8"):
        resolve_settings(DEFAULTS | {"PRESETS": presets}, "CPU")


def test_a_folder_may_begin_with_a_tilde_or_be_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/somebody")
    chosen = resolve_settings(
        DEFAULTS
        | {"DATA_DIR": "~/x-rays", "OUTPUT_DIR": tmp_path / "~", "CACHE_DIR": None},
        "CPU",
    )
    assert chosen.DATA_DIR == "/home/somebody/x-rays" and chosen.CACHE_DIR == ""
    assert chosen.OUTPUT_DIR == os.path.join(tmp_path, "~")  # only at the beginning


@pytest.mark.parametrize(
    "name", ["LEARNING_RATE", "WEIGHT_DECAY", "DROPOUT", "AUG_AFFINE"]
)
def test_a_whole_number_becomes_what_keras_takes(name):
    value = getattr(
        resolve_settings(DEFAULTS | {name: 1 if name == "LEARNING_RATE" else 0}, "CPU"),
        name,
    )
    assert type(value) is float


def test_the_form_has_every_setting_and_no_other_name():
    """The settings cells and the class are written in two places."""
    assert set(DEFAULTS) - {"PRESETS"} == set(Settings.model_fields)
    assert (
        vars(resolve_settings(DEFAULTS, "CPU")).keys() == Settings.model_fields.keys()
    )


def test_the_form_is_short_and_what_is_given_wins_over_both_cells():
    """papermill writes what `make run` is given behind the cell tagged parameters; so that must be the last of the two."""
    given = {
        "SEED": 7,
        "AUG_AFFINE": 0.25,
        "EPOCHS": 2,
    }  # of the form, and of the advanced cell
    book = papermill.iorw.load_notebook_node(str(TEXT.with_suffix(".ipynb")))
    cells = papermill.parameterize.parameterize_notebook(book, given).cells
    tagged = [
        cell
        for cell in cells
        if {"advanced", "parameters", "injected-parameters"}.intersection(
            cell.metadata.get("tags", [])
        )
    ]
    values = {}
    for cell in tagged:
        exec(cell.source, values)
    assert len(tagged) == 3
    assert {name: values[name] for name in DEFAULTS} == DEFAULTS | given
    form = next(
        cell.source
        for cell, _ in read_cells()
        if "parameters" in cell.metadata.get("tags", [])
    )
    assert form.count("  # @param ") == form.count("\n") <= 15
