"""Training: its callbacks, and a run on disk that resumes after an interruption."""

import contextlib
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import keras
import numpy as np
import pandas as pd

from cxr.batches import ImageBatches, data_fingerprint
from cxr.settings import Settings
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
    """Return the callbacks that follow the validation loss of a training.

    Parameters
    ----------
    run_dir : Path
        The folder of the run, where the best epoch is saved.
    patience : int
        Epochs without improvement before the learning rate falls; three times as many
        end the training.
    """
    # Keras treats the path as a format string, so braces are escaped.
    checkpoint = str(run_dir / "epoch.keras").replace("{", "{{").replace("}", "}}")
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
    settings: Settings,
) -> dict[str, Any]:
    """Return what decides the result of a training, as JSON can hold it.

    An interrupted training is resumed only where all of it is the same.
    """
    irrelevant = (
        "PRESET",
        "DATA_DIR",
        "OUTPUT_DIR",
        "CACHE_DIR",
        "BOOTSTRAP_SAMPLES",
        "EPOCHS",
        "BASELINE_EPOCHS",
    )
    relevant = {
        name: value for name, value in vars(settings).items() if name not in irrelevant
    }
    fingerprint = {
        "settings": relevant,
        "epochs": epochs,
        "images": [data_fingerprint(train_batches), data_fingerprint(val_batches)],
        "weights": [list(weight.shape) for weight in model.weights],
    }
    return json.loads(to_json(fingerprint))


class TrainingRun(keras.callbacks.Callback):
    """A training in a folder that resumes after its last finished epoch.

    Use it as a context around `model.fit`, and as the last of its callbacks: the others
    reset their counters when a training begins, and this one restores them.

    After each epoch, `training.npz` is replaced as a whole. It holds the best epoch so
    far and everything that the next epoch depends on: weights, optimizer, random
    generators, counters of the other callbacks. When the context ends, best.keras,
    history.csv and run.json replace those of an earlier run, all or none. One process
    at a time works in the folder.

    Parameters
    ----------
    folder : Path
        The folder of the run; its name is the name of the run.
    model : compiled keras.Model
    callbacks : list of keras.callbacks.Callback
        The other callbacks; see `make_callbacks`.
    epochs : int
    train_batches, val_batches : ImageBatches
    settings : Settings
    about : dict
        More fields of run.json.

    Attributes
    ----------
    first_epoch : int
        The number of finished epochs, for `initial_epoch`.
    history : DataFrame
        A row for each finished epoch.
    files : dict {name: hash}
        The files that replaced those of an earlier run; empty before the end.

    Raises
    ------
    StorageError
        The folder cannot be written, or its disk is full.
    RuntimeError
        No epoch had a finite validation loss.
    """

    def __init__(
        self,
        folder: Path,
        model: keras.Model,
        callbacks: list[keras.callbacks.Callback],
        epochs: int,
        train_batches: ImageBatches,
        val_batches: ImageBatches,
        settings: Settings,
        about: dict[str, Any],
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.network = model  # Keras sets `model` when a training begins
        self.callbacks = callbacks
        self.epochs = epochs
        self.train_batches = train_batches
        self.val_batches = val_batches
        self.settings = settings
        self.about = about
        self.rows: list[dict[str, float]] = []
        self.counters: list[dict[str, float]] = []
        self.files: dict[str, str] = {}
        self.ended = ""
        self.best = b""

    @property
    def first_epoch(self) -> int:
        return self.epochs if self.ended else len(self.rows)

    @property
    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def __enter__(self) -> "TrainingRun":
        with contextlib.ExitStack() as stack, wrap_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(self.folder, f"training in {self.folder}"))
            with self.lock_runs():
                recover_interrupted_write(self.folder)
            self.fingerprint = training_fingerprint(
                self.network,
                self.train_batches,
                self.val_batches,
                self.epochs,
                self.settings,
            )
            self.variables = self.list_variables()
            self.resume()
            self.locks = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        with self.locks:
            interactive = not os.environ.get("CXR_HEADLESS")
            stopped = kind is KeyboardInterrupt and bool(self.rows) and interactive
            if stopped:
                self.ended = "stopped by hand"
                print(
                    f"Stopped by hand after {len(self.rows)} epochs: "
                    "the best of them is kept."
                )
            elif isinstance(error, OSError):
                raise as_storage_error(self.folder, error) from error
            elif error is not None:
                return False  # the next training of this run resumes from here
            with wrap_os_errors(self.folder):
                self.finalize()
        return stopped

    def lock_runs(self) -> contextlib.AbstractContextManager:
        """Let no other process change files of runs."""
        runs_dir = self.folder.parent
        return lock_folder(runs_dir, f"changing files in {runs_dir}")

    def list_variables(self) -> list[keras.Variable]:
        """Return all that training changes: of the model and of its optimizer."""
        optimizer = self.network.optimizer
        optimizer.build(self.network.trainable_variables)
        return [*self.network.variables, *optimizer.variables]

    def resume(self) -> None:
        """Restore the state of an interrupted training with the same fingerprint."""
        path = self.folder / "training.npz"
        if not path.exists():
            self.remove_state()
            return
        problem = ""
        try:
            with np.load(path, allow_pickle=False) as stored:
                record = json.loads(str(stored["record"]))
                if record.get("fingerprint") == self.fingerprint:
                    best = stored["best"].tobytes()
                    numbers = range(len(self.variables))
                    values = [stored[f"v{number}"] for number in numbers]
                else:
                    problem = "used other settings or images"
        except Exception:  # a damaged archive may raise any kind
            problem = f"cannot be resumed ({path.name} is damaged)"
        if problem:
            print(
                f"The unfinished training in {self.folder} {problem}: "
                "starting again from the first epoch."
            )
            self.remove_state()
            return
        (self.folder / "epoch.keras").unlink(missing_ok=True)  # of an unfinished epoch
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        self.rows = record["rows"]
        self.counters = record["counters"]
        self.ended = record["ended"]
        self.best = best
        print(f"Resuming the training in {self.folder} after epoch {len(self.rows)}.")

    def remove_state(self) -> None:
        """Remove the state of a training; the files of a finished run stay."""
        for name in ("training.npz", "training.npz.unfinished", "epoch.keras"):
            (self.folder / name).unlink(missing_ok=True)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.seconds_before = self.rows[-1]["seconds"] if self.rows else 0
        self.started = time.perf_counter()
        for callback, counters in zip(self.callbacks, self.counters):
            vars(callback).update(counters)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.train_batches.start_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        scores = {name: float(value) for name, value in (logs or {}).items()}
        seconds = self.seconds_before + time.perf_counter() - self.started
        row = {"epoch": epoch + 1, **scores, "seconds": round(seconds, 2)}
        minutes_left = seconds / (epoch + 1) * (self.epochs - epoch - 1) / 60
        print(
            f"Epoch {epoch + 1:3}/{self.epochs}: loss {scores['loss']:.3f}; "
            f"validation loss {scores['val_loss']:.3f}, "
            f"accuracy {scores['val_accuracy']:.3f}, AUC {scores['val_auc']:.4f}; "
            f"learning rate {scores['learning_rate']:.0e}; "
            f"at most {minutes_left:.1f} min left",
            flush=True,
        )
        rows = [*self.rows, row]
        if np.isfinite(scores["loss"]):
            self.save_state(rows)
        else:  # no state worth resuming from
            self.rows = rows
            self.ended = "the loss became NaN"

    def save_state(self, rows: list[dict[str, float]]) -> None:
        """Write what the next epoch depends on; with it, the epoch is finished."""
        checkpoint = self.folder / "epoch.keras"
        best = checkpoint.read_bytes() if checkpoint.exists() else self.best
        ended = "early stopping" if self.network.stop_training else ""
        record = {
            "fingerprint": self.fingerprint,
            "rows": rows,
            "counters": [list_counters(callback) for callback in self.callbacks],
            "ended": ended,
        }
        values = {
            f"v{number}": keras.ops.convert_to_numpy(variable)
            for number, variable in enumerate(self.variables)
        }
        unfinished = self.folder / "training.npz.unfinished"
        with unfinished.open("wb") as file:
            np.savez(
                file,
                record=np.array(json.dumps(record)),
                best=np.frombuffer(best, np.uint8),
                **values,
            )
        unfinished.replace(self.folder / "training.npz")
        self.rows = rows
        self.ended = ended
        self.best = best
        checkpoint.unlink(missing_ok=True)

    def finalize(self) -> None:
        """Put the files of this run in place of an earlier run's; remove the state."""
        if not self.best:
            self.remove_state()
            raise RuntimeError(
                "No epoch had a finite validation loss: choose a smaller LEARNING_RATE."
            )
        history = self.history
        contents = {
            "best.keras": self.best,
            "history.csv": history.to_csv(index=False).encode(),
        }
        hashes = {name: short_hash(content) for name, content in contents.items()}
        record = {
            "schema": 1,
            "name": self.folder.name,
            "trained": utc_now(),
            **self.about,
            "settings": vars(self.settings),
            "epochs": len(history),
            "ended": self.ended or "all epochs",
            "seconds": history.seconds.iloc[-1],
            "best_epoch": int(history.epoch[history.val_loss.idxmin()]),
            "files": hashes,
        }
        contents["run.json"] = to_json(record).encode()
        contents["validation.csv"] = b""  # removes the predictions of an earlier run
        with self.lock_runs(), replace_atomically(self.folder) as new_folder:
            for name, content in contents.items():
                (new_folder / name).write_bytes(content)
        self.files = hashes
        self.remove_state()
        if not np.isfinite(history.loss.iloc[-1]):
            print(
                f"The loss became NaN in epoch {len(history)}: the best earlier epoch "
                "is kept. Choose a smaller LEARNING_RATE."
            )


def list_counters(callback: keras.callbacks.Callback) -> dict[str, float]:
    """Return the numbers that a callback remembers from epoch to epoch."""
    return {  # no text: a path would be that of this computer
        name: value
        for name, value in vars(callback).items()
        if isinstance(value, (bool, int, float)) and not name.startswith("_")
    }


def count_epochs_above(history: pd.DataFrame) -> int:
    """Return for how many last epochs the validation loss exceeds the training loss."""
    above = history.val_loss > history.loss
    return int(above[::-1].cumprod().sum())


def describe_learning_curves(history: pd.DataFrame) -> str:
    """Return in words whether the learning curves show overfitting, and from when on.

    Parameters
    ----------
    history : DataFrame
        A row for each epoch, with epoch, loss and val_loss.

    Returns
    -------
    str
        One or two sentences.
    """
    finite = history[np.isfinite(history.loss) & np.isfinite(history.val_loss)]
    best = finite.loc[finite.val_loss.idxmin()]
    last = finite.iloc[-1]
    above = count_epochs_above(finite)
    if above == 0:
        sentence = "The validation loss ends below the training loss."
    else:
        first = int(finite.epoch.iloc[-above])
        sentence = (
            f"From epoch {first} on, the validation loss stays above the training loss."
        )
    later = int((finite.epoch > best.epoch).sum())
    if later == 0:
        verdict = "It was lowest in the last epoch: more epochs may help."
    elif later < 3:
        verdict = (
            f"It was lowest in epoch {best.epoch:.0f}, which is kept. Too few epochs "
            "followed to tell overfitting from chance."
        )
    elif last.loss < 0.95 * best.loss:
        verdict = (
            f"After epoch {best.epoch:.0f} only the training loss decreases "
            f"({best.loss:.3f} to {last.loss:.3f}): overfitting from there on, which "
            "is why that epoch is kept."
        )
    else:
        verdict = (
            f"After epoch {best.epoch:.0f} neither loss decreases much: the training "
            "has converged, without clear overfitting."
        )
    return f"{sentence} {verdict}"
