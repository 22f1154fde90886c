"""Decision thresholds: rules that choose one on validation data, and their effects."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn import metrics

from cxr.evaluation import compute_metrics, predictive_values


def threshold_at_sensitivity(
    labels: np.ndarray, probabilities: np.ndarray, sensitivity: float = 0.95
) -> float:
    """Return the largest threshold that reaches a sensitivity; NaN without positives.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    probabilities : float array of shape (n,)
    sensitivity : float
        The fraction of positive images whose probability must reach the threshold.
    """
    positives = np.sort(probabilities[labels == 1])
    if not len(positives):
        return float("nan")
    # At most this many positive images may be missed; 1e-9 undoes rounding errors.
    missed = math.floor((1 - sensitivity) * len(positives) + 1e-9)
    return float(positives[min(missed, len(positives) - 1)])


def youden_threshold(
    labels: np.ndarray, probabilities: np.ndarray, sensitivity_weight: float = 1.0
) -> float:
    """Return the threshold with the largest sensitivity + specificity.

    Of several equally good thresholds, the middle one is taken. It lies halfway between
    two probabilities. The result is NaN if a class is missing.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    probabilities : float array of shape (n,)
    sensitivity_weight : float
        Above 1, sensitivity counts more than specificity.

    References
    ----------
    Youden, "Index for rating diagnostic tests", Cancer, 1950.
    """
    if len(np.unique(labels)) < 2:
        return float("nan")
    false_positive_rate, sensitivity, thresholds = metrics.roc_curve(
        labels, probabilities, drop_intermediate=False
    )
    index = sensitivity_weight * sensitivity - false_positive_rate
    best = np.flatnonzero(np.isclose(index, index.max()))
    middle = best[len(best) // 2]
    thresholds = np.append(thresholds, 0.0)  # in falling order; the first is infinite
    return float((min(thresholds[middle], 1.0) + thresholds[middle + 1]) / 2)


def min_cost_threshold(
    labels: np.ndarray, probabilities: np.ndarray, false_negative_cost: float = 5
) -> float:
    """Return the threshold with the lowest cost of errors; NaN if a class is missing.

    A false positive costs 1, a false negative `false_negative_cost`.
    """
    if len(np.unique(labels)) < 2:
        return float("nan")
    candidates = np.unique(np.append(probabilities, 1.0))
    positives = probabilities[labels == 1]
    negatives = probabilities[labels == 0]
    costs = [
        false_negative_cost * np.sum(positives < candidate)
        + np.sum(negatives >= candidate)
        for candidate in candidates
    ]
    return float(candidates[np.argmin(costs)])


def compare_thresholds(
    labels: np.ndarray,
    probabilities: np.ndarray,
    thresholds: dict[str, float],
    prevalences: Sequence[float] = (0.05, 0.2, 0.5),
) -> pd.DataFrame:
    """Return a table of thresholds, and of their predictive values elsewhere.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    probabilities : float array of shape (n,)
    thresholds : dict of {name: threshold}
    prevalences : sequence of float
        For each, the table has the PPV and NPV (see `predictive_values`).

    Returns
    -------
    DataFrame with a row for each threshold
    """
    rows = {}
    for name, threshold in thresholds.items():
        values = compute_metrics(labels, probabilities, threshold)
        sensitivity = values["sensitivity"]
        specificity = values["specificity"]
        rows[name] = {
            "threshold": threshold,
            "sensitivity": sensitivity,
            "specificity": specificity,
        }
        for prevalence in prevalences:
            ppv, npv = predictive_values(sensitivity, specificity, prevalence)
            rows[name][f"PPV at {prevalence:.0%} prevalence"] = ppv
            rows[name][f"NPV at {prevalence:.0%} prevalence"] = npv
    return pd.DataFrame(rows).T.round(3)


def describe_threshold(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> str:
    """Return in words what the threshold 0.5 would change on the same images."""
    chosen = compute_metrics(labels, probabilities, threshold)
    half = compute_metrics(labels, probabilities, 0.5)
    if threshold == 0.5:
        position = "equal to"
    elif threshold > 0.5:
        position = "above"
    else:
        position = "below"
    return (
        f"This threshold is {position} 0.5. At 0.5, sensitivity on the same images is "
        f"{half['sensitivity']:.1%} instead of {chosen['sensitivity']:.1%}, "
        f"specificity {half['specificity']:.1%} instead of "
        f"{chosen['specificity']:.1%}."
    )
