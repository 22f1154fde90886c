"""What the benchmarks of the training count and tell."""

import keras
import peers
import training


def test_the_kaggle_network_has_as_many_parameters_as_its_author_printed():
    assert peers.kaggle(keras, (0.26, 0.74), None).model.count_params() == 1_246_401


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


def test_the_operations_of_a_step_are_counted():
    """By hand: 8 × 8 places × 18 weights, then 128 weights; a product and a sum each, three times (forward and two gradients)."""
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, padding="same"), keras.layers.BatchNormalization(),
                                keras.layers.Flatten(), keras.layers.Dense(1)])
    assert training.count_step(network) == (3 * 2 * (64 * 18 + 128), 3 * (64 + 128 + 128 + 1))
