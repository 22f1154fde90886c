"""Measuring a network: scores with intervals, calibration, the threshold."""

from collections.abc import Iterator

import keras
import numpy as np
import pandas as pd

from cxr.batches import ImageBatches
from cxr.calibration import expected_calibration_error


def predict_in_batches(model: keras.Model, x, batch_size: int = 32) -> np.ndarray:
    """Return float64 (n, outputs): what a network answers for each image of an array or of ImageBatches.

    An array is cut into batches of one shape: on a GPU, each other shape would be compiled anew.
    """
    if isinstance(x, np.ndarray):
        x = ImageBatches([x], np.arange(len(x)), np.zeros(len(x), np.uint8), batch_size)
    return model.predict(x, verbose=0)[: len(x.rows)].astype(np.float64)


def predict_probabilities(model: keras.Model, x) -> np.ndarray:
    """Return the probability of PNEUMONIA for each image of an array or of ImageBatches: float64 (n,)."""
    return predict_in_batches(model, x)[:, 0]


def auc_and_average_precision(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Return (AUC, average precision) of images with weights (n,); NaN where a class is missing. (10 × as fast as scikit-learn.)"""
    place = np.unique(-probabilities, return_inverse=True)[
        1
    ]  # 0: the highest; equal answers share a place
    sick, healthy = (
        np.bincount(place, weights * (labels == label)) for label in (1, 0)
    )
    hits, false_alarms = np.cumsum(sick), np.cumsum(healthy)
    if not hits[-1] or not false_alarms[-1]:
        return float("nan"), float("nan")
    precision = hits / np.maximum(hits + false_alarms, 1e-12)
    return float(
        np.sum(healthy * (hits - sick / 2)) / hits[-1] / false_alarms[-1]
    ), float(np.sum(sick * precision) / hits[-1])


def compute_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    weights: np.ndarray | None = None,
) -> dict[str, float]:
    """Return a dict of seven scores of images, weighted or not; a score that has nothing to measure is NaN."""
    weights = np.ones(len(labels)) if weights is None else weights
    alarms = probabilities >= threshold
    hits, misses = (
        weights[alarms & (labels == 1)].sum(),
        weights[~alarms & (labels == 1)].sum(),
    )
    false_alarms, passes = (
        weights[alarms & (labels == 0)].sum(),
        weights[~alarms & (labels == 0)].sum(),
    )
    auc, average_precision = auc_and_average_precision(labels, probabilities, weights)

    def ratio(part, whole):
        return float(part / whole) if whole else float("nan")

    return {
        "accuracy": ratio(hits + passes, weights.sum()),
        "sensitivity": ratio(hits, hits + misses),
        "specificity": ratio(passes, passes + false_alarms),
        "precision": ratio(hits, hits + false_alarms),
        "f1": ratio(2 * hits, 2 * hits + misses + false_alarms),
        "auc": auc,
        "average_precision": average_precision,
    }


def cluster_bootstrap_weights(
    patients, bootstrap_samples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield float64 (images,), `bootstrap_samples` times: how often each image counts when patients are drawn with replacement.

    Images of one patient are alike, so an image counts as often as its patient (the cluster bootstrap; Field and Welsh, 2007).
    """
    patient = np.unique(patients, return_inverse=True)[1]
    generator, count = np.random.default_rng(seed), patient.max() + 1
    for _ in range(bootstrap_samples):
        yield np.bincount(generator.integers(count, size=count), minlength=count)[
            patient
        ].astype(float)


def percentile_ci(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return {score: {"value", "low", "high"}} of a table of scores: first of all images, then of each draw; 95 % intervals."""
    result = {}
    for name, (value, *draws) in scores.items():
        seen = [draw for draw in draws if np.isfinite(draw)]
        low, high = np.quantile(seen, (0.025, 0.975)) if seen else (np.nan, np.nan)
        result[name] = {"value": float(value), "low": float(low), "high": float(high)}
    return result


def metrics_with_ci(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients,
    threshold: float,
    bootstrap_samples: int,
    seed: int,
) -> dict:
    """Return {score: {"value", "low", "high"}} with 95 % percentile bootstrap intervals, drawn by patient."""
    every_draw = (
        np.ones(len(labels)),
        *cluster_bootstrap_weights(patients, bootstrap_samples, seed),
    )
    result = percentile_ci(
        pd.DataFrame(
            [
                compute_metrics(labels, probabilities, threshold, weights)
                for weights in every_draw
            ]
        )
    )
    fewest = min(
        len(np.unique(np.asarray(patients)[labels == label])) for label in (0, 1)
    )
    for one in result.values():  # where no patient is answered wrongly, none of any draw is: then as Clopper and Pearson, 1934
        if fewest and one["low"] == one["high"] and one["value"] in (0, 1):
            one["high" if one["value"] == 0 else "low"] = abs(
                1 - one["value"] - 0.025 ** (1 / fewest)
            )
    return result


def mean_with_ci(
    values: np.ndarray, patients, bootstrap_samples: int, seed: int
) -> tuple[float, float, float]:
    """Return (mean, low, high) of values (n,), with a 95 % percentile bootstrap interval, drawn by patient."""
    means = [
        np.average(values, weights=weights)
        for weights in cluster_bootstrap_weights(patients, bootstrap_samples, seed)
    ]
    return float(np.mean(values)), *np.quantile(means, (0.025, 0.975)).tolist()


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float, float]:
    """Return (PPV, NPV): the shares of the alarms, and of the all-clears, that are right at a prevalence (Bayes' theorem)."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    clear, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return (right / (right + wrong) if right + wrong else np.nan), (
        clear / (clear + missed) if clear + missed else np.nan
    )


def describe_confusion_matrix(matrix: np.ndarray, scores: dict, pictures: str) -> str:
    """Return in words what a confusion matrix ((2, 2), rows are the truth) shows, and how sure that is."""
    (passes, false_alarms), (misses, hits) = matrix
    floor, accuracy = matrix[1].sum() / matrix.sum(), scores["accuracy"]
    verdict = "above" if accuracy["low"] > floor else "not surely above"
    return (
        f"Missed {misses} of {misses + hits} {pictures} with pneumonia, {false_alarms} false alarms for {passes + false_alarms} normal "
        f"ones.\nAccuracy {accuracy['value']:.1%}, 95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%}: {verdict} the "
        f"{floor:.1%} of always answering PNEUMONIA."
    )


def compare_datasets(sets: dict, threshold: float) -> pd.DataFrame:
    """Return a table of what a shift changes, one row for each {name: (labels, probabilities)}."""
    rows = {}
    for name, (labels, probabilities) in sets.items():
        scores = compute_metrics(labels, probabilities, threshold)
        rows[name] = {
            "sick, truly": labels.mean(),
            "sick, as announced": probabilities.mean(),
            "sensitivity": scores["sensitivity"],
            "specificity": scores["specificity"],
            "PPV": scores["precision"],
            "calibration error": expected_calibration_error(labels, probabilities),
        }
    return pd.DataFrame(rows).T


def format_metrics(**sets: dict) -> pd.DataFrame:
    """Return a table of scores as "value [low–high]", one column a set."""
    return pd.DataFrame(
        {
            name: {
                key: f"{one['value']:.3f} [{one['low']:.3f}–{one['high']:.3f}]"
                for key, one in scores.items()
            }
            for name, scores in sets.items()
        }
    )


def metrics_by_finding(
    labels: np.ndarray,
    probabilities: np.ndarray,
    files: pd.DataFrame,
    threshold: float,
    bootstrap_samples: int,
    seed: int,
):
    """Return a table: sensitivity, and AUC against the normal images, for each kind of pneumonia that the file names tell."""
    rows = {}
    for finding in [
        name for name in ("bacterial", "viral") if (files.finding == name).any()
    ]:
        chosen = ((files.finding == finding) | (labels == 0)).to_numpy()
        scores = metrics_with_ci(
            labels[chosen],
            probabilities[chosen],
            files.patient[chosen],
            threshold,
            bootstrap_samples,
            seed,
        )
        rows[finding] = {
            "images": int((files.finding == finding).sum()),
            **format_metrics(
                one={key: scores[key] for key in ("sensitivity", "auc")}
            ).one,
        }
    return pd.DataFrame(rows).T.rename(columns={"auc": "AUC against normal"})
