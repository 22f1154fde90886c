"""Classifiers side by side, on films that agree with what surrounds the lungs and on those that it misleads."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import special

from cxr.figures import Look
from cxr.linear import learn_linearly
from cxr.measure import predict_probabilities, score
from cxr.surroundings import mark_frame


def find_conflicting(labels: np.ndarray, answers: np.ndarray, share: float = 0.25) -> np.ndarray:
    """Return bool (n,): the share of each class that looks most like the other one, by answers (n,) that come from no lung.

    On such bias-conflicting films a shortcut misleads (Nam et al., Learning from Failure, 2020, arXiv:2007.02561).
    """
    conflicting = np.zeros(len(labels), bool)
    for label in (0, 1):
        own = np.flatnonzero(labels == label)
        unlike = np.argsort(answers[own] if label else -answers[own], kind="stable")
        conflicting[own[unlike[:max(1, round(share * len(own)))]]] = True
    return conflicting


def ask_classifiers(learnt: tuple, thumbnails: np.ndarray, baseline, x, ours: np.ndarray) -> dict[str, np.ndarray]:
    """Return {classifier: probabilities (n,)}: linear ones, of thumbnails (n, size, size) or of their frame; a baseline if not None; ours.

    `learnt`: (thumbnails, labels, bool: which of them to learn from) for the linear ones; `x`: images or ImageBatches for the baseline.
    """
    frame, said = mark_frame(thumbnails.shape[1]).ravel(), {}
    for name, seen in (("linear, only the frame", frame), ("linear, thumbnails", np.ones_like(frame))):
        known, new = learnt[0].reshape(len(learnt[0]), -1), thumbnails.reshape(len(thumbnails), -1)[:, seen]
        ridge = learn_linearly(known[np.ix_(learnt[2], seen)], learnt[1][learnt[2]])
        said[name] = special.expit(ridge.decision_function(new))
    return said | ({} if baseline is None else {"baseline CNN": predict_probabilities(baseline, x)}) | {"residual CNN": ours}


def group_by_clues(conflicting: np.ndarray) -> dict[str, tuple]:
    """Return the columns of `compare_classifiers` for images of which bool (n,) conflict with the clues."""
    everything = slice(None)
    return {"AUC": (everything, "auc"), "accuracy": (everything, "accuracy"), "AUC, agreeing": (~conflicting, "auc"),
            **{f"{name}, conflicting": (conflicting, name.lower()) for name in ("AUC", "sensitivity", "specificity")}}


def group_by_release(only: np.ndarray) -> dict[str, tuple]:
    """Return the columns of `compare_classifiers` for a test set of which bool (n,) are in Kaggle's copy alone."""
    everything = slice(None)
    columns: dict[str, tuple] = {f"test {name}": (everything, name.lower()) for name in ("AUC", "accuracy", "sensitivity", "specificity")}
    shared = {f"AUC, the {np.sum(~only)} of both releases": (~only, "auc"), f"specificity, Kaggle's {only.sum()}": (only, "specificity")}
    return columns | (shared if only.any() else {})


def compare_classifiers(labels: np.ndarray, said: dict, lines: dict, patients, columns: dict, settings) -> dict[str, dict]:
    """Return {classifier: {column: {"value", "low", "high"}}} for {classifier: probabilities (n,)} and their thresholds, `lines`.

    `columns`: {column: (the rows that count, one object where they are the same; the name of a score)}; intervals are drawn by patient.
    """
    patients, parts, result = np.asarray(patients), {id(rows): rows for rows, _ in columns.values()}, {}
    for name, answers in said.items():
        scores = {part: score(labels[rows], answers[rows], patients[rows], lines[name], settings.RESAMPLES, settings.SEED)
                  for part, rows in parts.items()}
        result[name] = {column: scores[id(rows)][wanted] for column, (rows, wanted) in columns.items()}
    return result


def describe_falls(scores: dict) -> str:
    """Return in words which classifier falls most from the agreeing to the conflicting films, and which least."""
    falls = {name: row["AUC, agreeing"]["value"] - row["AUC, conflicting"]["value"] for name, row in scores.items()}
    most, least = max(falls, key=lambda name: falls[name]), min(falls, key=lambda name: falls[name])
    reach = [max(row[column]["value"] for row in scores.values()) - min(row[column]["value"] for row in scores.values())
             for column in ("AUC", "AUC, conflicting")]
    return (f"In AUC the classifiers lie {reach[0]:.3f} apart on all films, {reach[1]:.3f} on the conflicting ones. From the agreeing to "
            f"those, most is lost by: {most} ({falls[most]:.3f}); least by: {least} ({falls[least]:.3f}).")


def describe_guide(scores: dict) -> str:
    """Return in words how many pairs of classifiers validation, and its conflicting films, put in the order of test."""
    pairs = [[rows[0][column]["value"] > rows[1][column]["value"] for column in ("AUC", "AUC, conflicting", "test AUC")]
             for rows in itertools.combinations(scores.values(), 2)]
    guides = [sum(pair[number] == pair[2] for pair in pairs) for number in (0, 1)]
    return (f"Of {len(pairs)} pairs of classifiers, validation puts {guides[0]} in the order that their AUC has on test, its conflicting "
            f"films {guides[1]}.")


def plot_hundred(sensitivity: float, specificity: float, shares=(0.5, 0.2, 0.05)) -> tuple[Figure, str]:
    """Return (figure, title): a hundred children as dots at each share of sick ones, alarms filled, in whole children."""
    figure, axes = plt.subplots(1, len(shares), figsize=(3.2 * len(shares), 3.4), layout="constrained")
    for axis, share in zip(axes, shares):
        sick = round(100 * share)
        hits, alarms = round(sensitivity * sick), round((1 - specificity) * (100 - sick))
        groups = [(hits, "PNEUMONIA", True), (sick - hits, "PNEUMONIA", False),
                  (alarms, "NORMAL", True), (100 - sick - alarms, "NORMAL", False)]
        start = 0
        for count, name, alarm in groups:
            places = np.arange(start, start + count)
            axis.plot(places % 10, -(places // 10), "o", color=Look.colours[name], fillstyle="full" if alarm else "none", markersize=9)
            start += count
        axis.set(title=f"{sick} sick: {hits} of {hits + alarms} alarms right", aspect="equal", xlim=(-0.7, 9.7), ylim=(-9.7, 0.7))
        axis.axis("off")
    return figure, "A hundred children: orange sick, blue healthy; filled: alarm"


def plot_classifiers(scores: dict, columns: dict) -> Figure:
    """Return a figure of scores with intervals, a row for each classifier of `compare_classifiers`; columns: {column: colour}."""
    figure, axis = plt.subplots(figsize=(9.6, 0.9 + 0.6 * len(scores)), layout="constrained")
    for number, (column, colour) in enumerate(columns.items()):
        cells = [row[column] for row in scores.values()]
        values = np.array([one["value"] for one in cells])
        # With few draws a value may lie beyond its own interval.
        reach = np.maximum(0, [[one["value"] - one["low"] for one in cells], [one["high"] - one["value"] for one in cells]])
        axis.errorbar(values, np.arange(len(scores)) + 0.18 * number, xerr=reach, fmt="os^"[number], color=colour, label=column, lw=1)
    axis.set_yticks(np.arange(len(scores)) + 0.09 * (len(columns) - 1), list(scores))
    axis.axvline(0.5, color="#888888", linewidth=1, linestyle=":")
    axis.set(xlabel="AUC (dotted: chance)", ylim=(len(scores) - 0.3, -0.4))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
