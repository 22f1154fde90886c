"""Runs compared with one of them: as a table, in words and in a figure."""

import itertools

import numpy as np
import pandas as pd
from IPython.display import display

from cxr.evaluation import (
    cluster_bootstrap_weights,
    compute_metrics,
    format_metrics,
    percentile_ci,
)
from cxr.labels import image_label


def reference_run(records: list):
    """Return the record of the run that the others are compared with, or None."""
    return next((one for one in records if one["name"] == one["reference"]), None)


def effective_settings(record: dict) -> dict:
    """Return {name: value} of all that made a run what it is: its data, its network, its settings; None: had no effect, or unknown."""
    idle = [
        "RUN_NAME",
        "DATA_DIR",
        "OUTPUT_DIR",
        "CACHE_DIR",
        "PRESET",
        "BOOTSTRAP_SAMPLES",
        "BASELINE_EPOCHS",
        "SAVE_TO_DRIVE",
    ]
    if record["name"] == "baseline":  # it has a recipe of its own
        idle += [
            "parameters",
            "EPOCHS",
            "AUGMENT",
            "DROPOUT",
            "WEIGHT_DECAY",
            "CLASS_WEIGHTS",
        ]
    if record["name"] == "baseline" or not record["settings"].get("AUGMENT", True):
        idle += ["AUG_AFFINE", "AUG_INTENSITY", "AUG_BLUR_NOISE", "FLIP"]
    return {
        "data": record["data"],
        "held out": record["val"],
        "network": record.get("network"),
        "parameters": record.get("parameters"),
        **record["settings"],
        **dict.fromkeys(idle),
    }


def changed_settings(record: dict, reference: dict) -> dict:
    """Return {name: (value, value in the reference)} of what differs between two runs; what is unknown (None) does not."""
    own, other = effective_settings(record), effective_settings(reference)
    return {
        name: (value, other.get(name))
        for name, value in own.items()
        if None not in (value, other.get(name)) and value != other[name]
    }


def tabulate_runs(records: list) -> pd.DataFrame:
    """Return a table of texts, a row a run in the order of `records`: what differs between the runs, and the validation scores."""
    runs = {one["name"]: one for one in records if one.get("validation")}
    settled = pd.DataFrame(
        [effective_settings(one) for one in runs.values()], list(runs), dtype=object
    )
    texts = settled.map(str).where(settled.notna())
    scores = format_metrics(
        **{name: one["validation"] for name, one in runs.items()}
    ).T.rename(columns={"auc": "AUC"})
    table = texts.loc[:, texts.nunique() > 1].join(scores)
    table["best epoch"] = [
        f"{one['best_epoch']} of {one['epochs']}" for one in runs.values()
    ]
    table["minutes"] = [f"{one['seconds'] / 60:.1f}" for one in runs.values()]
    table = table.reindex([one["name"] for one in records]).fillna("–")
    table.insert(
        0,
        "compared",
        [
            f"no: {one['apart']}"
            if one["apart"]
            else "the reference"
            if one["name"] == one["reference"]
            else "yes"
            for one in records
        ],
    )
    return table


def describe_runs(records: list) -> str:
    """Return in words which runs are compared, on which images, and with which."""
    reference, pictures = reference_run(records), image_label(records[0]["data"])
    if reference is None:
        return f"{pictures.capitalize()}; no run can be compared. Validation scores with 95 % intervals."
    oldest = (
        ""
        if reference["name"] == "reference"
        else ", the oldest, as none called 'reference' can be compared"
    )
    return (
        f"Validated on the same {len(reference['answers']):,} {pictures} (held-out set {reference['holdout']}), the highest AUC first, "
        f"with 95 % intervals. Bold: not as in {reference['name']!r}{oldest}. Gray: cannot be compared."
    )


def show_runs(records: list) -> None:
    """Show the table of runs with a caption: bold what differs from the reference, gray what cannot be compared."""
    changes = {
        one["name"]: {}
        if one["apart"]
        else changed_settings(one, reference_run(records))
        for one in records
    }
    gray = {one["name"]: "color: #888888" if one["apart"] else "" for one in records}
    style = (
        tabulate_runs(records)
        .style.format(escape="html")
        .format_index(escape="html")
        .set_caption(describe_runs(records))
    )
    display(
        style.apply(
            lambda row: [
                "font-weight: bold" if name in changes[row.name] else gray[row.name]
                for name in row.index
            ],
            axis=1,
        )
    )


def paired_differences(records: list, bootstrap_samples: int, seed: int) -> dict:
    """Return {run: {"auc" or "accuracy": {"value", "low", "high"}}}: its score minus the reference's, both of the same draws."""
    reference = reference_run(records)
    if reference is None:
        return {}
    weights, drawn = (
        [
            np.ones(len(reference["answers"])),
            *cluster_bootstrap_weights(
                reference["answers"].patient, bootstrap_samples, seed
            ),
        ],
        {},
    )
    for one in [one for one in records if not one["apart"]]:
        labels, probabilities = (
            one["answers"][name].to_numpy() for name in ("label", "probability")
        )
        drawn[one["name"]] = pd.DataFrame(
            [
                compute_metrics(labels, probabilities, one["threshold"], draw)
                for draw in weights
            ]
        )[["auc", "accuracy"]]
    return {
        name: percentile_ci(scores - drawn[reference["name"]])
        for name, scores in drawn.items()
        if name != reference["name"]
    }


def seed_spread(records: list) -> tuple[list, dict]:
    """Return (names, {score: spread}) of comparable runs that differ only in SEED: the largest difference between two of them (or 0)."""
    pairs = [
        pair
        for pair in itertools.combinations(
            [one for one in records if not one["apart"]], 2
        )
        if set(changed_settings(*pair)) == {"SEED"}
    ]
    spread = {
        name: max(
            (
                abs(
                    one["validation"][name]["value"]
                    - other["validation"][name]["value"]
                )
                for one, other in pairs
            ),
            default=0.0,
        )
        for name in ("auc", "accuracy")
    }
    return list(dict.fromkeys(one["name"] for pair in pairs for one in pair)), spread


def is_significant(difference: dict) -> bool:
    """Return whether the interval of a difference ({"value", "low", "high"}) excludes 0."""
    return difference["low"] > 0 or difference["high"] < 0


def describe_difference(difference: dict, changes: dict, spread: float) -> str:
    """Return in words whether a difference of a score ({"value", "low", "high"}) is more than noise; `spread`: between seeds."""
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    size = (
        f"is {abs(value):.4f} {'higher' if value > 0 else 'lower'}"
        if value
        else "is the same"
    )
    verdict = (
        "no difference in any draw"
        if value == low == high == 0
        else "no more than noise"
    )
    if is_significant(difference):
        verdict = (
            f"{'better' if low > 0 else 'worse'} by more than the luck of the patients"
        )
        if set(changes) <= {"SEED"}:
            verdict += ", though no setting but SEED differs"
        elif abs(value) < spread:
            verdict += (
                f", but by less than seeds differ ({spread:.4f}): it may be noise"
            )
    return f"{size} [{low:+.4f} to {high:+.4f}]: {verdict}"


def describe_differences(records: list, differences: dict) -> str:
    """Return in words, a sentence a line, how each run differs from the reference, what else may be luck, and what is not compared."""
    reference, (repeated, spread) = reference_run(records), seed_spread(records)
    lines = [
        f"Compared with {reference['name']!r}, in brackets the 95 % interval of the difference (accuracy: each at its own threshold):"
        if differences
        else "There is nothing to compare yet: change one setting, and add a run."
    ]
    for one in [one for one in records if one["name"] in differences]:
        changes = changed_settings(one, reference)
        words = (
            ", ".join(
                f"{name} {value} instead of {other}"
                for name, (value, other) in changes.items()
            )
            or "the same settings"
        )
        auc, accuracy = (
            describe_difference(differences[one["name"]][name], changes, spread[name])
            for name in ("auc", "accuracy")
        )
        lines.append(
            f"{one['name']} ({words}): its AUC {auc}.\n    Its accuracy {accuracy}."
        )
    if differences:
        lines += ["", describe_seed_variation(repeated, spread, 2 * len(differences))]
    lines += [
        f"{one['name']} is not compared: {one.get('damage', one['apart'] + '.')}"
        for one in records
        if one["apart"]
    ]
    return "\n".join(lines)


def describe_seed_variation(repeated: list, spread: dict, count: int) -> str:
    """Return in words what the seed does (see `seed_spread`), and what to expect of so many comparisons."""
    seeds = "no two of these runs differ only in SEED, so how much is luck of the start is not known. Repeat those that matter."
    if repeated:
        seeds = (
            f"{', '.join(repeated)} differ only in SEED, and yet by up to {spread['auc']:.4f} in AUC and {spread['accuracy']:.4f} in "
            "accuracy. Of single runs, smaller differences prove nothing, whatever their interval says."
        )
    return (
        f"Seeds differ too: {seeds}\nThese are {count} comparisons, two scores of each run. If no change did anything, about one "
        f"interval in 20 would still exclude 0, and at least one of {count} with a chance of up to {1 - 0.95**count:.0%}."
    )
