"""Runs compared with one of them: as a table, in words and in a figure."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.figure import Figure

from cxr.figures import name_pictures, tabulate_scores
from cxr.measure import draw_patients, enclose, measure


def find_reference(records: list):
    """Return the record of the run that the others are compared with, or None."""
    return next((one for one in records if one["name"] == one["reference"]), None)


def settle_settings(record: dict) -> dict:
    """Return {name: value} of all that made a run what it is: its data, its network, its settings; None: had no effect, or unknown."""
    idle = ["RUN_NAME", "DATA_DIR", "OUTPUT_DIR", "CACHE_DIR", "PRESET", "RESAMPLES", "BASELINE_EPOCHS", "SAVE_TO_DRIVE"]
    if record["name"] == "baseline":  # it has a recipe of its own
        idle += ["parameters", "EPOCHS", "AUGMENT", "DROPOUT", "WEIGHT_DECAY", "CLASS_WEIGHTS"]
    if record["name"] == "baseline" or not record["settings"].get("AUGMENT", True):
        idle += ["POSE", "EXPOSURE", "TEXTURE", "FLIP"]
    return {"data": record["data"], "held out": record["holdout"], "network": record.get("network"),
            "parameters": record.get("parameters"), **record["settings"], **dict.fromkeys(idle)}


def find_changes(record: dict, reference: dict) -> dict:
    """Return {name: (value, value in the reference)} of what differs between two runs; what is unknown (None) does not."""
    own, other = settle_settings(record), settle_settings(reference)
    return {name: (value, other.get(name)) for name, value in own.items() if None not in (value, other.get(name)) and value != other[name]}


def tabulate_runs(records: list) -> pd.DataFrame:
    """Return a table of texts, a row a run in the order of `records`: what differs between the runs, and the validation scores."""
    runs = {one["name"]: one for one in records if one.get("validation")}
    settled = pd.DataFrame([settle_settings(one) for one in runs.values()], list(runs), dtype=object)
    texts = settled.map(str).where(settled.notna())
    scores = tabulate_scores(**{name: one["validation"] for name, one in runs.items()}).T.rename(columns={"auc": "AUC"})
    table = texts.loc[:, texts.nunique() > 1].join(scores)
    table["best epoch"] = [f"{one['best_epoch']} of {one['epochs']}" for one in runs.values()]
    table["minutes"] = [f"{one['seconds'] / 60:.1f}" for one in runs.values()]
    table = table.reindex([one["name"] for one in records]).fillna("–")
    table.insert(0, "compared", [f"no: {one['apart']}" if one["apart"] else "the reference" if one["name"] == one["reference"] else "yes"
                                 for one in records])
    return table


def describe_runs(records: list) -> str:
    """Return in words which runs are compared, on which images, and with which."""
    reference, pictures = find_reference(records), name_pictures(records[0]["data"])
    if reference is None:
        return f"{pictures.capitalize()}; no run can be compared. Validation scores with 95 % intervals."
    oldest = "" if reference["name"] == "reference" else ", the oldest, as none called 'reference' can be compared"
    return (f"Validated on the same {len(reference['answers']):,} {pictures} (held-out set {reference['holdout']}), the highest AUC first, "
            f"with 95 % intervals. Bold: not as in {reference['name']!r}{oldest}. Grey: cannot be compared.")


def show_runs(records: list) -> None:
    """Show the table of runs with a caption: bold what differs from the reference, grey what cannot be compared."""
    changes = {one["name"]: {} if one["apart"] else find_changes(one, find_reference(records)) for one in records}
    grey = {one["name"]: "color: #888888" if one["apart"] else "" for one in records}
    style = tabulate_runs(records).style.format(escape="html").format_index(escape="html").set_caption(describe_runs(records))
    display(style.apply(lambda row: ["font-weight: bold" if name in changes[row.name] else grey[row.name] for name in row.index], axis=1))


def compare_runs(records: list, resamples: int, seed: int) -> dict:
    """Return {run: {"auc" or "accuracy": {"value", "low", "high"}}}: its score minus the reference's, both of the same draws."""
    reference = find_reference(records)
    if reference is None:
        return {}
    weights, drawn = [np.ones(len(reference["answers"])), *draw_patients(reference["answers"].patient, resamples, seed)], {}
    for one in [one for one in records if not one["apart"]]:
        labels, probabilities = (one["answers"][name].to_numpy() for name in ("label", "probability"))
        drawn[one["name"]] = pd.DataFrame([measure(labels, probabilities, one["threshold"], draw) for draw in weights])[["auc", "accuracy"]]
    return {name: enclose(scores - drawn[reference["name"]]) for name, scores in drawn.items() if name != reference["name"]}


def spread_of_seeds(records: list) -> tuple[list, dict]:
    """Return (names, {score: spread}) of comparable runs that differ only in SEED: the largest difference between two of them (or 0)."""
    pairs = [pair for pair in itertools.combinations([one for one in records if not one["apart"]], 2)
             if set(find_changes(*pair)) == {"SEED"}]
    spread = {name: max((abs(one["validation"][name]["value"] - other["validation"][name]["value"]) for one, other in pairs), default=0.0)
              for name in ("auc", "accuracy")}
    return list(dict.fromkeys(one["name"] for pair in pairs for one in pair)), spread


def is_sure(difference: dict) -> bool:
    """Return whether the interval of a difference ({"value", "low", "high"}) excludes 0."""
    return difference["low"] > 0 or difference["high"] < 0


def judge_difference(difference: dict, changes: dict, spread: float) -> str:
    """Return in words whether a difference of a score ({"value", "low", "high"}) is more than noise; `spread`: between seeds."""
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    size = f"is {abs(value):.4f} {'higher' if value > 0 else 'lower'}" if value else "is the same"
    verdict = "no difference in any draw" if value == low == high == 0 else "no more than noise"
    if is_sure(difference):
        verdict = f"{'better' if low > 0 else 'worse'} by more than the luck of the patients"
        if set(changes) <= {"SEED"}:
            verdict += ", though no setting but SEED differs"
        elif abs(value) < spread:
            verdict += f", but by less than seeds differ ({spread:.4f}): it may be noise"
    return f"{size} [{low:+.4f} to {high:+.4f}]: {verdict}"


def describe_differences(records: list, differences: dict) -> str:
    """Return in words, a sentence a line, how each run differs from the reference, what else may be luck, and what is not compared."""
    reference, (repeated, spread) = find_reference(records), spread_of_seeds(records)
    lines = [f"Compared with {reference['name']!r}, in brackets the 95 % interval of the difference (accuracy: each at its own threshold):"
             if differences else "There is nothing to compare yet: change one setting, and add a run."]
    for one in [one for one in records if one["name"] in differences]:
        changes = find_changes(one, reference)
        words = ", ".join(f"{name} {value} instead of {other}" for name, (value, other) in changes.items()) or "the same settings"
        auc, accuracy = (judge_difference(differences[one["name"]][name], changes, spread[name]) for name in ("auc", "accuracy"))
        lines.append(f"{one['name']} ({words}): its AUC {auc}.\n    Its accuracy {accuracy}.")
    if differences:
        lines += ["", describe_luck(repeated, spread, 2 * len(differences))]
    lines += [f"{one['name']} is not compared: {one.get('damage', one['apart'] + '.')}" for one in records if one["apart"]]
    return "\n".join(lines)


def describe_luck(repeated: list, spread: dict, count: int) -> str:
    """Return in words what the seed does (see `spread_of_seeds`), and what to expect of so many comparisons."""
    seeds = "no two of these runs differ only in SEED, so how much is luck of the start is not known. Repeat those that matter."
    if repeated:
        seeds = (f"{', '.join(repeated)} differ only in SEED, and yet by up to {spread['auc']:.4f} in AUC and {spread['accuracy']:.4f} in "
                 "accuracy. Of single runs, smaller differences prove nothing, whatever their interval says.")
    return (f"Seeds differ too: {seeds}\nThese are {count} comparisons, two scores of each run. If no change did anything, about one "
            f"interval in 20 would still exclude 0, and at least one of {count} with a chance of up to {1 - 0.95**count:.0%}.")


def plot_runs(records: list, differences: dict, most: int = 6) -> Figure:
    """Return a figure of the comparable runs: AUC, its paired difference to the reference, and validation curves of the best."""
    compared, reference = [one for one in records if not one["apart"]], find_reference(records)
    drawn = [reference, *[one for one in compared if one is not reference][:most]]
    names, colours = [one["name"] for one in drawn], ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    colour, marker = dict(zip(names, colours)), dict(zip(names, "osD^vP*"))
    figure, ((left, right), curves) = plt.subplots(2, 2, figsize=(10, 4.6 + 0.3 * len(compared)), layout="constrained",
                                                   height_ratios=(0.7 + 0.3 * len(compared), 2.9))
    for place, one in enumerate(reversed(compared)):
        look = {"color": colour.get(one["name"], "#888888"), "marker": marker.get(one["name"], "."), "linewidth": 2}
        for axis, scores in ((left, one["validation"]), (right, differences.get(one["name"]))):
            if scores:
                axis.plot([scores["auc"][key] for key in ("low", "value", "high")], [place] * 3, markevery=[1], **look)
    short = [one["name"] if len(one["name"]) < 28 else one["name"][:26] + "…" for one in reversed(compared)]
    left.set(yticks=range(len(compared)), yticklabels=short, ylim=(-0.6, len(compared) - 0.4), title="validation AUC, 95 % interval")
    right.set(yticks=range(len(compared)), yticklabels=[], ylim=left.get_ylim(), title="minus that of the reference, paired 95 % interval")
    right.axvline(0, color="#888888", linewidth=1)
    history = pd.concat([one["history"].assign(run=one["name"]) for one in drawn], ignore_index=True)
    best = history.loc[history.groupby("run").val_loss.idxmin()]
    for axis, name, label in zip(curves, ("val_loss", "val_auc"), ("loss", "AUC")):
        shared = {"x": "epoch", "y": name, "hue": "run", "palette": colour, "legend": False, "ax": axis}
        sns.lineplot(history, **shared, estimator=None, size="run", sizes={one: 3.2 if one == reference["name"] else 1.4 for one in names})
        sns.scatterplot(best, **shared, style="run", markers=marker, zorder=3)
        (low, high), kept = axis.get_ylim(), best[name]  # the first epochs would squeeze all that matters
        low, high = (0, min(high, 3 * kept.max())) if name == "val_loss" else (max(low, 1 - 3 * (1 - kept.min()) - 0.005), high)
        axis.set(title=f"validation {label}, changed films too (look as above)", xlabel="epoch; marked: the one kept", ylabel="",
                 ylim=(low, high))
        axis.xaxis.set_major_locator(plt.MaxNLocator("auto", integer=True))
    return figure
