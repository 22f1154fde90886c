"""Classifiers side by side, on films that agree with what surrounds the lungs and on those that it misleads."""

import itertools

import numpy as np
from scipy import special

from cxr.confounders import border_mask
from cxr.evaluation import metrics_with_ci, predict_probabilities
from cxr.linear_baseline import fit_ridge


def bias_conflicting_mask(
    labels: np.ndarray, answers: np.ndarray, share: float = 0.25
) -> np.ndarray:
    """Return bool (n,): the share of each class that looks most like the other one, by answers (n,) that come from no lung.

    On such bias-conflicting films a shortcut misleads (Nam et al., Learning from Failure, 2020, arXiv:2007.02561).
    """
    conflicting = np.zeros(len(labels), bool)
    for label in (0, 1):
        own = np.flatnonzero(labels == label)
        unlike = np.argsort(answers[own] if label else -answers[own], kind="stable")
        conflicting[own[unlike[: max(1, round(share * len(own)))]]] = True
    return conflicting


def predict_all(
    learned: tuple, thumbnails: np.ndarray, baseline, x, ours: np.ndarray
) -> dict[str, np.ndarray]:
    """Return {classifier: probabilities (n,)}: linear ones, of thumbnails (n, size, size) or of their frame; a baseline if not None; ours.

    `learned`: (thumbnails, labels, bool: which of them to learn from) for the linear ones; `x`: images or ImageBatches for the baseline.
    """
    frame, said = border_mask(thumbnails.shape[1]).ravel(), {}
    for name, seen in (
        ("linear, only the frame", frame),
        ("linear, thumbnails", np.ones_like(frame)),
    ):
        known, new = (
            learned[0].reshape(len(learned[0]), -1),
            thumbnails.reshape(len(thumbnails), -1)[:, seen],
        )
        ridge = fit_ridge(known[np.ix_(learned[2], seen)], learned[1][learned[2]])
        said[name] = special.expit(ridge.decision_function(new))
    return (
        said
        | (
            {}
            if baseline is None
            else {"baseline CNN": predict_probabilities(baseline, x)}
        )
        | {"residual CNN": ours}
    )


def bias_subgroups(conflicting: np.ndarray) -> dict[str, tuple]:
    """Return the columns of `compare_models` for images of which bool (n,) conflict with the clues."""
    everything = slice(None)
    return {
        "AUC": (everything, "auc"),
        "accuracy": (everything, "accuracy"),
        "AUC, agreeing": (~conflicting, "auc"),
        **{
            f"{name}, conflicting": (conflicting, name.lower())
            for name in ("AUC", "sensitivity", "specificity")
        },
    }


def release_subgroups(only: np.ndarray) -> dict[str, tuple]:
    """Return the columns of `compare_models` for a test set of which bool (n,) are in Kaggle's copy alone."""
    everything = slice(None)
    columns: dict[str, tuple] = {
        f"test {name}": (everything, name.lower())
        for name in ("AUC", "accuracy", "sensitivity", "specificity")
    }
    shared = {
        f"AUC, the {np.sum(~only)} of both releases": (~only, "auc"),
        f"specificity, Kaggle's {only.sum()}": (only, "specificity"),
    }
    return columns | (shared if only.any() else {})


def compare_models(
    labels: np.ndarray, said: dict, lines: dict, patients, columns: dict, settings
) -> dict[str, dict]:
    """Return {classifier: {column: {"value", "low", "high"}}} for {classifier: probabilities (n,)} and their thresholds, `lines`.

    `columns`: {column: (the rows that count, one object where they are the same; the name of a score)}; intervals are drawn by patient.
    """
    patients, parts, result = (
        np.asarray(patients),
        {id(rows): rows for rows, _ in columns.values()},
        {},
    )
    for name, answers in said.items():
        scores = {
            part: metrics_with_ci(
                labels[rows],
                answers[rows],
                patients[rows],
                lines[name],
                settings.BOOTSTRAP_SAMPLES,
                settings.SEED,
            )
            for part, rows in parts.items()
        }
        result[name] = {
            column: scores[id(rows)][wanted]
            for column, (rows, wanted) in columns.items()
        }
    return result


def describe_bias_gap(scores: dict) -> str:
    """Return in words which classifier falls most from the agreeing to the conflicting films, and which least."""
    falls = {
        name: row["AUC, agreeing"]["value"] - row["AUC, conflicting"]["value"]
        for name, row in scores.items()
    }
    most, least = (
        max(falls, key=lambda name: falls[name]),
        min(falls, key=lambda name: falls[name]),
    )
    reach = [
        max(row[column]["value"] for row in scores.values())
        - min(row[column]["value"] for row in scores.values())
        for column in ("AUC", "AUC, conflicting")
    ]
    return (
        f"In AUC the classifiers lie {reach[0]:.3f} apart on all films, {reach[1]:.3f} on the conflicting ones. From the agreeing to "
        f"those, most is lost by: {most} ({falls[most]:.3f}); least by: {least} ({falls[least]:.3f})."
    )


def describe_order_agreement(scores: dict) -> str:
    """Return in words how many pairs of classifiers validation, and its conflicting films, put in the order of test."""
    pairs = [
        [
            rows[0][column]["value"] > rows[1][column]["value"]
            for column in ("AUC", "AUC, conflicting", "test AUC")
        ]
        for rows in itertools.combinations(scores.values(), 2)
    ]
    guides = [sum(pair[number] == pair[2] for pair in pairs) for number in (0, 1)]
    return (
        f"Of {len(pairs)} pairs of classifiers, validation puts {guides[0]} in the order that their AUC has on test, its conflicting "
        f"films {guides[1]}."
    )
