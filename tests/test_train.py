"""A training that is killed goes on where it was; one that fails says why."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from cxr import train as training
from cxr.batches import ImageBatches
from cxr.measure import predict_probabilities
from cxr.runs import finish_run
from cxr.train import describe_training, train

SETTINGS = {"PATIENCE": 1, "LEARNING_RATE": 0.01, "BATCH_SIZE": 8, "RUN_NAME": "tiny"}


class Lost(Exception):
    """Stands for a session that is lost."""


def train_tiny(folder, epochs=6, lost_at=None, lose=None, rate=0.01):
    """Train a network with everything that has a memory: dropout, augmentation, batch normalisation, Adam, a shuffled order.

    `lose` is called when the batch number `lost_at`, counted from the first epoch that this process trains, is asked for.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8, 1), np.uint8)
    labels = (images[:, :4].mean((1, 2, 3)) + generator.normal(0, 8, 60) > 127).astype(np.uint8)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.RandomTranslation(0.1, 0.1),
        keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.Flatten(), keras.layers.Dropout(0.3),
        keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.AdamW(rate), "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])

    class Fragile(ImageBatches):
        asked = 0

        def __getitem__(self, number):
            self.asked += 1
            if self.asked == lost_at:
                lose()
            return super().__getitem__(number)

    fit = Fragile([images], np.arange(45), labels[:45], 8, seed=3)
    holdout = ImageBatches([images], np.arange(45, 60), labels[45:], 8)
    settings = SimpleNamespace(**SETTINGS | {"LEARNING_RATE": rate})
    state = train(model, fit, holdout, epochs, folder, settings)
    table = finish_run(state, settings, "test", "0")
    return model, table.drop(columns="seconds")


def lose_session():
    raise Lost


def best_weights(folder):
    return keras.models.load_model(folder / "best.keras").get_weights()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return train_tiny(folder), folder


@pytest.mark.parametrize("lost_at", [3, 9, 27])
def test_a_lost_training_ends_where_an_undisturbed_one_does(undisturbed, tmp_path, lost_at, capsys):
    """Lost in the first, the second and the fifth epoch; each has six batches, of which TensorFlow asks for some beforehand."""
    (model, table), folder = undisturbed
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=lost_at, lose=lose_session)
    finished = json.loads(str(np.load(tmp_path / "training.npz")["record"]))["rows"] if (tmp_path / "training.npz").exists() else []
    assert lost_at < 6 or finished
    again, table_again = train_tiny(tmp_path)
    assert (f"Going on after epoch {len(finished)}" in capsys.readouterr().out) == bool(finished)
    pd.testing.assert_frame_equal(table, table_again, rtol=1e-5)
    assert table.learning_rate.nunique() > 1  # else this would not show that the callbacks remember
    for one, other in zip(model.get_weights() + best_weights(folder), again.get_weights() + best_weights(tmp_path)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.keras", "history.csv", "run.json"]


def test_a_training_with_other_settings_does_not_go_on(undisturbed, tmp_path, capsys):
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=27, lose=lose_session, rate=0.02)
    _, table = train_tiny(tmp_path)
    assert "this one begins anew" in capsys.readouterr().out
    pd.testing.assert_frame_equal(table, undisturbed[0][1], rtol=1e-5)


def test_a_state_that_is_damaged_is_not_trusted(undisturbed, tmp_path):
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=27, lose=lose_session)
    state = tmp_path / "training.npz"
    state.write_bytes(state.read_bytes()[:-3000])
    _, table = train_tiny(tmp_path)
    pd.testing.assert_frame_equal(table, undisturbed[0][1], rtol=1e-5)


LINE = (r"epoch +(\d+)/(\d+): loss (\d\.\d{3}), validation loss (\d\.\d{3}), accuracy (\d\.\d{3}), AUC (\d\.\d{4}); "
        r"rate (\de-\d\d); (\d+\.\d) min left at most")


def test_each_epoch_is_told_in_a_line(tmp_path, capsys):
    _, table = train_tiny(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(table) == 6
    for line, row in zip(lines, table.to_dict("records")):
        epoch, epochs, *scores, _ = map(float, re.fullmatch(LINE, line).groups())
        assert (epoch, epochs) == (row["epoch"], 6)
        expected = [row[name] for name in ("loss", "val_loss", "val_accuracy", "val_auc", "learning_rate")]
        assert scores == pytest.approx(expected, abs=5.1e-4)
    assert lines[-1].endswith(" 0.0 min left at most")


def test_the_minutes_left_count_the_epochs_before_an_interruption(tmp_path, capsys):
    """After four epochs that took 100 minutes each; what this process adds (seconds) does not matter."""
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=27, lose=lose_session)
    with np.load(tmp_path / "training.npz") as stored:
        content = dict(stored)
    record = json.loads(str(content["record"]))
    count = len(record["rows"])
    for epoch, row in enumerate(record["rows"], 1):
        row["seconds"] = 6000.0 * epoch
    np.savez(tmp_path / "training.npz", **content | {"record": np.array(json.dumps(record))})
    capsys.readouterr()
    train_tiny(tmp_path)
    _, *lines = capsys.readouterr().out.splitlines()
    told = [re.fullmatch(LINE, line).groups() for line in lines]
    assert [int(line[0]) for line in told] == list(range(count + 1, 7)) and count >= 2
    for epoch, *_, minutes in told:
        assert float(minutes) == pytest.approx(100 * count / int(epoch) * (6 - int(epoch)), abs=5)
    assert pd.read_csv(tmp_path / "history.csv").seconds.between(6000, 6000 * count + 600).all()


def test_what_decides_the_course_of_a_training_is_part_of_its_description():
    """One that was cut off does not go on where any of it is another."""
    def describe(rows=(0, 1, 2), labels=(0, 1, 1), holdout=(3,), units=3, epochs=4, **changed):
        model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(units)])
        images = np.zeros((5, 2, 2, 1), np.uint8)
        fit, validation = (ImageBatches([images], np.array(some), np.array(labels[:len(some)]), 2) for some in (rows, holdout))
        return describe_training(model, fit, validation, epochs, SimpleNamespace(**settings | changed))

    without_effect = dict.fromkeys(("PRESET", "DATA_DIR", "OUTPUT_DIR", "CACHE_DIR", "RESAMPLES", "EPOCHS", "BASELINE_EPOCHS"), "one")
    settings = without_effect | {"LEARNING_RATE": 0.01, "SEED": 0, "IMAGE_SIZE": 32}
    usual = describe()
    assert all(usual == describe(**{name: "another"}) for name in without_effect)
    others = ({"rows": (0, 1, 4)}, {"labels": (0, 1, 0)}, {"holdout": (4,)}, {"units": 4}, {"epochs": 5},
              {"LEARNING_RATE": 0.02}, {"SEED": 1}, {"IMAGE_SIZE": 64}, {"DROPOUT": 0.1})
    for other in others:
        assert describe(**other) != usual, other


def test_what_is_kept_is_the_network_without_its_augmentation(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1, activation="sigmoid")])
    whole = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.RandomTranslation(0.1, 0.1), network])
    whole.compile("sgd", "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
    batches = ImageBatches([images], np.arange(20), np.arange(20) % 2, 8)
    finish_run(train(whole, batches, batches, 1, tmp_path, SimpleNamespace(**SETTINGS)), SimpleNamespace(**SETTINGS), "test", "0")
    kept = keras.models.load_model(tmp_path / "best.keras")
    assert [type(layer).__name__ for layer in kept.layers] == ["Flatten", "Dense"]
    assert all(map(np.array_equal, kept.get_weights(), network.get_weights()))


def test_an_earlier_run_of_the_same_name_stays_until_a_new_one_has_ended(tmp_path):
    train_tiny(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=9, lose=lose_session)
    assert sorted(before) == ["best.keras", "history.csv", "run.json"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that has something done to the model after one step of the training."""
    def arrange(step, action):
        class Action(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if int(self.model.optimizer.iterations) == step:
                    action(self.model)

        usual = training.make_callbacks
        monkeypatch.setattr("cxr.train.make_callbacks", lambda *arguments: [Action(), *usual(*arguments)])
    return arrange


def test_a_training_that_is_stopped_by_hand_keeps_its_best_epoch(at_step, tmp_path, capsys):
    at_step(21, lambda model: os.kill(os.getpid(), signal.SIGINT))
    _, table = train_tiny(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["ended"] == "stopped by hand" and len(table) == record["epochs"] == 3
    assert "Stopped by hand after 3 epochs" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.keras", "history.csv", "run.json"]


def test_stopping_before_the_first_epoch_has_ended_leaves_no_result(at_step, tmp_path):
    at_step(3, lambda model: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [2, 15])
def test_a_loss_that_becomes_nan_stops_the_training_with_advice(at_step, tmp_path, capsys, step):
    """In the first epoch there is nothing to keep; in the third, the best of the two before is."""
    at_step(step, lambda model: model.layers[-1].bias.assign([float("nan")]))
    if step == 2:
        with pytest.raises(RuntimeError, match="smaller LEARNING_RATE"):
            train_tiny(tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        _, table = train_tiny(tmp_path)
        assert len(table) == 3 and "In epoch 3 the loss became NaN" in capsys.readouterr().out
        assert all(np.isfinite(weight).all() for weight in best_weights(tmp_path))


KILLED = """if True:
    import os, pathlib, signal, sys
    sys.path.insert(0, sys.argv[1])
    import numpy, test_train
    folder, lost_at, broken_write = pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    usual, count = numpy.savez, [0]

    def savez(file, **content):
        count[0] += 1
        if count[0] == broken_write:
            file.write(b"PK half a file")
            file.flush()
            die()
        usual(file, **content)

    numpy.savez = savez
    test_train.train_tiny(folder, lost_at=lost_at, lose=die)"""


@pytest.mark.long
def test_a_process_killed_four_times_ends_where_an_undisturbed_one_does(undisturbed, tmp_path):
    """In mid-epoch, twice; while it writes its state; and in the first epoch after that; then it may finish."""
    (_, table), folder = undisturbed
    for lost_at, broken_write in ((15, 0), (10, 0), (0, 2), (2, 0), (0, 0)):
        done = subprocess.run([sys.executable, "-c", KILLED, Path(__file__).parent, tmp_path, str(lost_at), str(broken_write)],
                              capture_output=True, text=True, check=False)
        assert done.returncode == (-signal.SIGKILL if lost_at or broken_write else 0), done.stderr[-2000:]
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "history.csv").drop(columns="seconds"), rtol=1e-5)
    for one, other in zip(best_weights(folder), best_weights(tmp_path)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_fit_takes_the_batches_in_their_order_epoch_after_epoch(tmp_path):
    """The same weights as from a loop of single steps over the orders that the seed gives."""
    generator = np.random.default_rng(0)
    arrays = [generator.integers(256, size=(count, 4, 4, 1), dtype=np.uint8) for count in (30, 11)]
    rows, labels = np.arange(41), generator.integers(2, size=41)

    def make_model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 1))
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
        model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
        return model

    model = make_model()
    fit = ImageBatches(arrays, rows, labels, 8, seed=5)
    train(model, fit, ImageBatches(arrays, rows, labels, 8), 3, tmp_path, SimpleNamespace(PATIENCE=3))
    by_hand, together = make_model(), np.concatenate(arrays)
    for epoch in range(3):
        order = np.random.default_rng((5, epoch)).permutation(41)
        for start in range(0, 41, 8):
            by_hand.train_on_batch(together[order[start: start + 8]], labels[order[start: start + 8]])
    for got, expected in zip(model.get_weights(), by_hand.get_weights()):
        assert np.allclose(got, expected, atol=1e-6)
    x = np.concatenate(arrays)
    assert np.allclose(predict_probabilities(model, x, batch_size=7), model.predict(x, verbose=0)[:, 0], atol=1e-6)
