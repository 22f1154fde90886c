"""The benchmark of public networks: split, time limit and table."""

import keras
import numpy as np
import pandas as pd
import peers
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score


def test_the_kaggle_network_has_as_many_parameters_as_its_author_printed():
    model = peers.kaggle(keras, np.array([0.26, 0.74])).model
    assert model.count_params() == 1_246_401


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Images of noise at 32 pixels, brighter where the label is 1."""
    monkeypatch.setattr(peers, "SIZE", 32)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(30):
        folder = "test" if number < 6 else "train"
        for label, name in enumerate(
            ("NORMAL/IM-{:04}-01", "PNEUMONIA/person{}_virus_1")
        ):
            path = tmp_path / folder / f"{name.format(number)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = generator.integers(128, size=(32, 32)) + 100 * label
            Image.fromarray(noise.astype(np.uint8)).save(path)
            if number < 12:
                split = "test" if number < 6 else "validation"
                rows.append((split, str(path.relative_to(tmp_path))))
    predictions = pd.DataFrame(rows, columns=["split", "path"])
    return peers.load_images(tmp_path, predictions, ""), predictions


def test_peers_are_trained_on_none_of_the_images_on_which_the_notebook_was_scored(
    loaded,
):
    loaded, predictions = loaded
    for split, table in predictions.groupby("split"):
        assert set(loaded[split][1].path) == set(table.path)
    assert not set(loaded["train"][1].path) & set(predictions.path)
    assert [len(images) for images, _ in loaded.values()] == [36, 12, 12]
    for images, files in loaded.values():
        assert ((images.mean(axis=(1, 2, 3)) > 100) == files.label).all()


def test_a_peer_stops_in_time_and_its_predictions_are_those_that_are_scored(
    loaded, monkeypatch
):
    """The network is one unit; it separates bright from dark images."""

    def tiny(keras, fractions):
        assert fractions.tolist() == [0.5, 0.5]
        layers = [
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Rescaling(1 / 255),
        ]
        last = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")
        model = keras.Sequential([keras.Input((32, 32, 1)), *layers, last])
        model.compile("sgd", "binary_crossentropy")
        return peers.SimpleNamespace(
            model=model, epochs=50, batch=8, callbacks=[], class_weight=None
        )

    monkeypatch.setitem(peers.NETWORKS, "kaggle", tiny)
    result = peers.train("kaggle", loaded[0], 1e-9, 0)
    assert result["epochs"] == "1 of 50" and result["parameters"] == 2
    predictions = result["predictions"]
    sizes = predictions.groupby("split").size().to_dict()
    assert sizes == {"test": 12, "validation": 12}
    assert roc_auc_score(predictions.label, predictions.probability) == 1
    lines = peers.tabulate({"kaggle": result}, "left out", 0).splitlines()
    header, cells = ([cell.strip() for cell in lines[row].split("|")] for row in (0, 2))
    row = dict(zip(header, cells))
    assert row["validation AUC"].startswith("1.000 [")
    assert row["left out AUC"].startswith("1.000 [")
    assert row["left out sensitivity"].startswith("1.000 [")
