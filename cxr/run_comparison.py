"""Runs compared with a reference: a table, paired differences, and both in words."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display

from cxr.evaluation import (
    Estimate,
    cluster_bootstrap_weights,
    compute_metrics,
    format_metrics,
    percentile_ci,
)
from cxr.labels import image_label
from cxr.runs import RunRecord, inactive_settings


def reference_run(records: list[RunRecord]) -> RunRecord | None:
    """Return the record of the run with which the others are compared, or None."""
    for record in records:
        if record["name"] == record["reference"]:
            return record
    return None


def comparable_runs(records: list[RunRecord]) -> list[RunRecord]:
    """Return the records of the runs that can be compared."""
    return [record for record in records if not record["exclusion_reason"]]


def effective_settings(record: RunRecord) -> dict[str, Any]:
    """Return what made a run what it is: data, network and settings, by name.

    A value is None if it had no effect, or is unknown.
    """
    settings = {
        "data": record["data"],
        "validation set": record["validation_set"],
        "network": record.get("network"),
        "parameters": record.get("parameters"),
        **record["settings"],
        **dict.fromkeys(inactive_settings(record)),
    }
    if record["name"] == "baseline":  # its number follows from the network
        settings["parameters"] = None
    return settings


def changed_settings(
    record: RunRecord, reference: RunRecord
) -> dict[str, tuple[Any, Any]]:
    """Return {name: (value, value in the reference)} of the settings that differ.

    A setting that had no effect on one of the two runs is left out.
    """
    settings = effective_settings(record)
    reference_settings = effective_settings(reference)
    changes = {}
    for name, value in settings.items():
        reference_value = reference_settings.get(name)
        if None not in (value, reference_value) and value != reference_value:
            changes[name] = (value, reference_value)
    return changes


def describe_comparability(record: RunRecord) -> str:
    """Return the entry of a run in the column "compared" of the table of runs."""
    if record["exclusion_reason"]:
        return f"no: {record['exclusion_reason']}"
    return "reference" if record["name"] == record["reference"] else "yes"


def tabulate_runs(records: list[RunRecord]) -> pd.DataFrame:
    """Return a table of texts, a row for each run in the order of `records`.

    Columns: whether the run is compared, the settings that differ between the runs, the
    validation metrics, the best epoch and the minutes.
    """
    evaluated = [record for record in records if record.get("validation")]
    names = [record["name"] for record in evaluated]
    settings = [effective_settings(record) for record in evaluated]
    table = pd.DataFrame(settings, names, dtype=object)
    texts = table.map(str).where(table.notna())
    metrics = {record["name"]: record["validation"] for record in evaluated}
    table = texts.loc[:, texts.nunique() > 1].join(
        format_metrics(**metrics).T.rename(columns={"auc": "AUC"})
    )
    table["best epoch"] = [
        f"{record['best_epoch']} of {record['epochs']}" for record in evaluated
    ]
    table["minutes"] = [f"{record['seconds'] / 60:.1f}" for record in evaluated]
    table = table.reindex([record["name"] for record in records]).fillna("–")
    table.insert(0, "compared", [describe_comparability(record) for record in records])
    return table


def describe_runs(records: list[RunRecord]) -> str:
    """Return the caption of the table of runs."""
    reference = reference_run(records)
    label = image_label(records[0]["data"])
    if reference is None:
        return (
            f"Validation metrics with 95% CI ({label}). No run can be compared with "
            "another."
        )
    predictions = reference["predictions"]
    count = 0 if predictions is None else len(predictions)
    reason = ""
    if reference["name"] != "reference":
        reason = " (the oldest run, because no comparable run is named 'reference')"
    return (
        f"Metrics with 95% CI on {count:,} validation images ({label}, validation set "
        f"{reference['validation_set']}), sorted by AUC. Bold: differs from the "
        f"reference, {reference['name']!r}{reason}. Gray: cannot be compared."
    )


def show_runs(records: list[RunRecord]) -> None:
    """Display the table of runs with a caption.

    Bold: what differs from the reference. Gray: runs that cannot be compared.
    """
    reference = reference_run(records)
    styles = {}
    for record in records:
        is_excluded = bool(record["exclusion_reason"])
        changes = {}
        if reference is not None and not is_excluded:
            changes = changed_settings(record, reference)
        styles[record["name"]] = (changes, "color: #888888" if is_excluded else "")

    def style_row(row: pd.Series) -> list[str]:
        changes, style = styles[row.name]
        return ["font-weight: bold" if name in changes else style for name in row.index]

    table = tabulate_runs(records).style.format(escape="html")
    table = table.format_index(escape="html").set_caption(describe_runs(records))
    display(table.apply(style_row, axis=1))


def paired_differences(
    records: list[RunRecord], bootstrap_samples: int, seed: int
) -> dict[str, dict[str, Estimate]]:
    """Return the difference of each comparable run from the reference.

    In each bootstrap sample of patients, both runs are evaluated on the same patients,
    so the variation between patients that affects both cancels out.

    Parameters
    ----------
    records : list of RunRecord
        As `list_runs` returns them.
    bootstrap_samples : int
    seed : int

    Returns
    -------
    dict
        {run: {"auc" or "accuracy": Estimate}}: its metric minus that of the reference,
        with a 95% percentile interval. Accuracy is that at each run's own threshold.
        Empty if there is no reference.
    """
    reference = reference_run(records)
    if reference is None or reference["predictions"] is None:
        return {}
    patients = reference["predictions"].patient
    samples = [
        np.ones(len(patients)),
        *cluster_bootstrap_weights(patients, bootstrap_samples, seed),
    ]
    metrics = {}
    for record in comparable_runs(records):
        predictions = record["predictions"]
        assert predictions is not None
        labels = predictions.label.to_numpy()
        probabilities = predictions.probability.to_numpy()
        threshold = record["threshold"]
        rows = [
            compute_metrics(labels, probabilities, threshold, weights)
            for weights in samples
        ]
        metrics[record["name"]] = pd.DataFrame(rows)[["auc", "accuracy"]]
    reference_metrics = metrics.pop(reference["name"])
    return {
        name: percentile_ci(table - reference_metrics)
        for name, table in metrics.items()
    }


def seed_variation(
    records: list[RunRecord],
) -> tuple[list[str], dict[str, float]]:
    """Measure how much comparable runs vary that differ only in SEED.

    Returns
    -------
    names : list of str
        Those runs.
    spread : dict
        {"auc" or "accuracy": largest difference between two of them}; 0 if there are
        none.
    """
    names = []
    spread = {"auc": 0.0, "accuracy": 0.0}
    for first, second in itertools.combinations(comparable_runs(records), 2):
        if set(changed_settings(first, second)) != {"SEED"}:
            continue
        names += [first["name"], second["name"]]
        for metric, largest in spread.items():
            value = first["validation"][metric]["value"]
            other_value = second["validation"][metric]["value"]
            spread[metric] = max(largest, abs(value - other_value))
    return list(dict.fromkeys(names)), spread


def is_significant(difference: Estimate) -> bool:
    """Return whether the 95% CI of a difference excludes 0."""
    return difference["low"] > 0 or difference["high"] < 0


def describe_difference(
    difference: Estimate, changes: dict[str, tuple[Any, Any]], spread: float
) -> str:
    """Return in words how large a difference is, and whether it is significant.

    Parameters
    ----------
    difference : Estimate
        Metric of a run minus that of the reference.
    changes : dict
        The settings that differ (see `changed_settings`).
    spread : float
        The largest difference of this metric between seeds.
    """
    value = difference["value"]
    low = difference["low"]
    high = difference["high"]
    size = "is equal"
    if value:
        size = f"is {abs(value):.4f} {'higher' if value > 0 else 'lower'}"
    verdict = "not distinguishable from noise"
    if value == low == high == 0:
        verdict = "identical in every bootstrap sample"
    if is_significant(difference):
        verdict = f"significantly {'better' if low > 0 else 'worse'}"
        if set(changes) <= {"SEED"}:
            verdict += ", although no setting but SEED differs"
        elif abs(value) < spread:
            verdict += (
                ", but the difference is smaller than that between seeds "
                f"({spread:.4f}), so it may be noise"
            )
    return f"{size} [{low:+.4f} to {high:+.4f}]: {verdict}"


def describe_differences(
    records: list[RunRecord], differences: dict[str, dict[str, Estimate]]
) -> str:
    """Return in words how the runs differ from the reference, a sentence a line.

    Then follow the variation between seeds, and the runs that are not compared.

    Parameters
    ----------
    records : list of RunRecord
        As `list_runs` returns them.
    differences : dict
        As `paired_differences` returns them.
    """
    reference = reference_run(records)
    names, spread = seed_variation(records)
    if reference is None or not differences:
        lines = ["There is nothing to compare yet: change one setting and add a run."]
    else:
        lines = [
            f"Differences from {reference['name']!r}, in brackets their 95% CI "
            "(accuracy: each run at its own threshold):"
        ]
        for record in records:
            if record["name"] not in differences:
                continue
            changes = changed_settings(record, reference)
            changed = ", ".join(
                f"{name} {value} instead of {reference_value}"
                for name, (value, reference_value) in changes.items()
            )
            difference = differences[record["name"]]
            auc = describe_difference(difference["auc"], changes, spread["auc"])
            accuracy = describe_difference(
                difference["accuracy"], changes, spread["accuracy"]
            )
            lines += [
                f"{record['name']} ({changed or 'the same settings'}): its AUC {auc}.",
                f"    Its accuracy {accuracy}.",
            ]
        lines += ["", describe_seed_variation(names, spread, 2 * len(differences))]
    for record in records:
        if reason := record["exclusion_reason"]:
            error = record.get("error", f"{reason}.")
            lines.append(f"{record['name']} is not compared: {error}")
    return "\n".join(lines)


def describe_seed_variation(
    names: list[str], spread: dict[str, float], count: int
) -> str:
    """Return in words how much runs vary with the seed (see `seed_variation`).

    Also what to expect of `count` comparisons where there is no difference at all.
    """
    if names:
        sentence = (
            f"{', '.join(names)} differ only in SEED, by up to {spread['auc']:.4f} in "
            f"AUC and {spread['accuracy']:.4f} in accuracy. A smaller difference "
            "between two single runs is no evidence, even if its interval excludes 0."
        )
    else:
        sentence = (
            "no two of these runs differ only in SEED, so it is unknown. Repeat the "
            "runs that matter with other seeds."
        )
    chance = 1 - 0.95**count
    return (
        f"Variation between seeds: {sentence}\n"
        f"Multiple comparisons: {count} intervals, two for each run. Without any real "
        "difference, about one interval in 20 would still exclude 0, and at least "
        f"one of {count} with a probability of up to {chance:.0%}."
    )
