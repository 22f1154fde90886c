"""A training that is killed resumes where it was; one that fails says why."""

import contextlib
import errno
import io
import json
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
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
from cxr.runs import lock_run
from cxr.storage import StorageError, recover_interrupted_write, short_hash
from cxr.training import (
    TrainingRun,
    describe_learning_curves,
    make_callbacks,
    training_fingerprint,
)

FILES = ["best.keras", "history.csv", "run.json"]  # of a finished run


class Lost(Exception):
    """Stands for a session that is lost."""


def lose(*_):
    raise Lost


def train(model, train_batches, val_batches, epochs, folder, settings, *more):
    """Train as section 6 does, with more callbacks in front; return the run."""
    callbacks = make_callbacks(folder, settings.PATIENCE)
    about = {"data": "test", "validation_set": "0"}
    with TrainingRun(
        folder, model, callbacks, epochs, train_batches, val_batches, settings, about
    ) as run:
        model.fit(
            train_batches,
            validation_data=val_batches,
            epochs=epochs,
            initial_epoch=run.first_epoch,
            callbacks=[*more, *callbacks, run],
            shuffle=False,
            verbose=0,
        )
    return run


class AtStep(keras.callbacks.Callback):
    """Calls a function with the model after one step of the training."""

    def __init__(self, step, action):
        super().__init__()
        self.step = step
        self.action = action

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            self.action(self.model)


class AtEnd(keras.callbacks.Callback):
    """Calls a function after the last epoch."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def on_train_end(self, logs=None):
        self.action()


def stop_by_hand(*_):
    signal.raise_signal(signal.SIGINT)


# A training with a memory: compiled, with all whose state has to be restored.


class FragileBatches(ImageBatches):
    """Calls a function when a batch is asked for the `lost_at`-th time."""

    asked = 0
    lost_at = 0
    act = None

    def __getitem__(self, number):
        self.asked += 1
        if self.asked == self.lost_at:
            self.act()
        return super().__getitem__(number)


def train_with_memory(folder, lost_at=0, act=lose):
    """Train with dropout, augmentation, batch normalization, AdamW and shuffling.

    `act` is called when this process asks for its batch number `lost_at`.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 8, 8, 1), np.uint8)
    brightness = images[:, :4].mean((1, 2, 3)) + generator.normal(0, 8, 60)
    labels = (brightness > 127).astype(np.uint8)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        keras.optimizers.AdamW(0.02),
        "binary_crossentropy",
        weighted_metrics=[
            keras.metrics.BinaryAccuracy(name="accuracy"),
            keras.metrics.BinaryAccuracy(name="auc"),  # stands for it
        ],
    )
    augmentation = make_augmentation(0.1, 0.1, 0.1)
    train_batches = FragileBatches(
        [images], np.arange(45), labels[:45], 8, seed=3, augmentation=augmentation
    )
    train_batches.lost_at = lost_at
    train_batches.act = act
    val_batches = ImageBatches([images], np.arange(45, 60), labels[45:], 8)
    settings = SimpleNamespace(PATIENCE=1, LEARNING_RATE=0.02)
    run = train(model, train_batches, val_batches, 6, folder, settings)
    return model.get_weights(), run.history.drop(columns="seconds")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights, the history and the best weights of such a training."""
    folder = tmp_path_factory.mktemp("undisturbed")
    weights, history = train_with_memory(folder)
    return weights, history, best_weights(folder)


def best_weights(folder):
    return keras.models.load_model(folder / "best.keras").get_weights()


def assert_same_weights(found, expected):
    for values, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, others, rtol=1e-4, atol=1e-6)


def read_state(folder):
    """Return the record of an unfinished training."""
    with np.load(folder / "training.npz") as stored:
        return json.loads(str(stored["record"]))


def test_a_lost_training_ends_where_an_undisturbed_one_does(
    undisturbed, tmp_path, capsys
):
    """Lost in its first epoch, in the second, and again after it was resumed.

    An epoch has six batches; TensorFlow asks for some in advance.
    """
    expected_weights, expected_history, expected_best = undisturbed
    finished = []
    for lost_at in (3, 9, 15):
        with pytest.raises(Exception, match="Lost"):
            train_with_memory(tmp_path, lost_at)
        has_state = (tmp_path / "training.npz").exists()
        finished.append(len(read_state(tmp_path)["rows"]) if has_state else 0)
    assert finished[0] == 0 < finished[1] < finished[2] < 6
    assert f"after epoch {finished[1]}." in capsys.readouterr().out
    weights, history = train_with_memory(tmp_path)
    assert f"after epoch {finished[2]}." in capsys.readouterr().out
    pd.testing.assert_frame_equal(history, expected_history, rtol=1e-5)
    # Otherwise this would not show that the callbacks remember their counters.
    assert history.learning_rate.nunique() > 1
    assert_same_weights(weights, expected_weights)
    assert_same_weights(best_weights(tmp_path), expected_best)
    assert sorted(crash_points.read_files(tmp_path)) == FILES


KILLED = """if True:
    import os, pathlib, signal, sys
    import numpy, test_training
    folder, lost_at, broken_write = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
    write = numpy.savez
    writes = []

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def savez(file, **content):
        writes.append(file)
        if len(writes) == broken_write:
            file.write(b"PK half a file")
            file.flush()
            die()
        write(file, **content)

    numpy.savez = savez
    test_training.train_with_memory(folder, lost_at, die)"""


@pytest.mark.long
def test_a_process_that_is_killed_ends_where_an_undisturbed_one_does(
    undisturbed, tmp_path
):
    """Killed in mid-epoch, and while it writes its state; then it may finish."""
    _, expected_history, expected_best = undisturbed
    for lost_at, broken_write in ((15, 0), (0, 2)):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, tmp_path, str(lost_at), str(broken_write)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        assert read_state(tmp_path)["rows"]
    train_with_memory(tmp_path)
    history = pd.read_csv(tmp_path / "history.csv").drop(columns="seconds")
    pd.testing.assert_frame_equal(history, expected_history, rtol=1e-5)
    assert_same_weights(best_weights(tmp_path), expected_best)


def test_with_metrics_that_are_objects_tensorflow_traces_the_step_only_once(tmp_path):
    """A trace of the residual CNN takes seconds.

    A metric given by its name makes variables in the first, and needs a second.
    """

    class Counting(keras.layers.Layer):
        traces = 0

        def call(self, x, training=False):
            Counting.traces += bool(training)
            return x

    inputs = keras.Input((2, 2, 1))
    x = keras.layers.Flatten()(Counting()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        keras.optimizers.AdamW(0.1),
        "binary_crossentropy",
        weighted_metrics=[
            keras.metrics.BinaryAccuracy(name="accuracy"),
            keras.metrics.AUC(name="auc"),
        ],
    )
    train_batches = ImageBatches([PIXELS], np.arange(12), LABELS, 6, seed=1)
    val_batches = ImageBatches([PIXELS], np.arange(12), LABELS, 6)
    settings = SimpleNamespace(PATIENCE=9, LEARNING_RATE=0.1)
    train(model, train_batches, val_batches, 2, tmp_path, settings)
    assert Counting.traces == 1


# A training without one: run eagerly, in half a second.

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 1), np.uint8)
LABELS = (PIXELS.mean((1, 2, 3)) > 127).astype(np.uint8)


def train_mini(folder, *more, epochs=2, rate=0.2, pixels=PIXELS, batch_size=12):
    """Train a network of five weights, with more callbacks; return the history.

    At rate 0.2 the second epoch is better than the first, at rate 20 it is worse.
    """
    keras.utils.set_random_seed(0)
    # Not Sequential, which is built anew with each layer, also when it is loaded.
    inputs = keras.Input((2, 2, 1))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        keras.optimizers.SGD(rate),
        "binary_crossentropy",
        metrics=[
            keras.metrics.BinaryAccuracy(name="accuracy"),
            keras.metrics.BinaryAccuracy(name="auc"),  # stands for it
        ],
        run_eagerly=True,
    )
    rows = np.arange(12)
    train_batches = ImageBatches([pixels], rows, LABELS, batch_size, seed=1)
    val_batches = ImageBatches([pixels], rows, LABELS, 12)
    settings = SimpleNamespace(PATIENCE=9, LEARNING_RATE=rate)
    run = train(model, train_batches, val_batches, epochs, folder, settings, *more)
    return run.history


def describe_run(folder):
    """Return what a run consists of, but for what differs between repetitions.

    Its files must fit together.
    """
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name, expected in record["files"].items():
        assert short_hash((folder / name).read_bytes()) == expected
    model = keras.models.load_model(folder / "best.keras")
    history = pd.read_csv(folder / "history.csv")
    probabilities = np.array(model(PIXELS), float)[:, 0]
    likelihood = np.where(LABELS, probabilities, 1 - probabilities)
    loss = -np.log(likelihood).mean()
    assert loss == pytest.approx(history.val_loss.min(), rel=1e-4)
    assert record["epochs"] == len(history)
    assert record["best_epoch"] == history.epoch[history.val_loss.idxmin()]
    predictions = folder / "validation.csv"
    return {
        "weights": [weight.tolist() for weight in model.get_weights()],
        "history": history.drop(columns="seconds").to_dict(),
        "record": record | dict.fromkeys(("trained", "validated", "seconds", "files")),
        "predictions": predictions.read_text() if predictions.exists() else None,
    }


@pytest.fixture(scope="module")
def undisturbed_mini(tmp_path_factory):
    """The description of such a training."""
    folder = tmp_path_factory.mktemp("undisturbed") / "mini"
    train_mini(folder)
    return describe_run(folder)


@pytest.fixture(scope="module")
def earlier_files(tmp_path_factory):
    """The files of a run that was trained with other settings, and validated."""
    folder = tmp_path_factory.mktemp("earlier") / "mini"
    train_mini(folder, epochs=1, rate=0.1)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"validated": "later"}))
    (folder / "validation.csv").write_text("path,probability\na,0.5\n")
    return crash_points.read_files(folder)


@pytest.fixture
def earlier(earlier_files, tmp_path):
    """The folder of that run."""
    folder = tmp_path / "runs/mini"
    crash_points.restore(folder, earlier_files)
    return folder


@pytest.fixture(scope="module")
def unfinished_files(tmp_path_factory):
    """The files of a training that was lost after its last epoch."""
    folder = tmp_path_factory.mktemp("unfinished") / "mini"
    with pytest.raises(Lost):
        train_mini(folder, AtEnd(lose))
    files = crash_points.read_files(folder)
    assert list(files) == ["training.npz"]
    return files


@pytest.fixture
def unfinished(unfinished_files, tmp_path):
    """The folder of that training."""
    folder = tmp_path / "runs/mini"
    crash_points.restore(folder, unfinished_files)
    return folder


def test_the_record_of_a_run_has_a_schema_and_what_it_was_trained_on(tmp_path):
    train_mini(tmp_path / "mini")
    record = json.loads((tmp_path / "mini/run.json").read_text())
    assert record["schema"] == 1
    assert record["name"] == "mini"
    assert record["data"] == "test"
    assert record["validation_set"] == "0"
    assert record["settings"] == {"PATIENCE": 9, "LEARNING_RATE": 0.2}
    assert record["ended"] == "all epochs"


def test_a_training_killed_at_any_change_of_a_file_leaves_the_old_run_or_the_new_one(
    earlier, undisturbed_mini, tmp_path, capsys
):
    """At five instants: what a reader finds, and where the same command leads."""
    found = crash_points.list_crash_states(
        earlier, lambda: train_mini(earlier), count=5
    )
    old, new = found[0], found[-1]
    assert sorted(new) == FILES and len(found) == 5
    assert undisturbed_mini["record"]["best_epoch"] == 2

    def run_files(files):
        return {name: content for name, content in files.items() if name in old}

    is_new = []
    for number, files in enumerate(found):
        message = (number, sorted(files))
        again = tmp_path / f"again/{number}/mini"
        crash_points.restore(again, files)
        if "run.json" in files:
            assert run_files(files) in (old, new), message
        with lock_run(again):
            readable = run_files(crash_points.read_files(again))
        assert readable in (old, new), message
        is_new.append(readable == new)
        crash_points.restore(again, files)
        capsys.readouterr()
        train_mini(again)
        resumed = "Resuming" in capsys.readouterr().out
        assert resumed == ("training.npz" in files), message
        assert describe_run(again) == undisturbed_mini, message
        assert sorted(crash_points.read_files(again)) == FILES, message
    assert is_new == sorted(is_new) and set(is_new) == {False, True}


@pytest.mark.parametrize(
    ("error", "instants"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), (0, 8, 13)),
        (None, (3, 9, 15)),
    ],
)
def test_a_disk_that_is_full_from_any_change_of_a_file_on_costs_nothing(
    earlier_files, earlier, undisturbed_mini, tmp_path, error, instants
):
    """The change is refused, or (None) files that grow are cut after ten bytes.

    Then there is room again, and the training is resumed.
    """
    old = describe_run(earlier)
    for number in instants:
        folder = tmp_path / f"again/{number}/mini"
        crash_points.restore(folder, earlier_files)
        expected = contextlib.suppress(StorageError)
        if error:
            advice = f"{folder.resolve()} is full: free some space"
            expected = pytest.raises(StorageError, match=re.escape(advice))
        with crash_points.full_disk(folder, number, error), expected:
            train_mini(folder)
        recover_interrupted_write(folder)
        assert describe_run(folder) in (old, undisturbed_mini), number
        train_mini(folder)
        assert describe_run(folder) == undisturbed_mini, number
        assert sorted(crash_points.read_files(folder)) == FILES, number


def test_a_training_stopped_by_hand_at_any_change_of_a_file_leaves_a_whole_run(
    earlier_files, tmp_path
):
    found = set()
    for number in (3, 8, 11, 12, 16):
        folder = tmp_path / f"again/{number}/mini"
        crash_points.restore(folder, earlier_files)
        with (
            crash_points.full_disk(folder, number, KeyboardInterrupt()),
            contextlib.suppress(KeyboardInterrupt),
        ):
            train_mini(folder)
        recover_interrupted_write(folder)
        record = describe_run(folder)["record"]
        found.add((record["ended"], record["epochs"]))
    earlier_run = ("all epochs", 1)
    assert {earlier_run, ("stopped by hand", 1), ("stopped by hand", 2)} <= found


def test_in_a_run_without_a_hand_to_stop_it_ctrl_c_is_a_cut_like_any_other(
    earlier_files, earlier, undisturbed_mini, monkeypatch, capsys
):
    """CXR_HEADLESS: the same command resumes where it stopped."""
    monkeypatch.setenv("CXR_HEADLESS", "1")
    kept = []
    for number in (0, 4, 10):
        crash_points.restore(earlier, earlier_files)
        with (
            pytest.raises(KeyboardInterrupt),
            crash_points.full_disk(earlier, number, KeyboardInterrupt()),
        ):
            train_mini(earlier)
        assert "Stopped by hand" not in capsys.readouterr().out
        kept.append((earlier / "training.npz").exists())
        train_mini(earlier)
        assert ("Resuming" in capsys.readouterr().out) == kept[-1]
        assert describe_run(earlier) == undisturbed_mini
    assert kept == sorted(kept) and set(kept) == {False, True}


def flip_byte(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def damage(content, kind):
    if kind == "flipped":
        return flip_byte(content, len(content) // 2)
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
def test_a_damaged_state_is_named_and_not_used(
    unfinished, undisturbed_mini, capsys, kind
):
    state = unfinished / "training.npz"
    state.write_bytes(damage(state.read_bytes(), kind))
    train_mini(unfinished)
    first, *epochs = capsys.readouterr().out.splitlines()
    assert str(unfinished) in first and "training.npz is damaged" in first
    assert len(epochs) == 2
    assert describe_run(unfinished) == undisturbed_mini


def test_any_single_wrong_byte_of_a_state_is_noticed_or_without_effect(
    unfinished_files, unfinished, undisturbed_mini
):
    """The archive's own padding and times may be anything."""
    content = unfinished_files["training.npz"]
    for place in range(0, len(content), len(content) // 4):
        damaged = {"training.npz": flip_byte(content, place)}
        crash_points.restore(unfinished, damaged)
        train_mini(unfinished)
        assert describe_run(unfinished) == undisturbed_mini, place


def test_half_a_checkpoint_of_an_unfinished_epoch_is_never_the_best_one(tmp_path):
    """The second epoch is worse than the first: it leaves no checkpoint of its own."""
    folder = tmp_path / "lost/mini"
    train_mini(tmp_path / "mini", rate=20.0)
    with pytest.raises(Lost):
        train_mini(folder, AtStep(2, lose), rate=20.0)
    assert list(crash_points.read_files(folder)) == ["training.npz"]
    (folder / "epoch.keras").write_bytes(b"PK half a checkpoint")
    train_mini(folder, rate=20.0)
    found = describe_run(folder)
    assert found == describe_run(tmp_path / "mini")
    assert (found["record"]["best_epoch"], found["record"]["epochs"]) == (1, 2)


def change_a_pixel():
    changed = PIXELS.copy()
    changed[7, 1, 1] ^= 1
    return changed


@pytest.mark.parametrize("change", [{"rate": 0.1}, {"pixels": change_a_pixel()}])
def test_a_training_with_other_settings_or_images_is_not_resumed(
    unfinished, capsys, change
):
    history = train_mini(unfinished, **change)
    first, *epochs = capsys.readouterr().out.splitlines()
    assert str(unfinished) in first and "other settings or images" in first
    assert len(epochs) == len(history) == 2


def is_free(folder):
    """Whether another process could train in the folder.

    A second lock asks, as one of another process would.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            return True
    except Timeout:
        return False


def test_a_folder_is_locked_until_its_run_is_in_place_and_not_longer(earlier):
    seen = []
    with crash_points.watch(earlier, lambda path: seen.append(is_free(earlier))):
        train_mini(earlier)
    assert set(seen[1:]) == {False} and is_free(earlier)
    errors = (OSError(errno.ENOSPC, ""), KeyboardInterrupt(), Lost())
    for number, error in zip((1, 6, 6), errors, strict=True):
        with (
            pytest.raises((StorageError, KeyboardInterrupt, Lost)),
            crash_points.full_disk(earlier, number, error),
        ):
            train_mini(earlier, rate=0.3)
        assert is_free(earlier)


def test_a_second_training_says_that_it_waits_and_then_trains_its_own_run(
    tmp_path, capsys
):
    """Begun while the first is about to end; to a lock, a thread is as a process."""
    folder = tmp_path / "runs/mini"
    second = threading.Thread(target=train_mini, args=[folder], kwargs={"rate": 0.1})
    told = []

    def start(path):
        if path and path.name == "best.keras" and not second.ident:
            second.start()
            deadline = time.monotonic() + 60
            while "waiting" not in "".join(told) and time.monotonic() < deadline:
                time.sleep(0.05)
                told.append(capsys.readouterr().out)

    with crash_points.watch(folder, start):
        train_mini(folder)
    assert f"training in {folder}" in "".join(told) and "waiting" in "".join(told)
    first = (folder / "best.keras").read_bytes()
    second.join()
    output = capsys.readouterr().out
    assert "2/2" in output and "Resuming" not in output
    assert (folder / "best.keras").read_bytes() != first
    assert describe_run(folder)["record"]["settings"]["LEARNING_RATE"] == 0.1


LINE = (
    r"Epoch +(\d+)/(\d+): loss (\d\.\d{3}); validation loss (\d\.\d{3}), "
    r"accuracy (\d\.\d{3}), AUC (\d\.\d{4}); learning rate (\de-\d\d); "
    r"at most (\d+\.\d) min left"
)


def parse_epochs(output):
    """Return the numbers of each line that tells of an epoch."""
    lines = [line for line in output.splitlines() if line.startswith("Epoch")]
    return [
        [float(value) for value in re.fullmatch(LINE, line).groups()] for line in lines
    ]


def test_each_epoch_is_reported_in_a_line(tmp_path, capsys):
    history = train_mini(tmp_path / "mini")
    told = parse_epochs(capsys.readouterr().out)
    assert len(told) == len(history) == 2
    names = ["loss", "val_loss", "val_accuracy", "val_auc", "learning_rate"]
    for (epoch, epochs, *scores, _), row in zip(told, history.to_dict("records")):
        assert (epoch, epochs) == (row["epoch"], 2)
        assert scores == pytest.approx([row[name] for name in names], abs=5.1e-4)
    assert told[-1][-1] == 0


def test_the_minutes_left_count_the_epochs_before_an_interruption(tmp_path, capsys):
    """After two epochs that took 100 minutes each; those of this process are short."""
    folder = tmp_path / "mini"
    with pytest.raises(Lost):
        train_mini(folder, AtStep(3, lose), epochs=4)
    with np.load(folder / "training.npz") as stored:
        content = dict(stored)
    record = json.loads(str(content["record"]))
    assert len(record["rows"]) == 2
    for epoch, row in enumerate(record["rows"], start=1):
        row["seconds"] = 6000.0 * epoch
    content["record"] = np.array(json.dumps(record))
    np.savez(folder / "training.npz", **content)
    capsys.readouterr()
    history = train_mini(folder, epochs=4)
    told = parse_epochs(capsys.readouterr().out)
    assert [line[0] for line in told] == [3, 4]
    assert told[0][-1] == pytest.approx(200 / 3, abs=5) and told[1][-1] == 0
    assert history.seconds.between(6000, 12600).all()


def test_what_decides_the_result_of_a_training_is_part_of_its_fingerprint():
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
    images = np.zeros((5, 2, 2, 1), np.uint8)

    def make(rows, labels):
        return ImageBatches([images], np.array(rows), np.array(labels[: len(rows)]), 2)

    def fingerprint(
        rows=(0, 1, 2), labels=(0, 1, 1), val_rows=(3,), units=3, epochs=4, **changed
    ):
        model = keras.Sequential(
            [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(units)]
        )
        return training_fingerprint(
            model,
            make(rows, labels),
            make(val_rows, labels),
            epochs,
            SimpleNamespace(**settings | changed),
        )

    usual = fingerprint()
    for name in without_effect:
        assert fingerprint(**{name: "another"}) == usual, name
    for change in (
        {"rows": (0, 1, 4)},
        {"labels": (0, 1, 0)},
        {"val_rows": (4,)},
        {"units": 4},
        {"epochs": 5},
        {"LEARNING_RATE": 0.02},
        {"SEED": 1},
        {"IMAGE_SIZE": 64},
        {"DROPOUT": 0.1},
    ):
        assert fingerprint(**change) != usual, change


def test_the_name_of_a_folder_may_contain_what_means_something_to_keras(tmp_path):
    name = "{epoch} {x} 100 %d"
    folder = tmp_path / name / "mini"
    train_mini(folder)
    assert sorted(crash_points.read_files(folder)) == FILES
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_earlier_run_of_the_same_name_stays_until_a_new_one_has_ended(
    earlier, earlier_files
):
    with pytest.raises(Lost):
        train_mini(earlier, AtStep(2, lose))
    kept = crash_points.read_files(earlier)
    assert kept.pop("training.npz")
    assert kept == earlier_files


def test_a_training_that_is_stopped_by_hand_keeps_its_best_epoch(tmp_path, capsys):
    folder = tmp_path / "mini"
    history = train_mini(folder, AtStep(8, stop_by_hand), epochs=4, batch_size=4)
    record = describe_run(folder)["record"]
    assert record["ended"] == "stopped by hand"
    assert len(history) == record["epochs"] == 2
    assert "Stopped by hand after 2 epochs" in capsys.readouterr().out
    assert sorted(crash_points.read_files(folder)) == FILES


def test_stopping_before_the_first_epoch_has_ended_leaves_no_result(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_mini(tmp_path / "mini", AtStep(2, stop_by_hand), batch_size=4)
    assert not crash_points.read_files(tmp_path / "mini")


def set_bias_to_nan(model):
    model.layers[-1].bias.assign([float("nan")])


def test_a_loss_that_becomes_nan_in_the_first_epoch_leaves_no_result(tmp_path):
    with pytest.raises(RuntimeError, match="smaller LEARNING_RATE"):
        train_mini(tmp_path / "mini", AtStep(1, set_bias_to_nan), batch_size=4)
    assert not crash_points.read_files(tmp_path / "mini")


def test_a_loss_that_becomes_nan_later_ends_the_training_with_advice(tmp_path, capsys):
    """In the third epoch: the best of the two before is kept."""
    folder = tmp_path / "mini"
    spoil = AtStep(7, set_bias_to_nan)
    history = train_mini(folder, spoil, epochs=5, batch_size=4)
    assert len(history) == 3
    output = capsys.readouterr().out
    assert "NaN in epoch 3" in output and "smaller LEARNING_RATE" in output
    assert all(np.isfinite(weight).all() for weight in best_weights(folder))


def test_fit_takes_the_batches_in_their_order_epoch_after_epoch(tmp_path):
    """The same weights as from single steps over the orders that the seed gives."""
    generator = np.random.default_rng(0)
    arrays = [
        generator.integers(256, size=(count, 4, 4, 1), dtype=np.uint8)
        for count in (30, 11)
    ]
    rows = np.arange(41)
    labels = generator.integers(2, size=41)

    def make_model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 1))
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
        model.compile(
            keras.optimizers.SGD(0.5),
            "binary_crossentropy",
            metrics=[
                keras.metrics.BinaryAccuracy(name="accuracy"),
                keras.metrics.BinaryAccuracy(name="auc"),
            ],
        )
        return model

    model = make_model()
    train_batches = ImageBatches(arrays, rows, labels, 8, seed=5)
    val_batches = ImageBatches(arrays, rows, labels, 8)
    settings = SimpleNamespace(PATIENCE=3)
    train(model, train_batches, val_batches, 3, tmp_path, settings)
    by_hand = make_model()
    images = np.concatenate(arrays)
    for epoch in range(3):
        # The last seven fill up a batch, and do not count.
        order = np.random.default_rng((5, epoch)).permutation(41)
        order = np.resize(order, 48)
        for start in range(0, 48, 8):
            batch = order[start : start + 8]
            counts = np.arange(start, start + 8) < 41
            by_hand.train_on_batch(
                images[batch], labels[batch], np.where(counts, 48 / 41, 0)
            )
    for values, expected in zip(model.get_weights(), by_hand.get_weights()):
        assert np.allclose(values, expected, atol=1e-6)
    expected = model.predict(images, verbose=0)[:, 0]
    assert np.allclose(predict_probabilities(model, images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("losses", "val_losses", "words"),
    [
        ([0.9, 0.5, 0.3], [0.8, 0.4, 0.2], "ends below .* more epochs may help"),
        ([0.9, 0.5, 0.3], [0.8, 0.4, 0.6], "From epoch 3 on, .* epoch 2, .* chance"),
        (
            [0.9, 0.5, 0.4, 0.4, 0.3],
            [0.8, 0.4, 0.6, 0.7, 0.6],
            "From epoch 3 on, .* After epoch 2 only .* overfitting from there on",
        ),
        (
            [0.9, 0.5, 0.49, 0.5, 0.49],
            [0.8, 0.4, 0.45, 0.45, 0.45],
            "After epoch 2 neither .* without clear",
        ),
        ([0.9, 0.5, np.nan], [0.8, 0.4, 0.3], "lowest in the last epoch"),
    ],
)
def test_learning_curves_are_judged(losses, val_losses, words):
    epochs = range(1, len(losses) + 1)
    history = pd.DataFrame({"epoch": epochs, "loss": losses, "val_loss": val_losses})
    assert re.search(words, describe_learning_curves(history))
