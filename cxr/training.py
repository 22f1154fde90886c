"""Training: the callbacks that steer it, and a run on disk that continues after an interruption."""

import contextlib
import json
import os
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from cxr.batches import ImageBatches, data_fingerprint
from cxr.storage import (
    as_storage_error,
    lock_folder,
    recover_interrupted_write,
    replace_atomically,
    short_hash,
    to_json,
    utc_now,
    wrap_os_errors,
)


def make_callbacks(run_dir: Path, patience: int) -> list[keras.callbacks.Callback]:
    """Return the callbacks that steer a training by the validation loss and keep the best epoch in `run_dir`."""
    checkpoint = (
        str(run_dir / "epoch.keras").replace("{", "{{").replace("}", "}}")
    )  # Keras fills in what stands in {}
    return [
        keras.callbacks.ReduceLROnPlateau(
            "val_loss", factor=0.3, patience=patience, min_lr=1e-6
        ),
        keras.callbacks.ModelCheckpoint(
            checkpoint, monitor="val_loss", save_best_only=True
        ),
        keras.callbacks.EarlyStopping("val_loss", patience=3 * patience),
        keras.callbacks.TerminateOnNaN(),
    ]


def training_fingerprint(
    model: keras.Model,
    train_batches: ImageBatches,
    val_batches: ImageBatches,
    epochs: int,
    settings,
) -> dict:
    """Return what decides the course of a training: one that was cut off goes on only where all of it is the same."""
    irrelevant = (
        "PRESET",
        "DATA_DIR",
        "OUTPUT_DIR",
        "CACHE_DIR",
        "BOOTSTRAP_SAMPLES",
        "EPOCHS",
        "BASELINE_EPOCHS",
    )
    return {
        "settings": {
            name: value
            for name, value in vars(settings).items()
            if name not in irrelevant
        },
        "epochs": epochs,
        "images": [data_fingerprint(train_batches), data_fingerprint(val_batches)],
        "weights": [list(weight.shape) for weight in model.weights],
    }


class TrainingRun(keras.callbacks.Callback):
    """A training in a folder: interrupted, it continues after its last finished epoch; at its end, its result is put in place.

    Used as a context around `model.fit`, and there as the last of the callbacks, because the others forget their counters when
    a training begins. The file `training.npz` holds all that the next epoch depends on (weights, optimizer, random generators,
    the counters of the other callbacks) and the best epoch so far; it is replaced as a whole after each epoch. When the context
    ends, best.keras, history.csv and run.json take the place of those of an earlier run, all or none. One process at a time
    works in the folder.

    Parameters
    ----------
    folder : Path, named like the run
    model : compiled keras.Model
    callbacks : list, the other callbacks (see `make_callbacks`)
    epochs : int
    train_batches, val_batches : ImageBatches
    settings : Settings
    about : dict, more fields of run.json

    Attributes
    ----------
    first_epoch : int, the number of epochs that need no training any more, for `initial_epoch`
    history : DataFrame, a row for each epoch
    files : dict, {name: digest} of the files that were put in place

    Raises
    ------
    StorageError : the folder cannot be written, or is full
    RuntimeError : no epoch had a finite validation loss
    """

    def __init__(
        self,
        folder: Path,
        model,
        callbacks: list,
        epochs: int,
        train_batches,
        val_batches,
        settings,
        about: dict,
    ):
        super().__init__()
        self.folder, self.trained, self.others, self.epochs = (
            Path(folder),
            model,
            callbacks,
            epochs,
        )
        self.train_batches, self.val_batches, self.settings, self.about = (
            train_batches,
            val_batches,
            settings,
            about,
        )
        self.rows: list[dict] = []
        self.counters: list[dict] = []
        self.files: dict[str, str] = {}
        self.ended, self.best = "", b""

    def __enter__(self):
        with contextlib.ExitStack() as opened, wrap_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            opened.enter_context(lock_folder(self.folder, f"training in {self.folder}"))
            with lock_folder(
                self.folder.parent, f"changing files in {self.folder.parent}"
            ):
                recover_interrupted_write(self.folder)
            description = training_fingerprint(
                self.trained,
                self.train_batches,
                self.val_batches,
                self.epochs,
                self.settings,
            )
            self.description = json.loads(to_json(description))
            self.resume()
            self.opened = opened.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        with self.opened:
            by_hand = (
                kind is KeyboardInterrupt
                and bool(self.rows)
                and not os.environ.get("CXR_HEADLESS")
            )
            if by_hand:
                self.ended = "stopped by hand"
                print(
                    f"Stopped by hand after {len(self.rows)} epochs; the best of them counts."
                )
            elif isinstance(error, OSError):
                raise as_storage_error(self.folder, error) from error
            elif error is not None:
                return False  # the same training continues from here
            with wrap_os_errors(self.folder):
                self.finalize()
        return by_hand

    @property
    def first_epoch(self) -> int:
        return self.epochs if self.ended else len(self.rows)

    @property
    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def list_variables(self) -> list:
        """Return all that training changes: of the model, its random generators, and the optimizer."""
        self.trained.optimizer.build(self.trained.trainable_variables)
        return [*self.trained.variables, *self.trained.optimizer.variables]

    def resume(self):
        """Put the training back to where it was interrupted, if there is one with this description."""
        kept, variables = self.folder / "training.npz", self.list_variables()
        try:
            with np.load(kept, allow_pickle=False) as stored:
                record, best = (
                    json.loads(str(stored["record"])),
                    stored["best"].tobytes(),
                )
                reason = (
                    ""
                    if record["description"] == self.description
                    else "had other settings or images"
                )
                values = (
                    []
                    if reason
                    else [stored[f"v{number}"] for number in range(len(variables))]
                )
        except (
            Exception
        ):  # a damaged archive, or one of another network, may lead to any
            reason = f"cannot be read ({kept.name} is damaged)"
        if reason:
            if kept.exists():
                print(
                    f"The unfinished training in {self.folder} {reason}: this one begins anew."
                )
            return self.forget()
        (self.folder / "epoch.keras").unlink(
            missing_ok=True
        )  # of an epoch that has not ended
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.rows, self.counters, self.ended, self.best = (
            record["rows"],
            record["counters"],
            record["ended"],
            best,
        )
        print(
            f"Going on after epoch {len(self.rows)}, where the training in {self.folder} was interrupted."
        )

    def forget(self):
        """Remove what was kept; the files of an earlier, finished run stay."""
        for name in ("training.npz", "training.npz.unfinished", "epoch.keras"):
            (self.folder / name).unlink(missing_ok=True)

    def on_train_begin(self, logs=None):
        self.seconds_before = self.rows[-1]["seconds"] if self.rows else 0
        self.since = time.perf_counter()
        for callback, state in zip(self.others, self.counters):
            vars(callback).update(state)

    def on_epoch_begin(self, epoch, logs=None):
        self.train_batches.start_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.seconds_before + time.perf_counter() - self.since
        left = seconds / (epoch + 1) * (self.epochs - epoch - 1) / 60
        print(
            f"epoch {epoch + 1:3}/{self.epochs}: loss {logs['loss']:.3f}, validation loss {logs['val_loss']:.3f}, accuracy "
            f"{logs['val_accuracy']:.3f}, AUC {logs['val_auc']:.4f}; rate {logs['learning_rate']:.0e}; {left:.1f} min left at most",
            flush=True,
        )
        row = {
            "epoch": epoch + 1,
            **{name: float(value) for name, value in logs.items()},
            "seconds": round(seconds, 2),
        }
        if np.isfinite(logs["loss"]):
            self.keep([*self.rows, row])
        else:  # nobody would want to continue from here
            self.rows, self.ended = [*self.rows, row], "the loss became NaN"

    def keep(self, rows: list):
        """Write all that the next epoch depends on, with the best epoch so far, in one piece; only then does the epoch count."""
        checkpoint, unfinished = (
            self.folder / "epoch.keras",
            self.folder / "training.npz.unfinished",
        )
        best = checkpoint.read_bytes() if checkpoint.exists() else self.best
        ended = "early stopping" if self.trained.stop_training else ""
        counters = [
            {
                name: value
                for name, value in vars(
                    callback
                ).items()  # no text: a path would lead back to where the folder was
                if isinstance(value, (bool, int, float)) and not name.startswith("_")
            }
            for callback in self.others
        ]
        record = {
            "description": self.description,
            "rows": rows,
            "counters": counters,
            "ended": ended,
        }
        values = {
            f"v{number}": keras.ops.convert_to_numpy(value)
            for number, value in enumerate(self.list_variables())
        }
        with open(unfinished, "wb") as file:
            np.savez(
                file,
                record=np.array(json.dumps(record)),
                best=np.frombuffer(best, np.uint8),
                **values,
            )
        unfinished.replace(self.folder / "training.npz")
        self.rows, self.ended, self.best = rows, ended, best
        checkpoint.unlink(missing_ok=True)

    def finalize(self):
        """Put best.keras, history.csv and run.json in place of those before, all or none; then forget the state."""
        if not self.best:
            self.forget()
            raise RuntimeError(
                "No epoch gave a finite loss on the held-out images: choose a smaller LEARNING_RATE."
            )
        table = self.history
        files = {
            "best.keras": self.best,
            "history.csv": table.to_csv(index=False).encode(),
        }
        digests = {name: short_hash(content) for name, content in files.items()}
        record = {
            "name": self.folder.name,
            "trained": utc_now(),
            **self.about,
            "settings": vars(self.settings),
            "epochs": len(table),
            "ended": self.ended or "all epochs",
            "seconds": table.seconds.iloc[-1],
            "best_epoch": int(table.epoch[table.val_loss.idxmin()]),
            "files": digests,
        }
        files |= {
            "run.json": to_json(record).encode(),
            "validation.csv": b"",
        }  # the answers of the run before go
        with (
            lock_folder(self.folder.parent, f"changing files in {self.folder.parent}"),
            replace_atomically(self.folder) as new,
        ):
            for name, content in files.items():
                (new / name).write_bytes(content)
        self.files = digests
        self.forget()
        if self.ended.startswith("the loss"):
            print(
                f"In epoch {len(table)} {self.ended}. The best epoch before that is kept; choose a smaller LEARNING_RATE."
            )
