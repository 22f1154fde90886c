"""Training: the callbacks that steer it, and a state on disk from which one that was cut off goes on."""

import contextlib
import json
import os
import time
from pathlib import Path

import keras
import numpy as np

from cxr.batches import ImageBatches, fingerprint
from cxr.storage import as_json, hold_lock, name_folder, settle_files, take_digest


class TrainingState(keras.callbacks.Callback):
    """Keeps a training on disk, so that one that is killed goes on from its last finished epoch as if nothing had happened.

    After each epoch it writes all that the next one depends on: the weights, the optimizer, the random generator of dropout,
    the counters and best values of the other `callbacks`. It must be the last callback, because the others forget theirs when a
    training begins. `training.npz` is renamed into place and names, by its digest, the best epoch so far: `training.keras`.
    """

    lock = contextlib.ExitStack()  # of the folder, from the begin of a training until finish_run: a process trains one at a time

    def __init__(self, folder: Path, description: dict, callbacks: list):
        super().__init__()
        self.folder, self.description, self.watched = Path(folder), json.loads(as_json(description)), callbacks
        self.rows, self.states, self.ended, self.best, self.files = [], [], "", "", {}

    @contextlib.contextmanager
    def hold_folder(self):
        """Let no other process work in the folder until `finish_run`, or until something fails; raise StorageError if it takes no file."""
        TrainingState.lock.close()  # if the training before this one was never finished
        with TrainingState.lock as lock, name_folder(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.enter_context(hold_lock(self.folder, f"training in {self.folder}"))
            with hold_lock(self.folder.parent, f"changing files in {self.folder.parent}"):
                settle_files(self.folder)
            yield
            TrainingState.lock = lock.pop_all()

    def resume(self, model: keras.Model) -> int:
        """Put the training back to where it was, if there is one with this description; return the number of finished epochs."""
        variables, kept, reason = self.list_variables(model), self.folder / "training.npz", ""
        try:
            with np.load(kept, allow_pickle=False) as stored:
                record = json.loads(str(stored["record"]))
                if record["description"] != self.description:
                    reason = "had other settings or images"
                values = [] if reason else [stored[f"v{number}"] for number in range(len(variables))]
        except Exception:  # a damaged archive may lead to any
            reason = f"cannot be read ({kept.name} is damaged)"
        self.best = "" if reason else record["best"]
        if not self.settle_best():
            reason = "has lost its best epoch (training.keras is missing or damaged)"
        if reason:
            if kept.exists():
                print(f"The unfinished training in {self.folder} {reason}: this one begins anew.")
            self.forget()
            return 0
        for variable, value in zip(variables, values):
            variable.assign(value)
        self.rows, self.states, self.ended = record["rows"], record["states"], record["ended"]
        print(f"Going on after epoch {len(self.rows)}, where the training in {self.folder} was interrupted.")
        return len(self.rows)

    def settle_best(self) -> bool:
        """Put the network of the best epoch in its place, wherever a cut has left it; return whether it is there, if there was one."""
        kept, newest = self.folder / "training.keras", self.folder / "epoch.keras"
        found = [path for path in (kept, newest) if path.exists() and take_digest(path.read_bytes()) == self.best]
        for path in found[:1]:
            path.replace(kept)
        newest.unlink(missing_ok=True)
        return bool(found) or not self.best

    def forget(self):
        """Remove what was kept; the files of an earlier, finished run stay."""
        self.best = ""
        for name in ("training.npz", "training.keras", "epoch.keras", "training.npz.unfinished"):
            (self.folder / name).unlink(missing_ok=True)

    @staticmethod
    def list_variables(model: keras.Model) -> list:
        """Return all that training changes: of the model, its random generators, and the optimizer."""
        model.optimizer.build(model.trainable_variables)
        return [*model.variables, *model.optimizer.variables]

    def on_train_begin(self, logs=None):
        self.before, self.since = self.rows[-1]["seconds"] if self.rows else 0, time.perf_counter()
        for callback, state in zip(self.watched, self.states):
            vars(callback).update(state)

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.before + time.perf_counter() - self.since
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}, "seconds": round(seconds, 2)}
        print(f"epoch {epoch + 1:3}/{self.params['epochs']}: loss {logs['loss']:.3f}, validation loss {logs['val_loss']:.3f}, accuracy "
              f"{logs['val_accuracy']:.3f}, AUC {logs['val_auc']:.4f}; rate {logs['learning_rate']:.0e}; "
              f"{seconds / (epoch + 1) * (self.params['epochs'] - epoch - 1) / 60:.1f} min left at most", flush=True)
        if not np.isfinite(logs["loss"]):
            self.rows, self.ended = [*self.rows, row], "the loss became NaN"
            return  # nobody would want to go on from here
        better, ended = self.folder / "epoch.keras", "early stopping" if self.model.stop_training else ""
        best = take_digest(better.read_bytes()) if better.exists() else self.best
        states = [{name: value for name, value in vars(callback).items()  # no text: a path would lead back to where the folder was
                   if isinstance(value, (bool, int, float)) and not name.startswith("_")} for callback in self.watched]
        record = {"description": self.description, "rows": [*self.rows, row], "states": states, "ended": ended, "best": best}
        values = {f"v{number}": keras.ops.convert_to_numpy(value) for number, value in enumerate(self.list_variables(self.model))}
        with open(self.folder / "training.npz.unfinished", "wb") as file:
            np.savez(file, record=np.array(json.dumps(record)), **values)
        (self.folder / "training.npz.unfinished").replace(self.folder / "training.npz")
        self.rows, self.ended, self.best = record["rows"], ended, best
        if better.exists():
            better.replace(self.folder / "training.keras")


def describe_training(model: keras.Model, fit: "ImageBatches", holdout: "ImageBatches", epochs: int, settings) -> dict:
    """Return what decides the course of a training: one that was cut off goes on only where all of it is the same."""
    irrelevant = ("PRESET", "DATA_DIR", "OUTPUT_DIR", "CACHE_DIR", "RESAMPLES", "EPOCHS", "BASELINE_EPOCHS")
    return {"settings": {name: value for name, value in vars(settings).items() if name not in irrelevant}, "epochs": epochs,
            "images": [fingerprint(fit), fingerprint(holdout)], "weights": [list(weight.shape) for weight in model.weights]}


def make_callbacks(checkpoint: Path, patience: int) -> list[keras.callbacks.Callback]:
    """Return the callbacks that steer a training by the validation loss and keep its best epoch in `checkpoint`."""
    literal = str(checkpoint).replace("{", "{{").replace("}", "}}")  # Keras fills in what stands in {}
    return [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.3, patience=patience, min_lr=1e-6),
            keras.callbacks.ModelCheckpoint(
                literal, monitor="val_loss", save_best_only=True),
            keras.callbacks.EarlyStopping("val_loss", patience=3 * patience),
            keras.callbacks.TerminateOnNaN()]


def train(model: keras.Model, fit: "ImageBatches", holdout: "ImageBatches", epochs: int, run_dir: Path, settings) -> TrainingState:
    """Train a compiled model, or go on with a training that was cut off; return its state at the end, for `finish_run`."""
    steering = make_callbacks(run_dir / "epoch.keras", settings.PATIENCE)
    state = TrainingState(run_dir, describe_training(model, fit, holdout, epochs, settings), steering)
    shuffle = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: fit.start_epoch(epoch))
    with state.hold_folder():
        try:
            first = state.resume(model)  # builds the optimizer: if the metrics are objects, not names, the step is traced only once
            if not state.ended:
                model.fit(fit, validation_data=holdout, epochs=epochs, initial_epoch=first, shuffle=False, verbose=0,
                          callbacks=[shuffle, *steering, state])
        except KeyboardInterrupt:
            if not state.rows or os.environ.get("CXR_HEADLESS"):
                raise  # the same command goes on from here
            state.ended = "stopped by hand"
            print(f"Stopped by hand after {len(state.rows)} epochs; the best of them counts.")
    return state
