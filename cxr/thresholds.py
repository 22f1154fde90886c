"""Decision thresholds: rules that choose one on validation data, and what each costs."""

import inspect
import math

import numpy as np
import pandas as pd
from sklearn import metrics

from cxr.evaluation import compute_metrics, predictive_values


def describe_rule() -> str:
    """Return in words what `choose_threshold` makes as large as can be."""
    miss = inspect.signature(choose_threshold).parameters["miss"].default
    return f"{miss} x sensitivity + specificity"


def choose_threshold(
    labels: np.ndarray, probabilities: np.ndarray, miss: float = 2
) -> float:
    """Return the threshold with the largest `miss` × sensitivity + specificity (1: Youden, 1950); of several alike, the middle one."""
    false_rate, true_rate, steps = metrics.roc_curve(
        labels, probabilities, drop_intermediate=False
    )
    index = miss * true_rate - false_rate
    alike = np.flatnonzero(np.isclose(index, index.max()))
    best = alike[len(alike) // 2]
    below = steps[best + 1] if best + 1 < len(steps) else 0.0
    return float((min(steps[best], 1.0) + below) / 2)


def describe_threshold(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> str:
    """Return in words what a line at 0.5 would do to the same images."""
    ours, half = (
        compute_metrics(labels, probabilities, threshold),
        compute_metrics(labels, probabilities, 0.5),
    )
    return (
        f"That is {'above' if threshold > 0.5 else 'below' if threshold < 0.5 else 'at'} 0.5, where sensitivity on them is "
        f"{half['sensitivity']:.1%} in place of {ours['sensitivity']:.1%}, specificity {half['specificity']:.1%} in place of "
        f"{ours['specificity']:.1%}."
    )


def threshold_at_sensitivity(
    labels: np.ndarray, probabilities: np.ndarray, wanted: float = 0.95
) -> float:
    """Return the largest threshold at which at least the wanted share of the sick is found."""
    sick = np.sort(probabilities[labels == 1])
    return float(sick[math.floor((1 - wanted) * len(sick) + 1e-9)])


def min_cost_threshold(
    labels: np.ndarray, probabilities: np.ndarray, miss: float = 5
) -> float:
    """Return the threshold with the lowest cost, where a missed child costs `miss` false alarms."""
    steps = np.unique(np.concatenate([probabilities, [1.0]]))
    costs = [
        miss * np.sum(probabilities[labels == 1] < step)
        + np.sum(probabilities[labels == 0] >= step)
        for step in steps
    ]
    return float(steps[np.argmin(costs)])


def compare_thresholds(
    labels: np.ndarray,
    probabilities: np.ndarray,
    thresholds: dict,
    prevalences=(0.05, 0.2, 0.5),
) -> pd.DataFrame:
    """Return a table: what each of {name: threshold} gives, and what it would mean at other shares of sick children."""
    rows = {}
    for name, step in thresholds.items():
        scores = compute_metrics(labels, probabilities, step)
        rows[name] = {
            "threshold": step,
            "sensitivity": scores["sensitivity"],
            "specificity": scores["specificity"],
        }
        for share in prevalences:
            values = predictive_values(
                scores["sensitivity"], scores["specificity"], share
            )
            rows[name] |= {
                f"{word} at {share:.0%} sick": value
                for word, value in zip(("PPV", "NPV"), values)
            }
    return pd.DataFrame(rows).T.round(3)
