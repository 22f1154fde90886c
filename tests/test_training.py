"""A training that is killed goes on where it was; one that fails says why."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

SETTINGS = {"PATIENCE": 1, "LEARNING_RATE": 0.01, "BATCH_SIZE": 8, "RUN_NAME": "tiny"}


class Lost(Exception):
    """Stands for a session that is lost."""


def train_tiny(notebook, folder, epochs=6, lost_at=None, lose=None, rate=0.01):
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

    class Fragile(notebook.ImageBatches):
        asked = 0

        def __getitem__(self, number):
            self.asked += 1
            if self.asked == lost_at:
                lose()
            return super().__getitem__(number)

    fit = Fragile([images], np.arange(45), labels[:45], 8, seed=3)
    holdout = notebook.ImageBatches([images], np.arange(45, 60), labels[45:], 8)
    settings = SimpleNamespace(**SETTINGS | {"LEARNING_RATE": rate})
    state = notebook.train(model, fit, holdout, epochs, folder, settings)
    table = notebook.finish_run(state, settings, "test", "0")
    return model, table.drop(columns="seconds")


def lose_session():
    raise Lost


def best_weights(folder):
    return keras.models.load_model(folder / "best.keras").get_weights()


@pytest.fixture(scope="module")
def undisturbed(notebook, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return train_tiny(notebook, folder), folder


@pytest.mark.parametrize("lost_at", [3, 9, 27])
def test_a_lost_training_ends_where_an_undisturbed_one_does(notebook, undisturbed, tmp_path, lost_at, capsys):
    """Lost in the first, the second and the fifth epoch; each has six batches, of which TensorFlow asks for some beforehand."""
    (model, table), folder = undisturbed
    with pytest.raises(Exception, match="Lost"):
        train_tiny(notebook, tmp_path, lost_at=lost_at, lose=lose_session)
    finished = json.loads(str(np.load(tmp_path / "training.npz")["record"]))["rows"] if (tmp_path / "training.npz").exists() else []
    assert lost_at < 6 or finished
    again, table_again = train_tiny(notebook, tmp_path)
    assert (f"Going on after epoch {len(finished)}" in capsys.readouterr().out) == bool(finished)
    pd.testing.assert_frame_equal(table, table_again, rtol=1e-5)
    assert table.learning_rate.nunique() > 1  # else this would not show that the callbacks remember
    for one, other in zip(model.get_weights() + best_weights(folder), again.get_weights() + best_weights(tmp_path)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.keras", "history.csv", "run.json"]


def test_a_training_with_other_settings_does_not_go_on(notebook, undisturbed, tmp_path, capsys):
    with pytest.raises(Exception, match="Lost"):
        train_tiny(notebook, tmp_path, lost_at=27, lose=lose_session, rate=0.02)
    _, table = train_tiny(notebook, tmp_path)
    assert "this one begins anew" in capsys.readouterr().out
    pd.testing.assert_frame_equal(table, undisturbed[0][1], rtol=1e-5)


def test_a_state_that_is_damaged_is_not_trusted(notebook, undisturbed, tmp_path):
    with pytest.raises(Exception, match="Lost"):
        train_tiny(notebook, tmp_path, lost_at=27, lose=lose_session)
    state = tmp_path / "training.npz"
    state.write_bytes(state.read_bytes()[:-3000])
    _, table = train_tiny(notebook, tmp_path)
    pd.testing.assert_frame_equal(table, undisturbed[0][1], rtol=1e-5)


@pytest.fixture
def at_step(notebook, monkeypatch):
    """Return a function that has something done to the model after one step of the training."""
    def arrange(step, action):
        class Action(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if int(self.model.optimizer.iterations) == step:
                    action(self.model)

        usual = notebook.make_callbacks
        monkeypatch.setitem(notebook.train.__globals__, "make_callbacks", lambda *arguments: [Action(), *usual(*arguments)])
    return arrange


def test_a_training_that_is_stopped_by_hand_keeps_its_best_epoch(notebook, at_step, tmp_path, capsys):
    at_step(21, lambda model: os.kill(os.getpid(), signal.SIGINT))
    _, table = train_tiny(notebook, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["ended"] == "stopped by hand" and len(table) == record["epochs"] == 3
    assert "Stopped by hand after 3 epochs" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.keras", "history.csv", "run.json"]


def test_stopping_before_the_first_epoch_has_ended_leaves_no_result(notebook, at_step, tmp_path):
    at_step(3, lambda model: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train_tiny(notebook, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [2, 15])
def test_a_loss_that_becomes_nan_stops_the_training_with_advice(notebook, at_step, tmp_path, capsys, step):
    """In the first epoch there is nothing to keep; in the third, the best of the two before is."""
    at_step(step, lambda model: model.layers[-1].bias.assign([float("nan")]))
    if step == 2:
        with pytest.raises(RuntimeError, match="smaller LEARNING_RATE"):
            train_tiny(notebook, tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        _, table = train_tiny(notebook, tmp_path)
        assert len(table) == 3 and "In epoch 3 the loss became NaN" in capsys.readouterr().out
        assert all(np.isfinite(weight).all() for weight in best_weights(tmp_path))


KILLED = """if True:
    import os, pathlib, signal, sys
    sys.path[:0] = sys.argv[1:3]
    import functions, numpy, test_training
    notebook = functions.load("train", "finish_run", "ImageBatches")
    folder, lost_at, broken_write = pathlib.Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
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
    test_training.train_tiny(notebook, folder, lost_at=lost_at, lose=die)"""


@pytest.mark.long
def test_a_process_killed_four_times_ends_where_an_undisturbed_one_does(undisturbed, tmp_path):
    """In mid-epoch, twice; while it writes its state; and in the first epoch after that; then it may finish."""
    (_, table), folder = undisturbed
    for lost_at, broken_write in ((15, 0), (10, 0), (0, 2), (2, 0), (0, 0)):
        done = subprocess.run([sys.executable, "-c", KILLED, ROOT / "notebooks", ROOT / "tests", tmp_path, str(lost_at), str(broken_write)],
                              capture_output=True, text=True, check=False)
        assert done.returncode == (-signal.SIGKILL if lost_at or broken_write else 0), done.stderr[-2000:]
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "history.csv").drop(columns="seconds"), rtol=1e-5)
    for one, other in zip(best_weights(folder), best_weights(tmp_path)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
