"""Each setting has a type and a range; the message names the setting that is wrong."""

import os
from types import SimpleNamespace

import papermill
import pytest
from build import TEXT, read_cells, read_settings

from cxr.settings import RENAMED_SETTINGS, Settings, resolve_settings

DEFAULTS = read_settings()
WRONG = {
    "IMAGE_SIZE": [7, 2000, 64.5, "big", True],
    "EPOCHS": [0, -1, 2.5, "ten"],
    "LEARNING_RATE": [0, -1, 5, "fast", float("nan"), True],
    "PRESET": ["fast", None, ["auto"]],
    "BATCH_SIZE": [0, None],
    "SEED": [-1, 2**32],
    "SPLIT_SEED": [-1],
    "RUN_NAME": [
        "",
        "a/b",
        "baseline",
        "Baseline",
        "BASELINE",
        ".hidden",
        "x" * 61,
        "one, two",
        "two\nlines",
        "ends in a dot.",
        "ends in a space ",
    ],
    "VALIDATION_FRACTION": [0, 0.9],
    "RESIZE_MODE": ["squash", "Pad", None, ["pad"]],
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
    "RUN_NAME": ["mine", "2 seeds", "a.b+c-d_e", "x", "x" * 60, "baseline 2"],
    "MIXED_PRECISION": ["auto", "on", "off"],
    "RESIZE_MODE": ["stretch", "pad", "center_crop"],
    "AUG_AFFINE": [0, 2],
    "VALIDATION_FRACTION": [0.02, 0.5],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
)
def test_an_invalid_setting_is_named_with_its_value(name, value):
    with pytest.raises(ValueError) as caught:
        resolve_settings(DEFAULTS | {name: value}, "CPU")
    message = str(caught.value)
    assert message.startswith(f"{name} is {value!r}, but it ")
    assert message.endswith(": change it in the settings cell.")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in RIGHT.items() for value in values],
)
def test_a_setting_within_its_range_is_returned_unchanged(name, value):
    """A setting that is a float also accepts an integer."""
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
def test_the_message_gives_the_allowed_values(values, allowed):
    with pytest.raises(ValueError, match=allowed):
        resolve_settings(DEFAULTS | values, "CPU")


def test_only_the_first_invalid_setting_is_named():
    with pytest.raises(ValueError, match=r"^EPOCHS is 0") as caught:
        resolve_settings(DEFAULTS | {"SEED": -1, "EPOCHS": 0}, "CPU")
    assert "SEED" not in str(caught.value)


def test_the_preset_fills_in_and_an_explicit_value_overrides_it():
    quick, full = DEFAULTS["PRESETS"]["quick"], DEFAULTS["PRESETS"]["full"]
    assert resolve_settings(DEFAULTS, "CPU").IMAGE_SIZE == quick["IMAGE_SIZE"]
    assert resolve_settings(DEFAULTS, "GPU").EPOCHS == full["EPOCHS"]
    assert resolve_settings(DEFAULTS, "TPU").EPOCHS == full["EPOCHS"]
    settings = resolve_settings(DEFAULTS | {"PRESET": "full", "EPOCHS": 3}, "CPU")
    assert (settings.EPOCHS, settings.IMAGE_SIZE) == (3, full["IMAGE_SIZE"])
    settings = resolve_settings(DEFAULTS | {"PRESET": "quick"}, "GPU")
    assert settings.IMAGE_SIZE == quick["IMAGE_SIZE"]


def test_an_invalid_value_of_a_preset_is_named():
    presets = {"quick": {"IMAGE_SIZE": 8, "EPOCHS": 1, "BASELINE_EPOCHS": 0}}
    with pytest.raises(ValueError, match="IMAGE_SIZE is 8"):
        resolve_settings(DEFAULTS | {"PRESETS": presets}, "CPU")


def test_a_folder_may_begin_with_a_tilde_or_be_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/somebody")
    folders = {"DATA_DIR": "~/x-rays", "OUTPUT_DIR": tmp_path / "~", "CACHE_DIR": None}
    settings = resolve_settings(DEFAULTS | folders, "CPU")
    assert settings.DATA_DIR == "/home/somebody/x-rays"
    assert settings.CACHE_DIR == ""
    assert settings.OUTPUT_DIR == os.path.join(tmp_path, "~")  # only at the beginning


@pytest.mark.parametrize("name", ["DATA_DIR", "OUTPUT_DIR", "CACHE_DIR"])
@pytest.mark.parametrize(
    "path",
    [
        r"C:\Users\me\out",
        "d:/out",
        "C:",
        r"\\server\out",
        r"..\out",
        r".\out",
        r"~\out",
    ],
)
def test_a_windows_path_is_refused_elsewhere(name, path, monkeypatch):
    reason = f"{name} is .* path of this system, .* and not one of Windows"
    with pytest.raises(ValueError, match=reason):
        resolve_settings(DEFAULTS | {name: path}, "CPU")
    monkeypatch.setattr("cxr.settings.os", SimpleNamespace(name="nt", path=os.path))
    if not path.startswith("~"):
        assert getattr(resolve_settings(DEFAULTS | {name: path}, "CPU"), name) == path


@pytest.mark.parametrize("path", ["./C:", r"a\b", "/data/C:/x", "C:x", "..", "~/C:"])
def test_a_folder_whose_name_only_resembles_windows_is_accepted(path):
    settings = resolve_settings(DEFAULTS | {"OUTPUT_DIR": path}, "CPU")
    assert settings.OUTPUT_DIR == os.path.expanduser(path)


@pytest.mark.parametrize(("old_name", "new_name"), RENAMED_SETTINGS.items())
def test_a_setting_under_its_old_name_is_told_its_new_one(old_name, new_name):
    with pytest.raises(ValueError, match=f"^{old_name} is now called {new_name}") as e:
        resolve_settings(DEFAULTS | {old_name: 1}, "CPU")
    assert "\n" not in str(e.value)
    assert new_name in Settings.model_fields
    assert old_name not in Settings.model_fields


@pytest.mark.parametrize(
    ("old_value", "new_value"),
    [("squash", "stretch"), ("fit", "pad"), ("crop", "center_crop")],
)
def test_an_old_value_of_the_resize_mode_is_told_its_new_one(old_value, new_value):
    with pytest.raises(ValueError, match=f"'{old_value}' is now '{new_value}'"):
        resolve_settings(DEFAULTS | {"GEOMETRY": old_value}, "CPU")
    with pytest.raises(ValueError, match=f"'{old_value}' is now called '{new_value}'"):
        resolve_settings(DEFAULTS | {"RESIZE_MODE": old_value}, "CPU")


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEARNING_RATE", 1), ("WEIGHT_DECAY", 0), ("DROPOUT", 0), ("AUG_AFFINE", 0)],
)
def test_an_integer_becomes_a_float_where_keras_needs_one(name, value):
    settings = resolve_settings(DEFAULTS | {name: value}, "CPU")
    assert type(getattr(settings, name)) is float


def test_the_settings_cells_have_every_setting_and_no_other_name():
    """The cells and the class are written in two places."""
    assert set(DEFAULTS) - {"PRESETS"} == set(Settings.model_fields)
    settings = resolve_settings(DEFAULTS, "CPU")
    assert vars(settings).keys() == Settings.model_fields.keys()


def test_the_form_is_short_and_parameters_override_both_cells():
    """papermill adds the values of `make run` after the cell tagged parameters.

    So this cell must be the last of the two that hold settings.
    """
    # SEED stands in the form, AUG_AFFINE in the advanced cell, EPOCHS in a preset.
    given = {"SEED": 7, "AUG_AFFINE": 0.25, "EPOCHS": 2}
    book = papermill.iorw.load_notebook_node(str(TEXT.with_suffix(".ipynb")))
    cells = papermill.parameterize.parameterize_notebook(book, given).cells
    wanted = {"advanced", "parameters", "injected-parameters"}
    tagged = [cell for cell in cells if wanted & set(cell.metadata.get("tags", []))]
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
