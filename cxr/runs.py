"""The record of a run on disk: section 6 writes it, section 7 completes it, section 9 reads it."""

import contextlib
import io
import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from cxr.batches import ImageBatches
from cxr.calibration import (
    calibrate_model,
    choose_calibration,
    expected_calibration_error,
)
from cxr.evaluation import metrics_with_ci, predict_probabilities
from cxr.models import load_model
from cxr.robustness import pool_perturbations, predict_perturbed
from cxr.storage import (
    lock_folder,
    recover_interrupted_write,
    replace_atomically,
    short_hash,
    to_json,
    utc_now,
)
from cxr.thresholds import choose_threshold


def validation_set_id(files: pd.DataFrame) -> str:
    """Return eight characters that tell one set of held-out images from another."""
    return short_hash("\n".join(sorted(files.path[files.split == "val"])).encode())[:8]


def read_verified(folder: Path, record: dict, name: str) -> bytes:
    """Return the content of a file; raise ValueError unless it is the one that the record names. (One of an earlier version names none.)"""
    content = (folder / name).read_bytes() if (folder / name).exists() else b""
    if (
        not content
        or record["files"].get(name, digest := short_hash(content)) != digest
    ):
        raise ValueError(
            f"{folder / name} is missing, damaged, or replaced by another process: run sections 6 and 7 again."
        )
    return content


def read_record(folder: Path) -> tuple[dict, pd.DataFrame]:
    """Return (run.json, history.csv) of a run; raise ValueError, with the file's name, if one is missing, damaged or lacks a field."""
    kinds = {
        "trained": str,
        "validated": str,
        "data": str,
        "val": str,
        "settings": dict,
        "epochs": int,
        "seconds": int | float,
        "best_epoch": int,
        "files": dict,
    }
    path = folder / "run.json"
    try:
        unknown = {
            "trained": "",
            "validated": "",
            "validation": {},
            "files": {},
        }  # in records of earlier versions
        record = (
            unknown
            | json.loads(path.read_text(encoding="utf-8"))
            | {"name": folder.name}
        )
        if not all(isinstance(record[name], kind) for name, kind in kinds.items()):
            raise ValueError
        if record["validation"]:
            scores = pd.DataFrame(record["validation"]).loc[
                ["value", "low", "high"],
                ["auc", "accuracy", "sensitivity", "specificity"],
            ]
            record |= {
                "validation": scores.astype(float).to_dict(),
                "threshold": float(record["threshold"]),
            }
        path = folder / "history.csv"
        history = pd.read_csv(io.BytesIO(read_verified(folder, record, path.name)))[
            ["epoch", "val_loss", "val_auc"]
        ].astype(float)
        history.loc[history.val_loss.idxmin()]  # there is a best epoch
    except (OSError, ValueError, TypeError, LookupError):
        raise ValueError(
            f"{path} is missing or damaged: delete that folder, or run sections 6 and 7 for it again."
        ) from None
    return record, history


@contextlib.contextmanager
def lock_run(folder: Path):
    """Let no other process change files of runs for a moment, and have those of this run settled; FileNotFoundError if it has none."""
    if not any((folder / name).exists() for name in ("run.json", "together")):
        raise FileNotFoundError(
            f"There is no finished run in {folder}: run section 6 first (or choose another RUN_NAME)."
        )
    with lock_folder(folder.parent, f"changing files in {folder.parent}"):
        recover_interrupted_write(folder)
        yield


def load_run(
    folder: Path, image_size: int, holdout: str, resize_mode: str = "stretch"
) -> tuple[keras.Model, dict]:
    """Return (model, record) of a finished run of that `holdout`; raise ValueError that says what to run."""
    record, _ = read_record(folder)
    if record["val"] != holdout:
        raise ValueError(
            f"The run {folder.name!r} held out other images than section 4 does now, so it may have learned from "
            "these: run section 6 again, or set SPLIT_SEED and the data back and run section 4."
        )
    read_verified(folder, record, "best.keras")
    model = load_model(folder / "best.keras")
    if model.input_shape[1] != image_size:
        raise ValueError(
            f"The run {folder.name!r} was trained at {model.input_shape[1]} pixels and the images are loaded at "
            f"{image_size}: run section 6 again, or set IMAGE_SIZE back and run section 2."
        )
    if (trained := record["settings"].get("RESIZE_MODE", "stretch")) != resize_mode:
        raise ValueError(
            f"The run {folder.name!r} was trained with RESIZE_MODE {trained!r} and the images are loaded with {resize_mode!r}: "
            "run section 6 again, or set RESIZE_MODE back and run section 2."
        )
    return model, record


def validate_run(
    folder: Path,
    holdout: ImageBatches,
    holdout_files: pd.DataFrame,
    settings,
    trained=None,
) -> tuple[keras.Model, dict, dict]:
    """Reload a run, calibrate it, choose its threshold, add scores and answers; return (model, record, changed).

    `trained`: the TrainingRun if this process has trained it; ValueError where another process has trained a run of this name since.
    `changed`: {change: probabilities} of `predict_perturbed`. Together they choose the threshold: in unchanged images few answers are near it.
    """
    with lock_run(folder):
        resize_mode = getattr(settings, "RESIZE_MODE", "stretch")
        model, record = load_run(
            folder,
            holdout.arrays[0].shape[1],
            validation_set_id(holdout_files),
            resize_mode,
        )
    own = (
        trained.files if trained is not None and trained.folder == folder else {}
    ) or record["files"]
    raw, labels = predict_probabilities(model, holdout), holdout.labels
    temperature, shift, crossed = choose_calibration(labels, raw, holdout_files.patient)
    calibrate_model(model, temperature, shift)
    changed = predict_perturbed(model, holdout)
    probabilities = changed["unchanged"]
    threshold = choose_threshold(*pool_perturbations(labels, changed))
    record |= {
        "network": model.name,
        "parameters": model.count_params(),
        "threshold": threshold,
        "temperature": temperature,
        "shift": shift,
        "expected_calibration_error": {
            "before": expected_calibration_error(labels, raw),
            "after": expected_calibration_error(labels, crossed),
        },
        "validation": metrics_with_ci(
            labels,
            probabilities,
            holdout_files.patient,
            threshold,
            settings.BOOTSTRAP_SAMPLES,
            settings.SEED,
        ),
    }
    with lock_run(folder):
        if not read_record(folder)[0]["files"] == record["files"] == own:
            raise ValueError(
                f"Another process has trained the run {folder.name!r} anew meanwhile: run section 6 again, and give one of "
                "the two another RUN_NAME."
            )
        save_predictions(folder, record, holdout_files, probabilities)
    return model, record, changed


def save_predictions(
    folder: Path, record: dict, files: pd.DataFrame, probabilities: np.ndarray
) -> None:
    """Put a run's answers for the held-out images (validation.csv), and then its record, which names them, into its folder."""
    text = (
        files[["path", "label", "patient", "width", "height"]]
        .assign(probability=probabilities)
        .to_csv(index=False)
    )
    record |= {"validated": utc_now(), "answers": short_hash(text.encode())[:8]}
    with replace_atomically(folder) as new:
        (new / "validation.csv").write_text(text, encoding="utf-8")
        (new / "run.json").write_text(to_json(record), encoding="utf-8")


def publish_run(
    output_dir: Path,
    run_dir: Path,
    record: dict,
    model: keras.Model,
    predictions: pd.DataFrame,
    report: dict,
) -> None:
    """Put best.keras, history.csv, predictions.csv and metrics.json, which names the others, of one run into `output_dir`: all or none."""
    history = read_verified(run_dir, record, "history.csv")
    with (
        lock_folder(run_dir.parent, f"changing files in {output_dir}"),
        replace_atomically(output_dir) as new,
    ):
        model.save(new / "best.keras")
        (new / "history.csv").write_bytes(history)
        (new / "predictions.csv").write_text(
            predictions.to_csv(index=False), encoding="utf-8"
        )
        report["files"] = {
            path.name: short_hash(path.read_bytes()) for path in sorted(new.iterdir())
        }
        (new / "model_card.md").touch()  # that of the run before goes
        (new / "metrics.json").write_text(to_json(report), encoding="utf-8")


def read_run(folder: Path) -> dict:
    """Return the record of a run with its tables "history" and "answers", and "apart": why it cannot be compared, or ""."""
    try:
        record, history = read_record(folder)
    except ValueError as error:
        return {"name": folder.name, "apart": "damaged", "damage": str(error)}
    kept, table = folder / "validation.csv", None
    if kept.exists() and short_hash(kept.read_bytes())[:8] == record.get(
        "answers"
    ):  # those that the record is made from
        table = pd.read_csv(
            kept, dtype={"path": str, "patient": str, "probability": str}
        ).sort_values("path", ignore_index=True)
        table["probability"] = table.probability.map(float)  # to the last bit
    return record | {
        "history": history,
        "answers": table,
        "apart": "" if record["validation"] else "not evaluated yet (run section 7)",
    }


def list_runs(runs_dir: Path) -> list[dict]:
    """Return the records of all runs (see `read_run`), each with "reference": the name of the run to compare with, or None.

    First come those that answered for the images of the run validated last, by falling AUC. Raises FileNotFoundError if none is evaluated.
    """
    runs_dir = Path(runs_dir)
    with (
        lock_folder(runs_dir, f"changing files in {runs_dir}")
        if runs_dir.is_dir()
        else contextlib.nullcontext()
    ):
        for path in runs_dir.glob("*/together"):
            recover_interrupted_write(path.parent)
        records = [
            read_run(path.parent) for path in sorted(runs_dir.glob("*/run.json"))
        ]
    evaluated, others = (
        [one for one in records if bool(one["apart"]) == apart]
        for apart in (False, True)
    )
    if not evaluated:
        found = "".join(f"; {one['name']}: {one['apart']}" for one in others)
        raise FileNotFoundError(
            f"There is no evaluated run in {runs_dir}{found}. Run sections 6 and 7 first."
        )
    latest = max(evaluated, key=lambda one: one["validated"])
    for one in evaluated:
        differs = [
            reason
            for reason, name in (
                ("other data", "data"),
                ("other held-out images", "val"),
            )
            if one[name] != latest[name]
        ]
        one["apart"] = (
            differs[0]
            if differs
            else "answers not kept (run section 7)"
            if one["answers"] is None
            else ""
        )
    reference = min(
        (one for one in evaluated if not one["apart"]),
        default=None,
        key=lambda one: (
            one["name"] != "reference",
            one["name"] == "baseline",
            one["trained"],
        ),
    )
    images = ["path", "label", "width", "height"]
    for one in records:
        one["reference"] = reference and reference["name"]
        if (
            reference
            and not one["apart"]
            and not one["answers"][images].equals(reference["answers"][images])
        ):
            one["apart"] = "other images of these names"
    return (
        sorted(
            evaluated,
            key=lambda one: (
                one["apart"] != "",
                one["data"] != latest["data"],
                one["val"] != latest["val"],
                one["data"],
                one["val"],
                -one["validation"]["auc"]["value"],
            ),
        )
        + others
    )
