"""What the benchmarks of the training count and tell."""

import json

import cv2
import epochs
import keras
import numpy as np
import pandas as pd
import peers
import training
import views
from sklearn.metrics import roc_auc_score

from cxr.measure import predict_probabilities
from cxr.network import build_cnn
from cxr.shift import look_closer


def test_the_kaggle_network_has_as_many_parameters_as_its_author_printed():
    assert peers.kaggle(keras, (0.26, 0.74), None).model.count_params() == 1_246_401


def test_each_way_to_choose_an_epoch_takes_the_lowest_of_its_own_losses():
    rows = pd.DataFrame({"seed": 0, "epoch": [1, 2, 3, 4], "auc": [0.8, 0.9, 0.96, 0.95], 0: [0.5, 0.1, 0.3, 0.2], 1: [0.6, 0.4, 0.3, 0.5],
                         3: [0.6, 0.5, 0.4, 0.3]})
    assert list(epochs.choose(rows).values()) == [(2, 0.9), (3, 0.96), (4, 0.95), (4, 0.95), (3, 0.96)]
    other = rows.assign(seed=1, auc=[0.7, 0.8, 0.86, 0.85])
    table = epochs.tabulate(pd.concat([rows, other], ignore_index=True)).split("\n")
    assert table[0].count("|") == table[1].count("|") == table[2].count("|") == 5
    assert table[2] == "| held-out films as they are | 2, 0.9000 | 2, 0.8000 | 0.8500 ± 0.0707 |"


def test_the_table_of_peers_says_when_ours_was_as_good():
    """Ours has an AUC of 0.9 after two minutes, and of 0.97 at the end."""
    def network(size, aucs, ended="all epochs"):
        scores = {name: {"value": aucs[-1], "low": 0.5, "high": 1.0} for name in ("auc", "accuracy", "sensitivity", "specificity")}
        curve = [{"seconds": 60.0 * minute, "epoch_seconds": 60.0, "auc": auc} for minute, auc in enumerate(aucs, start=1)]
        return {"size": size, "parameters": 1234, "scores": scores, "curve": curve, "epochs": len(aucs), "wanted": 3, "ended": ended,
                "peak_mb": 100}

    lines = peers.tabulate({"ours": network(128, [0.8, 0.91, 0.97]), "ancestor": network(150, [0.85, 0.9], "time"),
                            "kaggle": network(150, [0.9, 0.95, 0.98])}).splitlines()
    ours, ancestor, kaggle = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    assert ours[3] == "0.970 [0.500, 1.000]" and ours[9:11] == ["3.0", "–"]
    assert ancestor[7] == "2 of 3 (time)" and ancestor[10] == "2.0"
    assert kaggle[7] == "3 of 3" and kaggle[10] == "never"


def test_peers_are_asked_for_left_out_films_that_teach_nothing(tmp_path):
    """Films of "test" are neither learnt from nor held out; without being asked for, they are not even read. The table has their scores."""
    for split, numbers in (("train", range(20)), ("test", range(20, 26))):
        for number in numbers:
            for name in (f"NORMAL/IM-{number:04}-0001.png", f"PNEUMONIA/person{number}_virus_1.png"):
                path = tmp_path / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(number + 100 * ("person" in name)).integers(256, size=(32, 32), dtype=np.uint8)
                cv2.imwrite(str(path), noise)
    images, labels, part, files = peers.load_pool(tmp_path, 32, "", test=True)
    assert len(images) == len(labels) == 52 and set(part[files.split == "test"]) == {"test"}
    assert set(part[files.split == "train"]) == {"fit", "holdout"}
    closed = peers.load_pool(tmp_path, 32, "")
    assert not (closed[3].split == "test").any() and list(closed[2]) == list(part[files.split == "train"])

    one = {"size": 9, "epochs": 2, "wanted": 3, "ended": "time", "curve": [{"seconds": 90.0}],
           "scores": {"auc": {"value": 0.99, "low": 0.98, "high": 1.0}},
           "left_out": {name: {"value": value, "low": 0.5, "high": 0.9}
                        for name, value in (("auc", 0.8), ("sensitivity", 0.7), ("specificity", 0.6))}}
    cells = [cell.strip() for cell in peers.tabulate_left_out({"kaggle": one}).splitlines()[2].strip("|").split("|")]
    scores = ["0.990 [0.980, 1.000]", "0.800 [0.500, 0.900]", "0.700 [0.500, 0.900]", "0.600 [0.500, 0.900]"]
    assert cells[1:] == ["9", *scores, "2 of 3 (time)", "1.5"]


def test_the_operations_of_a_step_are_counted():
    """By hand: 8 × 8 places × 18 weights, then 128 weights; a product and a sum each, three times (forward and two gradients)."""
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, padding="same"), keras.layers.BatchNormalization(),
                                keras.layers.Flatten(), keras.layers.Dense(1)])
    assert training.count_step(network) == (3 * 2 * (64 * 18 + 128), 3 * (64 + 128 + 128 + 1))


def test_a_kept_run_is_asked_with_its_own_network_about_its_own_films(tmp_path):
    """Rows of predictions.csv in another order than the files have; threshold and scores are those of each number of views."""
    generator, rows = np.random.default_rng(0), []
    for number in range(12):
        for name in (f"NORMAL/IM-{number:04}-0001.png", f"PNEUMONIA/person{number}_virus_1.png"):
            path = tmp_path / "data" / ("test" if number < 6 else "train") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(generator.integers(256, size=(9, 9), dtype=np.uint8), (32, 32)))
            rows.append({"split": "test" if number < 6 else "validation", "path": str(path.relative_to(tmp_path / "data")),
                         "label": int("person" in name), "probability": 0.5})
    folder = tmp_path / "run"
    (folder / "runs/mine").mkdir(parents=True)
    network = build_cnn(32)
    network.save(folder / "runs/mine/best.keras")
    pd.DataFrame(rows[::-1]).to_csv(folder / "predictions.csv", index=False)
    settings = {"DATA_DIR": str(tmp_path / "data"), "CACHE_DIR": "", "IMAGE_SIZE": 32, "GEOMETRY": "squash", "RUN_NAME": "mine"}
    (folder / "metrics.json").write_text(json.dumps({"settings": settings, "test": {}}))
    runs = views.ask(folder, [1, 3])
    for number, run in runs.items():
        table = run["predictions"]
        x = np.stack([cv2.imread(str(tmp_path / "data" / path), cv2.IMREAD_GRAYSCALE) for path in table.path])[..., None]
        assert np.allclose(table.probability, predict_probabilities(look_closer(network, number), x), atol=1e-6)
        assert all(table.label == table.path.str.contains("person")) and len(table) == 24
        test = table[table.split == "test"]
        assert np.isclose(run["test"]["auc"]["value"], roc_auc_score(test.label, test.probability))
        hits = (test.probability[test.label == 1] >= run["threshold"]["value"]).mean()
        assert run["test"]["sensitivity"]["value"] == hits
    assert not np.allclose(runs[1]["predictions"].probability, runs[3]["predictions"].probability)
    assert (runs[1]["predictions"].patient == runs[3]["predictions"].patient).all() and runs[1]["predictions"].patient.nunique() == 24
