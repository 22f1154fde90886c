"""The model card says what the record of the run says; other formats are right, or not there, or explained in a sentence."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

SCORES = ("accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "average_precision")


def make_report(**changes):
    """A report with a different number in every place."""
    def part(start):
        return {name: {"value": start + place / 100, "low": start + place / 100 - 0.031, "high": start + place / 100 + 0.017}
                for place, name in enumerate(SCORES)} | {"confusion_matrix": [[1, 2], [3, 4]]}

    return {"run": "mine", "data": "chest-xray-pneumonia", "official_split": True, "device": "GPU (T4)",
            "settings": {"EPOCHS": 77, "DROPOUT": 0.123, "DATA_DIR": "/home/somebody/secret", "OUTPUT_DIR": "/home/somebody/out"},
            "versions": {"keras": "3.99.1", "backend": "tensorflow"}, "seconds": {"6 Train": 600, "7 Evaluate": 30},
            "counts": {"train": {"NORMAL": 1341, "PNEUMONIA": 3875}, "val": {"NORMAL": 8, "PNEUMONIA": 9},
                       "test": {"NORMAL": 234, "PNEUMONIA": 390}, "validation": {"NORMAL": 201, "PNEUMONIA": 582}},
            "unreadable": [{"path": "a", "problem": "b"}] * 3, "temperature": 1.734,
            "calibration_error": {"before": 0.061, "after": 0.022, "test": 0.143},
            "shifts": {"unchanged": {"auc": 0.987}, "noisy": {"auc": 0.612}, "blurred": {"auc": 0.9}},
            "threshold": {"value": 0.4321, "how": "the way it was chosen"}, "validation": part(0.9), "test": part(0.7), **changes}


@pytest.fixture(scope="module")
def network(notebook):
    import keras
    keras.utils.set_random_seed(0)
    return notebook.build_cnn(32)


def test_the_card_holds_the_numbers_of_the_report(notebook, network):
    card = notebook.write_card(make_report(), network)
    for text in ("NOT intended for clinical use", "'mine'", f"{network.count_params():,} parameters", "(n, 32, 32, 1)", "1.734", "0.4321",
                 "the way it was chosen", "| `EPOCHS` | 77 |", "| `DROPOUT` | 0.123 |", "Keras 3.99.1", "GPU (T4)", "10.5 minutes",
                 "| train | 1341 | 3875 |", "| test | 234 | 390 |", "201 | 582", "3 files could not be read", "0.061", "0.022", "0.143",
                 "'noisy' was the worst, with an AUC of 0.612 instead of 0.987", "in the official split", "CC BY 4.0",
                 "arXiv:1810.03993", "| auc | 0.950 [0.919–0.967] | 0.750 [0.719–0.767] |"):
        assert text in card, text
    for name in SCORES:
        assert re.search(rf"^\| {name} \|( \d\.\d{{3}} \[\d\.\d{{3}}–\d\.\d{{3}}\] \|){{2}}$", card, re.M), name
    assert "PHANTOM" not in card and "somebody" not in card and "confusion" not in card


def test_a_card_of_phantoms_says_so_before_anything_else(notebook, network):
    card = notebook.write_card(make_report(data="phantom", official_split=False), network)
    lines = [line for line in card.splitlines() if line]
    assert lines[0].startswith("# Model card") and "PHANTOM" in lines[1] and "CC BY" not in card
    other = notebook.write_card(make_report(data="other", official_split=False), network)
    assert "PHANTOM" not in other and "Guangzhou" not in other
    part = notebook.write_card(make_report(official_split=False), network)
    assert "**not** in the official split" in part


@pytest.mark.parametrize("nothing", [float("nan"), None])
def test_what_was_not_measurable_is_called_so(notebook, network, nothing):
    report = make_report(shifts={"unchanged": {"auc": nothing}})
    report["test"]["auc"] = {"value": nothing, "low": nothing, "high": nothing}
    card = notebook.write_card(report, network)
    assert "| auc | 0.950 [0.919–0.967] | not measurable |" in card and "nan" not in card and "None" not in card


class Pretended:
    """A network that answers .5, and exports by writing a few bytes or raising an error."""

    def __init__(self, error=None):
        self.error = error

    def __call__(self, x, training):
        return np.full((len(x), 1), 0.5, np.float32)

    def export(self, path, format, verbose):
        Path(path).write_bytes(b"half of it")
        if self.error:
            raise self.error


def export(notebook, monkeypatch, folder, ask, error=None):
    """Export a pretended network beside a file of an earlier run; return the sentence."""
    (folder / "model.onnx").write_bytes(b"of an earlier run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(notebook.Formats, "known", {"onnx": ("model.onnx", {"tensorflow": ("onnx",)}, "onnxruntime", ask)})
    return notebook.export_network(Pretended(error), "onnx", folder, np.zeros((3, 32, 32, 1), np.float32))


def no_runtime(path, x):
    raise ImportError("No module named 'onnxruntime'")


@pytest.mark.parametrize("ask, error, words", [
    (lambda path, x: np.full((len(x), 1), 0.6), None, ["removed", "0.1"]),
    (lambda path, x: np.full((len(x), 1), np.nan), None, ["removed", "nan"]),
    (lambda path, x: np.full((len(x), 1), 0.5), NotImplementedError("no such layer\nat line 5"), ["converter failed", "no such layer"])])
def test_an_export_that_fails_leaves_no_file_and_a_sentence(notebook, monkeypatch, tmp_path, ask, error, words):
    said = export(notebook, monkeypatch, tmp_path, ask, error)
    assert said.startswith("model.onnx: ") and "\n" not in said and all(word in said for word in words)
    assert not list(tmp_path.iterdir())


def test_an_export_is_tried_where_a_runtime_is_there_and_says_what_is_missing_else(notebook, monkeypatch, tmp_path):
    assert "same probabilities on 3" in export(notebook, monkeypatch, tmp_path, lambda path, x: np.full((len(x), 1), 0.50001))
    assert "pip install onnxruntime" in export(notebook, monkeypatch, tmp_path, no_runtime)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"half of it"


def test_missing_packages_and_other_backends_are_a_sentence(notebook, monkeypatch, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"of an earlier run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = notebook.export_network(Pretended(), "onnx", tmp_path, None)
    assert "pip install onnx" in said and not list(tmp_path.iterdir())
    monkeypatch.setattr("keras.backend.backend", lambda: "numpy")
    assert "not from numpy" in notebook.export_network(Pretended(), "litert", tmp_path, None)


def test_a_copy_without_half_precision_has_the_same_weights(notebook):
    with notebook.use_precision("mixed_bfloat16"):
        half = notebook.build_cnn(32)
    plain = notebook.without_half_precision(half)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"} and half.get_layer("stem_conv").compute_dtype == "bfloat16"
    assert all(np.array_equal(one, other) for one, other in zip(half.get_weights(), plain.get_weights()))


@pytest.mark.long
@pytest.mark.parametrize("form, modules", [("onnx", ("tf2onnx", "onnx", "onnxruntime")), ("litert", ("tensorflow",))])
def test_a_real_export_gives_the_same_probabilities(notebook, network, tmp_path, form, modules):
    for module in modules:
        pytest.importorskip(module)
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1)).astype(np.float32)
    said = notebook.export_network(notebook.without_half_precision(network), form, tmp_path, x)
    assert "the same probabilities on 4 pictures" in said, said
    (written,) = tmp_path.iterdir()
    assert written.name == notebook.Formats.known[form][0] and written.stat().st_size > 1e6
