"""Decision thresholds: rules that choose one on validation data, and their effects."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn import metrics

from cxr.evaluation import compute_metrics, predictive_values


def threshold_at_sensitivity(
    labels: np.ndarray, probabilities: np.ndarray, sensitivity: float
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
    prevalences: Sequence[float] = (0.05,),
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


def draw_patients(
    patients: Sequence[str], images: int, generator: np.random.Generator
) -> np.ndarray:
    """Return bool (n,): the images of randomly drawn patients, at least so many."""
    patient = np.unique(np.asarray(patients), return_inverse=True)[1]
    rank = generator.permutation(patient.max() + 1)[patient]
    return rank <= np.sort(rank)[min(images, len(rank)) - 1]


def adapt_threshold(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    threshold: float,
    sizes: Sequence[int] = (10, 20, 50, 100, 200),
    draws: int = 300,
    seed: int = 0,
) -> pd.DataFrame:
    """Simulate the choice of a threshold on a few labeled images of a new place.

    Patients are drawn, a threshold is chosen on their images (`youden_threshold`), and
    the images of all other patients are scored. Where only one class was drawn, the
    old threshold is kept. Network and ranking stay as they are.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    probabilities : float array of shape (n,)
    patients : sequence of str, of length n
    threshold : float
        The threshold from elsewhere, for the row of 0 images.
    sizes : sequence of int
        Numbers of labeled images. Those above half of the images are left out.
    draws : int
        Number of simulations for each size.
    seed : int

    Returns
    -------
    DataFrame
        A row for each number of labeled images. Columns: value, the mean balanced
        accuracy, (sensitivity + specificity) / 2; low and high, which enclose 95% of
        the draws.
    """
    generator = np.random.default_rng(seed)

    def balanced_accuracy(chosen_threshold: float, scored: np.ndarray) -> float:
        scores = compute_metrics(
            labels[scored], probabilities[scored], chosen_threshold
        )
        return (scores["sensitivity"] + scores["specificity"]) / 2

    everything = balanced_accuracy(threshold, np.ones(len(labels), bool))
    rows = {0: {"value": everything, "low": everything, "high": everything}}
    for size in [size for size in sizes if size <= len(labels) / 2]:
        drawn = []
        for _ in range(draws):
            labeled = draw_patients(patients, size, generator)
            local = youden_threshold(labels[labeled], probabilities[labeled])
            if np.isnan(local):
                local = threshold
            drawn.append(balanced_accuracy(local, ~labeled))
        known = [value for value in drawn if np.isfinite(value)]
        if known:
            low, high = np.quantile(known, (0.025, 0.975))
            rows[size] = {
                "value": float(np.mean(known)),
                "low": float(low),
                "high": float(high),
            }
    table = pd.DataFrame(rows).T
    return table.rename_axis("labeled images")


def describe_adaptation(table: pd.DataFrame) -> str:
    """Return in words how many labeled images improve on the threshold from elsewhere.

    Parameters
    ----------
    table : DataFrame
        As `adapt_threshold` returns it.
    """
    before = table.value.loc[0]
    text = f"Balanced accuracy with the threshold from validation: {before:.3f}."
    later = table.drop(0)
    if later.empty:
        return f"{text} The test set is too small for this experiment."
    size = later.index[-1]
    text += f" With {size} labeled images: {later.value.loc[size]:.3f} on average."
    better = later[later.value > before]
    if better.empty:
        return f"{text} New thresholds do not improve it: the threshold travels well."
    always = later[later.low > before]
    text += f" {better.index[0]} images improve it on average"
    if always.empty:
        return f"{text}, but in no size do 95% of the draws."
    return f"{text}, and from {always.index[0]} on at least 97.5% of the draws do."
