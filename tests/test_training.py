"""A training that is killed goes on where it was; one that fails says why."""

import contextlib
import errno
import io
import json
import pickle
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import crash_points
import keras
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout

from cxr.augmentation import make_augmentation
from cxr.batches import ImageBatches
from cxr.evaluation import predict_probabilities
from cxr.runs import lock_run, read_record, save_predictions
from cxr.storage import StorageError, recover_interrupted_write
from cxr.training import TrainingRun, make_callbacks, training_fingerprint

SETTINGS = {"PATIENCE": 1, "LEARNING_RATE": 0.01, "BATCH_SIZE": 8, "RUN_NAME": "tiny"}


class Lost(Exception):
    """Stands for a session that is lost."""


def train(model, fit, holdout, epochs, folder, settings, *first):
    """Train as section 6 does, with more callbacks in front; return the run."""
    callbacks = [*first, *make_callbacks(folder, settings.PATIENCE)]
    with TrainingRun(
        folder,
        model,
        callbacks,
        epochs,
        fit,
        holdout,
        settings,
        {"data": "test", "holdout": "0"},
    ) as run:
        model.fit(
            fit,
            validation_data=holdout,
            epochs=epochs,
            initial_epoch=run.first_epoch,
            callbacks=[*callbacks, run],
            shuffle=False,
            verbose=0,
        )
    return run


def train_tiny(folder, *first, epochs=6, lost_at=None, lose=None, rate=0.005):
    """Train a network with everything that has a memory: dropout, augmentation, batch normalization, Adam, a shuffled order.

    `lose` is called when the batch number `lost_at`, counted from the first epoch that this process trains, is asked for.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8, 1), np.uint8)
    labels = (images[:, :4].mean((1, 2, 3)) + generator.normal(0, 8, 60) > 127).astype(
        np.uint8
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        keras.optimizers.AdamW(rate),
        "binary_crossentropy",
        metrics=["accuracy", keras.metrics.AUC(name="auc")],
    )

    class Fragile(ImageBatches):
        asked = 0

        def __getitem__(self, number):
            self.asked += 1
            if self.asked == lost_at:
                lose()
            return super().__getitem__(number)

    fit = Fragile(
        [images],
        np.arange(45),
        labels[:45],
        8,
        seed=3,
        augmentation=make_augmentation(0.1, 0.1, 0.1),
    )
    holdout = ImageBatches([images], np.arange(45, 60), labels[45:], 8)
    settings = SimpleNamespace(**SETTINGS | {"LEARNING_RATE": rate})
    run = train(model, fit, holdout, epochs, folder, settings, *first)
    return model, run.history.drop(columns="seconds")


def lose_session():
    raise Lost


def best_weights(folder):
    return keras.models.load_model(folder / "best.keras").get_weights()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return train_tiny(folder), folder


@pytest.mark.parametrize("lost_at", [3, 9, 27])
def test_a_lost_training_ends_where_an_undisturbed_one_does(
    undisturbed, tmp_path, lost_at, capsys
):
    """Lost in the first, the second and the fifth epoch; each has six batches, of which TensorFlow asks for some beforehand."""
    (model, table), folder = undisturbed
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=lost_at, lose=lose_session)
    finished = (
        json.loads(str(np.load(tmp_path / "training.npz")["record"]))["rows"]
        if (tmp_path / "training.npz").exists()
        else []
    )
    assert lost_at < 6 or finished
    again, table_again = train_tiny(tmp_path)
    assert (f"Going on after epoch {len(finished)}" in capsys.readouterr().out) == bool(
        finished
    )
    pd.testing.assert_frame_equal(table, table_again, rtol=1e-5)
    assert (
        table.learning_rate.nunique() > 1
    )  # else this would not show that the callbacks remember
    for one, other in zip(
        model.get_weights() + best_weights(folder),
        again.get_weights() + best_weights(tmp_path),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert sorted(crash_points.look(tmp_path)) == [
        "best.keras",
        "history.csv",
        "run.json",
    ]


def test_with_metrics_that_are_objects_tensorflow_traces_the_step_only_once(tmp_path):
    """A trace of the residual CNN takes seconds. A metric given by its name makes variables in the first, and asks for a second."""

    class Counting(keras.layers.Layer):
        traces = 0

        def call(self, x, training=False):
            Counting.traces += bool(training)
            return x

    inputs = keras.Input((2, 2, 1))
    model = keras.Model(
        inputs,
        keras.layers.Dense(1, activation="sigmoid")(
            keras.layers.Flatten()(Counting()(inputs))
        ),
    )
    model.compile(
        keras.optimizers.AdamW(0.1),
        "binary_crossentropy",
        weighted_metrics=[
            keras.metrics.BinaryAccuracy(name="accuracy"),
            keras.metrics.AUC(name="auc"),
        ],
    )
    labels = (PIXELS.mean((1, 2, 3)) > 127).astype(np.uint8)
    fit, holdout = (
        ImageBatches([PIXELS], np.arange(12), labels, 6, seed) for seed in (1, None)
    )
    train(
        model, fit, holdout, 2, tmp_path, SimpleNamespace(PATIENCE=9, LEARNING_RATE=0.1)
    )
    assert Counting.traces == 1


def test_a_training_with_other_settings_does_not_go_on(undisturbed, tmp_path, capsys):
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=15, lose=lose_session, rate=0.02)
    _, table = train_tiny(tmp_path)
    assert "this one begins anew" in capsys.readouterr().out
    pd.testing.assert_frame_equal(table, undisturbed[0][1], rtol=1e-5)


RUN = ("best.keras", "history.csv", "run.json", "validation.csv")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 1), np.uint8)


def train_mini(folder, epochs=2, rate=0.2, pixels=PIXELS):
    """A training of 2 epochs, the second the better one, in a quarter of a second; beside `folder` are those of other runs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    quick = keras.metrics.BinaryAccuracy(name="auc")  # stands for it
    model.compile(
        keras.optimizers.SGD(rate),
        "binary_crossentropy",
        metrics=["accuracy", quick],
        run_eagerly=True,
    )
    labels = (PIXELS.mean((1, 2, 3)) > 127).astype(np.uint8)
    fit, holdout = (
        ImageBatches([pixels], np.arange(12), labels, 12, seed) for seed in (1, None)
    )
    settings = SimpleNamespace(PATIENCE=9, LEARNING_RATE=rate)
    return train(model, fit, holdout, epochs, folder, settings).history


def describe(folder):
    """What a run is, without what differs whenever it is repeated; it must fit together."""
    record, _ = read_record(folder)
    model = keras.models.load_model(folder / "best.keras")
    labels = (PIXELS.mean((1, 2, 3)) > 127).astype(np.float32)
    loss = float(keras.losses.BinaryCrossentropy()(labels[:, None], model(PIXELS)))
    history = pd.read_csv(folder / "history.csv")
    assert loss == pytest.approx(history.val_loss.min(), rel=1e-5) and record[
        "epochs"
    ] == len(history)
    assert int(history.epoch[history.val_loss.idxmin()]) == record["best_epoch"]
    changing = dict.fromkeys(("trained", "validated", "seconds", "files"), 0)
    answers = (
        (folder / "validation.csv").read_text()
        if (folder / "validation.csv").exists()
        else None
    )
    return [
        *(weight.tolist() for weight in model.get_weights()),
        history.drop(columns="seconds").to_dict(),
        record | changing,
        answers,
    ]


@pytest.fixture
def earlier(tmp_path):
    """The folder of a run that has been trained, with other settings, and validated."""
    folder = tmp_path / "runs/mini"
    train_mini(folder, 1, 0.1)
    files = pd.DataFrame(
        {"path": ["a"], "label": [1], "patient": ["x"], "width": [9], "height": [9]}
    )
    save_predictions(
        folder, json.loads((folder / "run.json").read_text()), files, np.array([0.5])
    )
    assert sorted(crash_points.look(folder)) == sorted(RUN)
    return folder


def test_a_training_killed_at_any_change_of_a_file_leaves_the_old_run_or_the_new_one_and_ends_as_if_undisturbed(
    earlier, tmp_path, capsys
):
    """At seven instants: what a reader finds, and where the same command leads."""
    found = crash_points.list_cuts(earlier, lambda: train_mini(earlier), count=7)
    old, new, undisturbed = found[0], found[-1], describe(earlier)
    assert (
        sorted(new) == sorted(RUN[:3])
        and len(found) == 7
        and undisturbed[3]["best_epoch"] == 2
    )
    switched = []
    for number, files in enumerate(found):
        again = tmp_path / f"again/{number}/mini"
        crash_points.restore(again, files)
        assert "run.json" not in files or {
            name: content for name, content in files.items() if name in RUN
        } in (old, new), number
        with lock_run(again):
            run = {
                name: content
                for name, content in crash_points.look(again).items()
                if name in RUN
            }
        assert run in (old, new), (number, sorted(files))
        switched.append(run == new)
        crash_points.restore(again, files)
        capsys.readouterr()
        train_mini(again)
        assert ("Going on after epoch" in capsys.readouterr().out) == (
            "training.npz" in files
        ), (number, sorted(files))
        assert describe(again) == undisturbed, (number, sorted(files))
        assert sorted(crash_points.look(again)) == sorted(RUN[:3]), (
            number,
            sorted(files),
        )
    assert switched == sorted(switched) and set(switched) == {False, True}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), None]
)
def test_a_disk_that_is_full_from_any_change_of_a_file_on_costs_nothing(
    earlier, tmp_path, capsys, error
):
    """The change is refused, or (None) files that grow are cut after ten bytes; then there is room again, and the training goes on."""
    start, old = crash_points.look(earlier), describe(earlier)
    train_mini(earlier)
    new = describe(earlier)
    for number in (0, 1, 3, 6, 9):
        folder = tmp_path / f"again/{number}/mini"
        crash_points.restore(folder, start)
        told = pytest.raises(
            StorageError,
            match=rf"{folder.resolve()} is full: free some space and run this again",
        )
        with (
            crash_points.full_disk(folder, number, error),
            told if error else contextlib.suppress(StorageError),
        ):
            train_mini(folder)
        recover_interrupted_write(folder)
        assert describe(folder) in (old, new), number
        train_mini(folder)
        assert describe(folder) == new and sorted(crash_points.look(folder)) == sorted(
            RUN[:3]
        ), number


def test_a_training_stopped_by_hand_at_any_change_of_a_file_counts_with_the_network_that_its_record_describes(
    earlier, tmp_path, capsys
):
    start, counted = crash_points.look(earlier), set()
    for number in range(3, 20):
        folder = tmp_path / f"again/{number}/mini"
        crash_points.restore(folder, start)
        with (
            crash_points.full_disk(folder, number, KeyboardInterrupt()),
            contextlib.suppress(KeyboardInterrupt),
        ):
            train_mini(folder)
        recover_interrupted_write(folder)
        counted.add((describe(folder)[3]["ended"], describe(folder)[3]["epochs"]))
    assert {
        ("all epochs", 1),
        ("stopped by hand", 1),
        ("stopped by hand", 2),
    } <= counted  # the first: the earlier run


def test_in_a_run_without_a_hand_to_stop_it_ctrl_c_is_a_cut_like_any_other(
    earlier, tmp_path, monkeypatch, capsys
):
    """CXR_HEADLESS: the same command goes on where it stopped."""
    monkeypatch.setenv("CXR_HEADLESS", "1")
    start, kept = crash_points.look(earlier), []
    train_mini(earlier)
    undisturbed = describe(earlier)
    for number in (0, 2, 4, 7, 10):
        crash_points.restore(earlier, start)
        with (
            pytest.raises(KeyboardInterrupt),
            crash_points.full_disk(earlier, number, KeyboardInterrupt()),
        ):
            train_mini(earlier)
        assert "Stopped by hand" not in capsys.readouterr().out
        kept.append((earlier / "training.npz").exists())
        train_mini(earlier)
        assert ("Going on after epoch" in capsys.readouterr().out) == kept[-1]
        assert describe(earlier) == undisturbed
    assert kept == sorted(kept) and set(kept) == {False, True}


@pytest.fixture
def cut(tmp_path):
    """The folder of a training that was cut off after all of its epochs, and what it leads to."""
    folder = tmp_path / "runs/mini"
    found = crash_points.list_cuts(folder.parent, lambda: train_mini(folder))
    expected = describe(folder)
    ended = next(files for files in found if "mini/together.unfinished" in files)
    crash_points.restore(folder.parent, ended)
    return folder, expected


def damage(content, kind):
    if kind == "flipped":
        half = len(content) // 2
        return content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
    array = io.BytesIO()
    np.save(array, np.arange(3))
    return {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "text": b"not an archive",
        "zeros": bytes(len(content)),
        "pickle": pickle.dumps([1]),
        "array": array.getvalue(),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["empty", "cut", "flipped", "text", "zeros", "pickle", "array"]
)
def test_a_state_that_is_damaged_is_not_trusted_and_that_is_said(cut, capsys, kind):
    folder, expected = cut
    (folder / "training.npz").write_bytes(
        damage((folder / "training.npz").read_bytes(), kind)
    )
    capsys.readouterr()
    train_mini(folder)
    first, *epochs = capsys.readouterr().out.splitlines()
    assert (
        first
        == f"The unfinished training in {folder} cannot be read (training.npz is damaged): this one begins anew."
    )
    assert len(epochs) == 2 and describe(folder) == expected


def test_any_single_byte_that_is_wrong_in_a_state_is_noticed_or_without_effect(
    cut, capsys
):
    """The archive's own padding and times may be anything."""
    folder, expected = cut
    whole, kept = crash_points.look(folder), (folder / "training.npz").read_bytes()
    for place in range(0, len(kept), len(kept) // 5):
        crash_points.restore(folder, whole)
        (folder / "training.npz").write_bytes(
            kept[:place] + bytes([kept[place] ^ 0xFF]) + kept[place + 1 :]
        )
        train_mini(folder)
        assert describe(folder) == expected


def test_half_a_checkpoint_of_an_epoch_that_was_cut_off_is_never_taken_for_a_better_one(
    tmp_path,
):
    """At this rate the second epoch is worse than the first, so it leaves no checkpoint of its own."""
    folder = tmp_path / "runs/mini"
    found = crash_points.list_cuts(folder.parent, lambda: train_mini(folder, rate=20.0))
    expected = describe(folder)
    crash_points.restore(
        folder.parent,
        next(
            files
            for files in found
            if "mini/training.npz" in files and "mini/epoch.keras" not in files
        ),
    )
    (folder / "epoch.keras").write_bytes(b"PK half a checkpoint")
    train_mini(folder, rate=20.0)
    assert (
        describe(folder) == expected
        and expected[3]["best_epoch"] == 1
        and expected[3]["epochs"] == 2
    )


def test_a_training_does_not_go_on_with_other_pictures_of_the_same_names(cut, capsys):
    folder, _ = cut
    other = PIXELS.copy()
    other[7, 1, 1] ^= 1
    capsys.readouterr()
    train_mini(folder, pixels=other)
    assert (
        "had other settings or images: this one begins anew" in capsys.readouterr().out
    )


def is_free(folder):
    """Whether another process could train in the folder: a second lock asks, as one of another process would."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            return True
    except Timeout:
        return False


def test_a_folder_is_locked_while_a_training_has_not_been_put_in_place_and_not_longer(
    earlier, capsys
):
    seen = []
    with crash_points.watch(earlier, lambda path: seen.append(is_free(earlier))):
        train_mini(earlier)
    assert set(seen[1:]) == {False} and is_free(earlier)
    for error in (OSError(errno.ENOSPC, ""), KeyboardInterrupt(), Lost()):
        for number in (1, 6):
            with (
                pytest.raises((StorageError, KeyboardInterrupt, Lost)),
                crash_points.full_disk(earlier, number, error),
            ):
                train_mini(earlier, rate=0.3)
            assert is_free(earlier)


WAITING = """if True:
    import pathlib, sys
    import test_train
    test_train.train_mini(pathlib.Path(sys.argv[1]))"""


def test_a_second_process_says_that_it_waits_and_then_trains_its_own_run(
    tmp_path, capsys
):
    folder, second = tmp_path / "runs/mini", []

    def start(path):
        if (
            path and path.name == "best.keras" and not second
        ):  # the first process is about to end its training
            second.append(
                subprocess.Popen(
                    [sys.executable, "-c", WAITING, folder],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            assert (
                second[0].stdout.readline()
                == f"Another process is training in {folder}: waiting until it has finished.\n"
            )

    with crash_points.watch(folder, start):
        train_mini(folder, rate=0.1)
    first = (folder / "best.keras").read_bytes()
    told, _ = second[0].communicate()
    assert (
        second[0].returncode == 0 and "epoch   2/2" in told and "Going on" not in told
    )
    assert (folder / "best.keras").read_bytes() != first and describe(folder)[3][
        "settings"
    ]["LEARNING_RATE"] == 0.2


LINE = (
    r"epoch +(\d+)/(\d+): loss (\d\.\d{3}), validation loss (\d\.\d{3}), accuracy (\d\.\d{3}), AUC (\d\.\d{4}); "
    r"rate (\de-\d\d); (\d+\.\d) min left at most"
)


def test_each_epoch_is_told_in_a_line(tmp_path, capsys):
    _, table = train_tiny(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(table) == 6
    for line, row in zip(lines, table.to_dict("records")):
        epoch, epochs, *scores, _ = map(float, re.fullmatch(LINE, line).groups())
        assert (epoch, epochs) == (row["epoch"], 6)
        expected = [
            row[name]
            for name in ("loss", "val_loss", "val_accuracy", "val_auc", "learning_rate")
        ]
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
    np.savez(
        tmp_path / "training.npz", **content | {"record": np.array(json.dumps(record))}
    )
    capsys.readouterr()
    train_tiny(tmp_path)
    _, *lines = capsys.readouterr().out.splitlines()
    told = [re.fullmatch(LINE, line).groups() for line in lines]
    assert [int(line[0]) for line in told] == list(range(count + 1, 7)) and count >= 2
    for epoch, *_, minutes in told:
        assert float(minutes) == pytest.approx(
            100 * count / int(epoch) * (6 - int(epoch)), abs=5
        )
    assert (
        pd.read_csv(tmp_path / "history.csv")
        .seconds.between(6000, 6000 * count + 600)
        .all()
    )


def test_what_decides_the_course_of_a_training_is_part_of_its_description():
    """One that was cut off does not go on where any of it is another."""

    def describe(
        rows=(0, 1, 2), labels=(0, 1, 1), holdout=(3,), units=3, epochs=4, **changed
    ):
        model = keras.Sequential(
            [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(units)]
        )
        images = np.zeros((5, 2, 2, 1), np.uint8)
        fit, validation = (
            ImageBatches([images], np.array(some), np.array(labels[: len(some)]), 2)
            for some in (rows, holdout)
        )
        return training_fingerprint(
            model, fit, validation, epochs, SimpleNamespace(**settings | changed)
        )

    without_effect = dict.fromkeys(
        (
            "PRESET",
            "DATA_DIR",
            "OUTPUT_DIR",
            "CACHE_DIR",
            "BOOTSTRAP_SAMPLES",
            "EPOCHS",
            "BASELINE_EPOCHS",
        ),
        "one",
    )
    settings = without_effect | {"LEARNING_RATE": 0.01, "SEED": 0, "IMAGE_SIZE": 32}
    usual = describe()
    assert all(usual == describe(**{name: "another"}) for name in without_effect)
    others = (
        {"rows": (0, 1, 4)},
        {"labels": (0, 1, 0)},
        {"holdout": (4,)},
        {"units": 4},
        {"epochs": 5},
        {"LEARNING_RATE": 0.02},
        {"SEED": 1},
        {"IMAGE_SIZE": 64},
        {"DROPOUT": 0.1},
    )
    for other in others:
        assert describe(**other) != usual, other


@pytest.mark.parametrize("name", ["{epoch}", "{x}", "100 %d"])
def test_the_name_of_a_folder_may_hold_what_means_something_to_keras(tmp_path, name):
    folder = tmp_path / name / "mini"
    train_mini(folder)
    assert sorted(crash_points.look(folder)) == [
        "best.keras",
        "history.csv",
        "run.json",
    ]
    assert [
        path.name for path in tmp_path.iterdir() if path.name != crash_points.LOCK
    ] == [name]


def test_an_earlier_run_of_the_same_name_stays_until_a_new_one_has_ended(tmp_path):
    train_tiny(tmp_path, epochs=1)
    before = crash_points.look(tmp_path)
    with pytest.raises(Exception, match="Lost"):
        train_tiny(tmp_path, lost_at=9, lose=lose_session)
    assert sorted(before) == ["best.keras", "history.csv", "run.json"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


class AtStep(keras.callbacks.Callback):
    """Has something done to the model after one step of the training."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            self.action(self.model)


def test_a_training_that_is_stopped_by_hand_keeps_its_best_epoch(tmp_path, capsys):
    _, table = train_tiny(
        tmp_path, AtStep(21, lambda model: signal.raise_signal(signal.SIGINT))
    )
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["ended"] == "stopped by hand" and len(table) == record["epochs"] == 3
    assert "Stopped by hand after 3 epochs" in capsys.readouterr().out
    assert sorted(crash_points.look(tmp_path)) == [
        "best.keras",
        "history.csv",
        "run.json",
    ]


def test_stopping_before_the_first_epoch_has_ended_leaves_no_result(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_tiny(
            tmp_path, AtStep(3, lambda model: signal.raise_signal(signal.SIGINT))
        )
    assert not crash_points.look(tmp_path)


@pytest.mark.parametrize("step", [2, 15])
def test_a_loss_that_becomes_nan_stops_the_training_with_advice(tmp_path, capsys, step):
    """In the first epoch there is nothing to keep; in the third, the best of the two before is."""
    spoil = AtStep(step, lambda model: model.layers[-1].bias.assign([float("nan")]))
    if step == 2:
        with pytest.raises(RuntimeError, match="smaller LEARNING_RATE"):
            train_tiny(tmp_path, spoil)
        assert not crash_points.look(tmp_path)
    else:
        _, table = train_tiny(tmp_path, spoil)
        assert (
            len(table) == 3
            and "In epoch 3 the loss became NaN" in capsys.readouterr().out
        )
        assert all(np.isfinite(weight).all() for weight in best_weights(tmp_path))


KILLED = """if True:
    import os, pathlib, signal, sys
    import numpy, test_train
    folder, lost_at, broken_write = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
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
def test_a_process_killed_four_times_ends_where_an_undisturbed_one_does(
    undisturbed, tmp_path
):
    """In mid-epoch, twice; while it writes its state; and in the first epoch after that; then it may finish."""
    (_, table), folder = undisturbed
    for lost_at, broken_write in ((15, 0), (10, 0), (0, 2), (2, 0), (0, 0)):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, tmp_path, str(lost_at), str(broken_write)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (-signal.SIGKILL if lost_at or broken_write else 0), (
            done.stderr[-2000:]
        )
    pd.testing.assert_frame_equal(
        table, pd.read_csv(tmp_path / "history.csv").drop(columns="seconds"), rtol=1e-5
    )
    for one, other in zip(best_weights(folder), best_weights(tmp_path)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_fit_takes_the_batches_in_their_order_epoch_after_epoch(tmp_path):
    """The same weights as from a loop of single steps over the orders that the seed gives."""
    generator = np.random.default_rng(0)
    arrays = [
        generator.integers(256, size=(count, 4, 4, 1), dtype=np.uint8)
        for count in (30, 11)
    ]
    rows, labels = np.arange(41), generator.integers(2, size=41)

    def make_model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 1))
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
        model.compile(
            keras.optimizers.SGD(0.5),
            "binary_crossentropy",
            metrics=["accuracy", keras.metrics.AUC(name="auc")],
        )
        return model

    model = make_model()
    fit = ImageBatches(arrays, rows, labels, 8, seed=5)
    train(
        model,
        fit,
        ImageBatches(arrays, rows, labels, 8),
        3,
        tmp_path,
        SimpleNamespace(PATIENCE=3),
    )
    by_hand, together = make_model(), np.concatenate(arrays)
    for epoch in range(3):
        order = np.resize(
            np.random.default_rng((5, epoch)).permutation(41), 48
        )  # the last seven fill up a batch, and do not count
        for start in range(0, 48, 8):
            batch = order[start : start + 8]
            by_hand.train_on_batch(
                together[batch],
                labels[batch],
                np.where(np.arange(start, start + 8) < 41, 48 / 41, 0),
            )
    for got, expected in zip(model.get_weights(), by_hand.get_weights()):
        assert np.allclose(got, expected, atol=1e-6)
    x = np.concatenate(arrays)
    assert np.allclose(
        predict_probabilities(model, x), model.predict(x, verbose=0)[:, 0], atol=1e-6
    )
