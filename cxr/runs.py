"""The record of a run on disk: section 6 writes it, section 7 completes it, section 9 reads it."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from cxr.batches import ImageBatches
from cxr.measure import calibrate, calibration_error, choose_threshold, fit_temperature, predict_probabilities, score
from cxr.shift import answer_changed, join_changes
from cxr.storage import as_json, tell_time, write_whole


def identify_holdout(pool_files: pd.DataFrame) -> str:
    """Return eight characters that tell one set of held-out images from another."""
    return hashlib.sha256("\n".join(sorted(pool_files.path[pool_files.part == "holdout"])).encode()).hexdigest()[:8]


def finish_run(state, settings, kind: str, holdout: str) -> pd.DataFrame:
    """Put best.keras, history.csv and run.json of a training in place; return the history. Raises RuntimeError without a best epoch."""
    if not (state.folder / "training.keras").exists():
        state.forget()
        raise RuntimeError("No epoch gave a finite loss on the held-out images: choose a smaller LEARNING_RATE.")
    (state.folder / "training.keras").replace(state.folder / "best.keras")
    table = pd.DataFrame(state.rows)
    write_whole(state.folder / "history.csv", table.to_csv(index=False))
    write_whole(state.folder / "run.json", as_json({
        "name": state.folder.name, "trained": tell_time(), "data": kind, "holdout": holdout, "settings": vars(settings),
        "epochs": len(table), "ended": state.ended or "all epochs", "seconds": table.seconds.iloc[-1],
        "best_epoch": int(table.epoch[table.val_loss.idxmin()])}))
    if state.ended.startswith("the loss"):
        print(f"In epoch {len(table)} {state.ended}. The best epoch before that is kept; choose a smaller LEARNING_RATE.")
    state.forget()
    return table


def read_record(folder: Path) -> tuple[dict, pd.DataFrame]:
    """Return (run.json, history.csv) of a run; raise ValueError, with the file's name, if one is missing, damaged or lacks a field."""
    kinds = {"trained": str, "validated": str, "data": str, "holdout": str, "settings": dict, "epochs": int, "seconds": int | float,
             "best_epoch": int}
    path = folder / "run.json"
    try:
        record = {"trained": "", "validated": "", "validation": {}} | json.loads(path.read_text(encoding="utf-8")) | {"name": folder.name}
        if not all(isinstance(record[name], kind) for name, kind in kinds.items()):
            raise ValueError
        if record["validation"]:
            scores = pd.DataFrame(record["validation"]).loc[["value", "low", "high"], ["auc", "accuracy", "sensitivity", "specificity"]]
            record |= {"validation": scores.astype(float).to_dict(), "threshold": float(record["threshold"])}
        path = folder / "history.csv"
        history = pd.read_csv(path)[["epoch", "val_loss", "val_auc"]].astype(float)
        history.loc[history.val_loss.idxmin()]  # there is a best epoch
    except (OSError, ValueError, TypeError, LookupError):
        raise ValueError(f"{path} is missing or damaged: delete that folder, or run sections 6 and 7 for it again.") from None
    return record, history


def load_run(folder: Path, image_size: int, holdout: str) -> tuple[keras.Model, dict]:
    """Return (model, record) of a finished run of that `holdout`; raise FileNotFoundError or ValueError that says what to run."""
    if not (folder / "best.keras").exists() or not (folder / "run.json").exists():
        raise FileNotFoundError(f"There is no finished run in {folder}: run section 6 first (or choose another RUN_NAME).")
    record, _ = read_record(folder)
    if record["holdout"] != holdout:
        raise ValueError(f"The run {folder.name!r} held out other images than section 4 does now, so it may have learnt from "
                         "these: run section 6 again, or set SPLIT_SEED and the data back and run section 4.")
    model = keras.models.load_model(folder / "best.keras")
    if model.input_shape[1] != image_size:
        raise ValueError(f"The run {folder.name!r} was trained at {model.input_shape[1]} pixels and the images are loaded at "
                         f"{image_size}: run section 6 again, or set IMAGE_SIZE back and run section 2.")
    return model, record


def validate_run(folder: Path, holdout: "ImageBatches", holdout_files: pd.DataFrame, settings) -> tuple[keras.Model, dict, dict]:
    """Reload a run, calibrate it, choose its threshold, add scores and answers; return (model, record, changed).

    `changed`: {change: probabilities} of `answer_changed`. Together they choose the threshold: in unchanged images few answers are near it.
    """
    model, record = load_run(folder, holdout.arrays[0].shape[1], identify_holdout(holdout_files))
    raw, labels = predict_probabilities(model, holdout), holdout.labels
    temperature = fit_temperature(labels, raw)
    calibrate(model, temperature)
    changed = answer_changed(model, holdout)
    probabilities = changed["unchanged"]
    threshold = choose_threshold(*join_changes(labels, changed))
    record |= {"network": model.name, "parameters": model.count_params(), "temperature": temperature, "threshold": threshold,
               "calibration_error": {"before": calibration_error(labels, raw), "after": calibration_error(labels, probabilities)},
               "validation": score(labels, probabilities, holdout_files.patient, threshold, settings.RESAMPLES, settings.SEED)}
    keep_answers(folder, record, holdout_files, probabilities)
    return model, record, changed


def keep_answers(folder: Path, record: dict, files: pd.DataFrame, probabilities: np.ndarray) -> None:
    """Put a run's answers for the held-out images (validation.csv), and then its record, which names them, into its folder."""
    text = files[["path", "label", "patient", "width", "height"]].assign(probability=probabilities).to_csv(index=False)
    record |= {"validated": tell_time(), "answers": hashlib.sha256(text.encode()).hexdigest()[:8]}
    write_whole(folder / "validation.csv", text)
    write_whole(folder / "run.json", as_json(record))


def publish_run(output_dir: Path, run_dir: Path, model: keras.Model, predictions: pd.DataFrame, report: dict) -> None:
    """Put best.keras, history.csv, predictions.csv and metrics.json of one run into `output_dir`, metrics last."""
    (output_dir / "metrics.json").unlink(missing_ok=True)  # until the new set is complete, none claims to be
    model.save(output_dir / "unfinished.keras")
    (output_dir / "unfinished.keras").replace(output_dir / "best.keras")
    write_whole(output_dir / "history.csv", (run_dir / "history.csv").read_text(encoding="utf-8"))
    write_whole(output_dir / "predictions.csv", predictions.to_csv(index=False))
    write_whole(output_dir / "metrics.json", as_json(report))


def read_run(folder: Path) -> dict:
    """Return the record of a run with its tables "history" and "answers", and "apart": why it cannot be compared, or ""."""
    try:
        record, history = read_record(folder)
    except ValueError as error:
        return {"name": folder.name, "apart": "damaged", "damage": str(error)}
    kept, table = folder / "validation.csv", None
    if kept.exists() and hashlib.sha256(kept.read_bytes()).hexdigest()[:8] == record.get("answers"):  # those that the record is made from
        table = pd.read_csv(kept, dtype={"path": str, "patient": str}, float_precision="round_trip").sort_values("path", ignore_index=True)
    return record | {"history": history, "answers": table, "apart": "" if record["validation"] else "not evaluated yet (run section 7)"}


def list_runs(runs_dir: Path) -> list[dict]:
    """Return the records of all runs (see `read_run`), each with "reference": the name of the run to compare with, or None.

    First come those that answered for the images of the run validated last, by falling AUC. Raises FileNotFoundError if none is evaluated.
    """
    records = [read_run(path.parent) for path in sorted(Path(runs_dir).glob("*/run.json"))]
    evaluated, others = ([one for one in records if bool(one["apart"]) == apart] for apart in (False, True))
    if not evaluated:
        found = "".join(f"; {one['name']}: {one['apart']}" for one in others)
        raise FileNotFoundError(f"There is no evaluated run in {runs_dir}{found}. Run sections 6 and 7 first.")
    latest = max(evaluated, key=lambda one: one["validated"])
    for one in evaluated:
        differs = [reason for reason, name in (("other data", "data"), ("other held-out images", "holdout")) if one[name] != latest[name]]
        one["apart"] = differs[0] if differs else "answers not kept (run section 7)" if one["answers"] is None else ""
    reference = min((one for one in evaluated if not one["apart"]), default=None,
                    key=lambda one: (one["name"] != "reference", one["name"] == "baseline", one["trained"]))
    images = ["path", "label", "width", "height"]
    for one in records:
        one["reference"] = reference and reference["name"]
        if reference and not one["apart"] and not one["answers"][images].equals(reference["answers"][images]):
            one["apart"] = "other images of these names"
    return sorted(evaluated, key=lambda one: (one["apart"] != "", one["data"] != latest["data"], one["holdout"] != latest["holdout"],
                                              one["data"], one["holdout"], -one["validation"]["auc"]["value"])) + others
