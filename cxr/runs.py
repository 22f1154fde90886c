"""The record of a run on disk: section 6 writes it, 7 completes it, 9 reads it.

A run is a folder OUTPUT_DIR/runs/NAME. Section 6 leaves best.keras, history.csv and
run.json in it; section 7 adds validation.csv, the predictions for the validation images
(path, label, patient, width, height, probability). The fields of run.json:

schema : 1, the version of this list
name : the RUN_NAME, which is also that of the folder
trained : time at which the training ended, UTC
data : "chest-xray-pneumonia", "phantom" or "other"
validation_set : identifies the validation images (see `validation_set_id`)
settings : {setting: value} of the training
epochs : number of epochs that were trained
ended : why the training ended: "all epochs", "early stopping", "stopped by hand" …
seconds : duration of the training
best_epoch : the epoch with the lowest validation loss, from 1, which best.keras holds
files : {file name: digest} of best.keras and history.csv (see `short_hash`)

and, from section 7 on:

network : name of the architecture
parameters : number of its parameters
temperature, shift : of Platt scaling; 1 and 0 where it was not applied
calibration_error : {"before", "after", "after_by_chance"}: on validation
threshold : the probability from which on the prediction is PNEUMONIA
validation : {metric: {"value", "low", "high"}} with 95% confidence intervals
validated : time of the evaluation, UTC
predictions_hash : digest of validation.csv
"""

import contextlib
import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict, cast

import keras
import numpy as np
import pandas as pd

from cxr.calibration import calibrate_model
from cxr.evaluation import Estimate
from cxr.models import load_model
from cxr.settings import Settings
from cxr.storage import (
    lock_folder,
    recover_interrupted_write,
    replace_atomically,
    short_hash,
    to_json,
    utc_now,
)


class EarlierVersionError(ValueError):
    """A run was trained by an earlier version of the notebook; the message names it."""


class RunRecord(TypedDict, total=False):
    """The fields of run.json, and what `read_run` and `list_runs` add to them.

    history : history.csv, a row for each epoch
    predictions : validation.csv, sorted by path; None if it is missing or damaged
    exclusion_reason : why the run cannot be compared with the others, or ""
    error : a sentence about a record that cannot be read
    reference : the name of the run with which the others are compared, or None
    """

    schema: int
    name: str
    trained: str
    data: str
    validation_set: str
    settings: dict[str, Any]
    epochs: int
    ended: str
    seconds: float
    best_epoch: int
    files: dict[str, str]
    network: str
    parameters: int
    temperature: float
    shift: float
    calibration_error: dict[str, float]
    threshold: float
    validation: dict[str, Estimate]
    validated: str
    predictions_hash: str
    history: pd.DataFrame
    predictions: pd.DataFrame | None
    exclusion_reason: str
    error: str
    reference: str | None


def to_csv(table: pd.DataFrame) -> str:
    """Return a table without its index as CSV that pandas reads back unchanged.

    Texts are quoted where one of them holds a carriage return, because a reader takes
    an unquoted one, which the csv module writes, for the end of a row.
    """
    texts = table.select_dtypes(exclude="number").astype(str)
    has_return = texts.apply(lambda column: column.str.contains("\r")).any(axis=None)
    quoting = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    return table.to_csv(index=False, lineterminator="\n", quoting=quoting)


def validation_set_id(files: pd.DataFrame) -> str:
    """Return eight characters that identify the set of validation images."""
    paths = sorted(files.path[files.split == "val"])
    return short_hash("\n".join(paths).encode())[:8]


def check_run_folder(runs_dir: Path, name: str) -> None:
    """Raise ValueError if there is a run whose name differs in letter case only.

    Many disks keep both in one folder, so one run would replace the other.
    """

    def fold(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    existing = [path.name for path in runs_dir.iterdir()] if runs_dir.is_dir() else []
    similar = [other for other in existing if fold(other) == fold(name)]
    if similar and name not in similar:
        raise ValueError(
            f"RUN_NAME is {name!r}, but {runs_dir} has a run {similar[0]!r}, and many "
            "disks do not distinguish upper and lower case: write it as "
            f"{similar[0]!r} to replace that run, or choose another name."
        )


def inactive_settings(record: RunRecord) -> list[str]:
    """Return the settings that had no effect on the training of a run."""
    inactive = ["RUN_NAME", "DATA_DIR", "OUTPUT_DIR", "CACHE_DIR", "PRESET"]
    inactive += ["BOOTSTRAP_SAMPLES", "SAVE_TO_DRIVE"]
    is_baseline = record["name"] == "baseline"
    if is_baseline:  # section 6 trains it without regularization
        inactive += ["EPOCHS", "AUGMENT", "DROPOUT", "WEIGHT_DECAY", "CLASS_WEIGHTS"]
    else:
        inactive += ["BASELINE_EPOCHS"]
    if is_baseline or not record["settings"].get("AUGMENT", True):
        inactive += ["AUG_AFFINE", "AUG_INTENSITY", "AUG_BLUR_NOISE", "FLIP"]
    return inactive


def describe_other_settings(record: RunRecord, settings: Settings) -> str:
    """Return a sentence that names the current settings that a run did not have.

    It is empty if there are none. Settings without an effect on it do not count.
    """
    current = vars(settings)
    inactive = inactive_settings(record)
    inactive += inactive_settings({"name": record["name"], "settings": current})
    changes = [
        f"{name} {value!r} (now {current[name]!r})"
        for name, value in record["settings"].items()
        if name not in inactive and current.get(name, value) != value
    ]
    if not changes:
        return ""
    return (
        f"The run {record['name']!r} was trained with other settings than the current "
        f"ones: {', '.join(changes)}. To train it with these, run section 6 again."
    )


def read_verified(folder: Path, record: RunRecord, name: str) -> bytes:
    """Return the content of a file of a run.

    Raises ValueError unless it has the digest that the record's `files` gives.
    """
    path = folder / name
    content = path.read_bytes() if path.exists() else b""
    if not content or record["files"].get(name) != short_hash(content):
        raise ValueError(
            f"{path} is missing, damaged, or replaced by another process: "
            "run sections 6 and 7 again."
        )
    return content


def check_fields(record: dict[str, Any]) -> None:
    """Raise ValueError, TypeError or LookupError if a field of run.json is unusable."""
    types = {
        "trained": str,
        "validated": str,
        "data": str,
        "validation_set": str,
        "settings": dict,
        "epochs": int,
        "seconds": int | float,
        "best_epoch": int,
        "files": dict,
    }
    if not all(isinstance(record[name], kind) for name, kind in types.items()):
        raise ValueError("a field has the wrong type")
    if record["validation"]:
        scores = pd.DataFrame(record["validation"]).loc[
            ["value", "low", "high"],
            ["auc", "accuracy", "sensitivity", "specificity"],
        ]
        record["validation"] = scores.astype(float).to_dict()
        record["threshold"] = float(record["threshold"])


def read_record(folder: Path) -> tuple[RunRecord, pd.DataFrame]:
    """Read run.json and history.csv of a run.

    Returns
    -------
    record : RunRecord
        `validated` is "" and `validation` is empty where section 7 has not run.
    history : DataFrame
        Columns epoch, val_loss and val_auc, float64, at least one row.

    Raises
    ------
    EarlierVersionError
        The run was trained by an earlier version.
    ValueError
        A file is missing or damaged, or lacks a field. The message names the file.
    """
    path = folder / "run.json"
    try:
        defaults = {"validated": "", "validation": {}}
        record = defaults | json.loads(path.read_text(encoding="utf-8"))
        record["name"] = folder.name
        if record.get("schema") != 1:
            raise EarlierVersionError(
                f"{path} was written by an earlier version of this notebook: "
                "train the run again (sections 6 and 7), or delete that folder."
            )
        check_fields(record)
        run_record = cast(RunRecord, record)
        path = folder / "history.csv"
        content = read_verified(folder, run_record, path.name)
        columns = ["epoch", "val_loss", "val_auc"]
        history = pd.read_csv(io.BytesIO(content))[columns].astype(float)
        history.loc[history.val_loss.idxmin()]  # raises if no epoch is the best
    except EarlierVersionError:
        raise
    except (OSError, ValueError, TypeError, LookupError):
        raise ValueError(
            f"{path} is missing or damaged: delete that folder, "
            "or run sections 6 and 7 for it again."
        ) from None
    return run_record, history


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the files of runs for a moment.

    An interrupted write is completed or undone first. Raises FileNotFoundError if there
    is no finished run in `folder`.
    """
    if not any((folder / name).exists() for name in ("run.json", "staging")):
        raise FileNotFoundError(
            f"There is no finished run in {folder}: "
            "run section 6 first (or choose another RUN_NAME)."
        )
    with lock_folder(folder.parent, f"changing files in {folder.parent}"):
        recover_interrupted_write(folder)
        yield


def load_run(
    folder: Path, settings: Settings, validation_set: str
) -> tuple[keras.Model, RunRecord]:
    """Load a finished run to evaluate it on the current images.

    If the run was trained with other settings than the current ones, a printed sentence
    names them.

    Parameters
    ----------
    folder : Path
        OUTPUT_DIR/runs/NAME.
    settings : Settings
    validation_set : str
        The `validation_set_id` of the current split.

    Returns
    -------
    model : keras.Model
        The network of the best epoch, not calibrated.
    record : RunRecord
        With the fields "network" and "parameters".

    Raises
    ------
    FileNotFoundError
        There is no finished run in `folder`.
    ValueError
        Its files are damaged or of an earlier version; or the run was trained with
        another validation set, image size or resize mode.
    """
    with lock_run(folder):
        record, _ = read_record(folder)
        if record["validation_set"] != validation_set:
            raise ValueError(
                f"The run {folder.name!r} was trained with another validation set than "
                "that of section 4, so it may have been trained on these images: run "
                "section 6 again, or set SPLIT_SEED and the data back and run section "
                "4 again."
            )
        read_verified(folder, record, "best.keras")
        model = load_model(folder / "best.keras")
    size = model.input_shape[1]
    if size != settings.IMAGE_SIZE:
        raise ValueError(
            f"The run {folder.name!r} was trained at {size} pixels and the images are "
            f"loaded at {settings.IMAGE_SIZE}: run section 6 again, or set IMAGE_SIZE "
            "back and run section 2 again."
        )
    resize_mode = record["settings"].get("RESIZE_MODE")
    if resize_mode != settings.RESIZE_MODE:
        raise ValueError(
            f"The run {folder.name!r} was trained with RESIZE_MODE {resize_mode!r} and "
            f"the images are loaded with {settings.RESIZE_MODE!r}: run section 6 "
            "again, or set RESIZE_MODE back and run section 2 again."
        )
    if sentence := describe_other_settings(record, settings):
        print(sentence)
    record["network"] = model.name
    record["parameters"] = model.count_params()
    return model, record


def save_validation(
    folder: Path,
    record: RunRecord,
    val_files: pd.DataFrame,
    probabilities: np.ndarray,
    trained: Any = None,
) -> RunRecord:
    """Write validation.csv and run.json of a run that has been evaluated.

    Parameters
    ----------
    folder : Path
        OUTPUT_DIR/runs/NAME.
    record : RunRecord
        That of `load_run`, with threshold, temperature, shift, calibration_error and
        validation.
    val_files : DataFrame, shape (n, …)
        The validation images: path, label, patient, width, height.
    probabilities : float64 (n,)
        Calibrated predictions for them.
    trained : TrainingRun, optional
        The last training of this process. If it is that of `folder`, its files must
        still be there.

    Returns
    -------
    RunRecord
        The record with "validated" and "predictions_hash".

    Raises
    ------
    ValueError
        Another process has replaced the run in the meantime.
    """
    expected = record["files"]
    if trained is not None and trained.folder == folder and trained.files:
        expected = trained.files
    with lock_run(folder):
        current = read_record(folder)[0]["files"]
        if not current == record["files"] == expected:
            raise ValueError(
                f"Another process has trained the run {folder.name!r} again in the "
                "meantime: run section 6 again, and give one of the two another "
                "RUN_NAME."
            )
        return save_predictions(folder, record, val_files, probabilities)


def save_predictions(
    folder: Path, record: RunRecord, files: pd.DataFrame, probabilities: np.ndarray
) -> RunRecord:
    """Write validation.csv, and run.json with its digest; return the record."""
    table = files[["path", "label", "patient", "width", "height"]]
    content = to_csv(table.assign(probability=probabilities)).encode()
    digest = short_hash(content)[:8]
    record = record | {"validated": utc_now(), "predictions_hash": digest}
    with replace_atomically(folder) as staging:
        (staging / "validation.csv").write_bytes(content)
        (staging / "run.json").write_text(to_json(record), encoding="utf-8")
    return record


def check_network(folder: Path, record: RunRecord, model: keras.Model) -> None:
    """Raise ValueError unless record and network are those of the run in `folder`.

    The network must have the weights of best.keras, calibrated as the record says.
    """
    current, _ = read_record(folder)
    if record["name"] != folder.name or record["files"] != current["files"]:
        raise ValueError(
            f"The scores are those of another training of {record['name']!r}, and not "
            f"of the run in {folder}: run section 7 again from its beginning."
        )
    read_verified(folder, record, "best.keras")
    stored = load_model(folder / "best.keras")
    calibrate_model(stored, record["temperature"], record["shift"])
    weights = model.get_weights()
    expected = stored.get_weights()
    same_shapes = [w.shape for w in weights] == [w.shape for w in expected]
    if not same_shapes or not all(map(np.allclose, weights, expected)):
        raise ValueError(
            f"The network in memory is not that of the run in {folder}, or it was "
            "calibrated twice: run section 7 again from its beginning."
        )


def publish_run(
    output_dir: Path,
    folder: Path,
    record: RunRecord,
    model: keras.Model,
    predictions: pd.DataFrame,
    report: dict[str, Any],
) -> None:
    """Put the results of one run into OUTPUT_DIR: all files or none.

    They are best.keras, history.csv, predictions.csv and metrics.json. The model card
    of an earlier run is removed.

    Parameters
    ----------
    output_dir : Path
    folder : Path
        OUTPUT_DIR/runs/NAME.
    record : RunRecord
        That of `save_validation`.
    model : keras.Model
        The calibrated network of the run.
    predictions : DataFrame
        Columns split, path, label and probability.
    report : dict
        The content of metrics.json; "files", {name: digest} of the others, is added.

    Raises
    ------
    ValueError
        Record, report, network and the run in `folder` do not belong together.
    StorageError
        The files cannot be written.
    """
    with lock_run(folder):
        check_network(folder, record, model)
        if report["run"] != record["name"]:
            raise ValueError(
                f"The report is of the run {report['run']!r}, and the record of "
                f"{record['name']!r}: run section 7 again from its beginning."
            )
        history = read_verified(folder, record, "history.csv")
        with replace_atomically(output_dir) as staging:
            model.save(staging / "best.keras")
            (staging / "history.csv").write_bytes(history)
            (staging / "predictions.csv").write_bytes(to_csv(predictions).encode())
            report["files"] = {
                path.name: short_hash(path.read_bytes())
                for path in sorted(staging.iterdir())
            }
            (staging / "model_card.md").touch()  # empty: that of an earlier run goes
            (staging / "metrics.json").write_text(to_json(report), encoding="utf-8")


def read_run(folder: Path) -> RunRecord:
    """Return the record of a run with history, predictions and exclusion_reason."""
    try:
        record, history = read_record(folder)
    except ValueError as error:
        reason = "damaged"
        if isinstance(error, EarlierVersionError):
            reason = "written by an earlier version (train it again)"
        return {
            "name": folder.name,
            "exclusion_reason": reason,
            "error": str(error),
        }
    record["history"] = history
    record["predictions"] = None
    record["exclusion_reason"] = ""
    if not record["validation"]:
        record["exclusion_reason"] = "not evaluated yet (run section 7)"
    path = folder / "validation.csv"
    content = path.read_bytes() if path.exists() else b""
    if short_hash(content)[:8] == record.get("predictions_hash"):
        # Texts as they are ("NA" is a name), probabilities to the last bit.
        types = {"path": str, "patient": str, "probability": str}
        table = pd.read_csv(io.BytesIO(content), dtype=types, keep_default_na=False)
        table = table.sort_values("path", ignore_index=True)
        table["probability"] = table.probability.map(float)
        record["predictions"] = table
    return record


def read_runs(runs_dir: Path) -> list[RunRecord]:
    """Return the records of all runs, by name (see `read_run`)."""
    if not runs_dir.is_dir():
        return []
    with lock_folder(runs_dir, f"changing files in {runs_dir}"):
        for staging in runs_dir.glob("*/staging"):
            recover_interrupted_write(staging.parent)
        return [read_run(path.parent) for path in sorted(runs_dir.glob("*/run.json"))]


def list_runs(runs_dir: Path) -> list[RunRecord]:
    """Return the records of all runs, and which of them can be compared.

    Runs can be compared that were evaluated on the same images of the same data as the
    run that was evaluated last. The reference is the run of that name, else the oldest
    that is not the baseline.

    Parameters
    ----------
    runs_dir : Path
        OUTPUT_DIR/runs.

    Returns
    -------
    list of RunRecord
        With "exclusion_reason" and "reference". First come the comparable runs by
        falling AUC, then runs on other images, then those not evaluated or damaged.

    Raises
    ------
    FileNotFoundError
        No run has been evaluated.
    """
    runs_dir = Path(runs_dir)
    records = read_runs(runs_dir)
    evaluated = [record for record in records if not record["exclusion_reason"]]
    others = [record for record in records if record["exclusion_reason"]]
    if not evaluated:
        found = "".join(
            f"; {record['name']}: {record['exclusion_reason']}" for record in others
        )
        raise FileNotFoundError(
            f"There is no evaluated run in {runs_dir}{found}. "
            "Run sections 6 and 7 first."
        )
    latest = max(evaluated, key=lambda record: record["validated"])
    for record in evaluated:
        if record["data"] != latest["data"]:
            record["exclusion_reason"] = "other data"
        elif record["validation_set"] != latest["validation_set"]:
            record["exclusion_reason"] = "other validation images"
        elif record["predictions"] is None:
            record["exclusion_reason"] = "predictions missing (run section 7)"
    reference = min(
        (record for record in evaluated if not record["exclusion_reason"]),
        default=None,
        key=lambda record: (
            record["name"] != "reference",
            record["name"] == "baseline",
            record["trained"],
        ),
    )
    for record in records:
        record["reference"] = reference["name"] if reference else None
        if not reference or record["exclusion_reason"]:
            continue
        if not have_same_images(record, reference):
            record["exclusion_reason"] = "other images under the same file names"
    evaluated.sort(
        key=lambda record: (
            record["exclusion_reason"] != "",
            record["data"] != latest["data"],
            record["validation_set"] != latest["validation_set"],
            record["data"],
            record["validation_set"],
            -record["validation"]["auc"]["value"],
        )
    )
    return evaluated + others


def have_same_images(record: RunRecord, other: RunRecord) -> bool:
    """Return whether two runs have predictions for images of equal path and size."""
    columns = ["path", "label", "width", "height"]
    table = record["predictions"]
    other_table = other["predictions"]
    if table is None or other_table is None:
        return False
    return table[columns].equals(other_table[columns])
