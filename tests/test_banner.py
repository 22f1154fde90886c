"""The figures of the README and of the first cell show phantoms and nothing else."""

import json

import banner
import numpy as np
import pandas as pd
import pytest
from PIL import Image


@pytest.fixture
def outputs(tiny, tmp_path, monkeypatch):
    """The outputs of a run on phantoms, with one error; the network is replaced."""
    files = sorted((tiny / "test").glob("*/*"))
    predictions = pd.DataFrame(
        {
            "split": "test",
            "path": [str(file.relative_to(tiny)) for file in files],
            "label": [int(file.parent.name == "PNEUMONIA") for file in files],
        }
    )
    predictions["probability"] = 0.1 + 0.8 * predictions.label
    predictions.loc[0, "probability"] = 0.9
    predictions.to_csv(tmp_path / "predictions.csv", index=False)
    history = pd.DataFrame({"epoch": [1, 2], "loss": [2, 1], "val_loss": [3, 2]})
    history.to_csv(tmp_path / "history.csv", index=False)
    report = {
        "data": "phantom",
        "threshold": {"value": 0.5},
        "settings": {"DATA_DIR": str(tiny), "IMAGE_SIZE": 32},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    monkeypatch.setattr(banner, "DOCS", tmp_path)
    monkeypatch.setattr(banner, "load_model", lambda path: None)
    monkeypatch.setattr(banner, "grad_cam", lambda model, x, _: np.ones(x.shape[:3]))
    return tmp_path


def test_both_figures_are_drawn(outputs):
    banner.main([str(outputs)])
    for name in ("banner.png", "first_screen.png"):
        assert Image.open(outputs / name).mode == "P"


def test_one_correct_prediction_of_each_finding_and_one_error_are_chosen(outputs):
    predictions = pd.read_csv(outputs / "predictions.csv")
    chosen = banner.choose_images(predictions, 0.5)
    assert chosen.finding.is_unique and {"error", "normal"} < set(chosen.finding)
    assert chosen.index[chosen.finding == "error"].tolist() == [0]


@pytest.mark.parametrize("data", ["chest-xray-pneumonia", "other"])
def test_a_run_on_other_images_is_refused(outputs, data):
    path = outputs / "metrics.json"
    path.write_text(path.read_text().replace("phantom", data), encoding="utf-8")
    with pytest.raises(SystemExit, match="is not a phantom"):
        banner.main([str(outputs)])
    assert not (outputs / "banner.png").exists()


def test_an_image_without_the_mark_of_a_phantom_is_refused(outputs, tiny):
    for path in (tiny / "test").glob("*/*"):
        path.write_bytes(path.read_bytes().replace(b"PHANTOM", b"SOMEONE"))
    with pytest.raises(SystemExit, match="is not a phantom"):
        banner.main([str(outputs)])
    assert not (outputs / "banner.png").exists()
