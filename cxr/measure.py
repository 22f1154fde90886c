"""Measuring a network: scores with intervals, calibration, the threshold."""

import inspect
import math
from collections.abc import Iterator

import keras
import numpy as np
import pandas as pd
from scipy import special
from scipy.optimize import minimize
from sklearn import metrics
from sklearn.model_selection import GroupKFold

from cxr.batches import ImageBatches


def predict(model: keras.Model, x, batch_size: int = 32) -> np.ndarray:
    """Return float64 (n, outputs): what a network answers for each image of an array or of ImageBatches.

    An array is cut into batches of one shape: on a GPU, each other shape would be compiled anew.
    """
    if isinstance(x, np.ndarray):
        x = ImageBatches([x], np.arange(len(x)), np.zeros(len(x), np.uint8), batch_size)
    return model.predict(x, verbose=0)[:len(x.rows)].astype(np.float64)


def predict_probabilities(model: keras.Model, x) -> np.ndarray:
    """Return the probability of PNEUMONIA for each image of an array or of ImageBatches: float64 (n,)."""
    return predict(model, x)[:, 0]


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Return the evidence behind probabilities, log(p / (1 − p)), also where they are rounded to 0 or 1."""
    return special.logit(np.clip(probabilities, 1e-7, 1 - 1e-7))


def rank(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return (AUC, average precision) of images with weights (n,); NaN where a class is missing. (10 × as fast as scikit-learn.)"""
    place = np.unique(-probabilities, return_inverse=True)[1]  # 0: the highest; equal answers share a place
    sick, healthy = (np.bincount(place, weights * (labels == label)) for label in (1, 0))
    hits, false_alarms = np.cumsum(sick), np.cumsum(healthy)
    if not hits[-1] or not false_alarms[-1]:
        return float("nan"), float("nan")
    precision = hits / np.maximum(hits + false_alarms, 1e-12)
    return float(np.sum(healthy * (hits - sick / 2)) / hits[-1] / false_alarms[-1]), float(np.sum(sick * precision) / hits[-1])


def measure(labels: np.ndarray, probabilities: np.ndarray, threshold: float, weights: np.ndarray | None = None) -> dict[str, float]:
    """Return a dict of seven scores of images, weighted or not; a score that has nothing to measure is NaN."""
    weights = np.ones(len(labels)) if weights is None else weights
    alarms = probabilities >= threshold
    hits, misses = weights[alarms & (labels == 1)].sum(), weights[~alarms & (labels == 1)].sum()
    false_alarms, passes = weights[alarms & (labels == 0)].sum(), weights[~alarms & (labels == 0)].sum()
    auc, average_precision = rank(labels, probabilities, weights)

    def ratio(part, whole):
        return float(part / whole) if whole else float("nan")

    return {"accuracy": ratio(hits + passes, weights.sum()),
            "sensitivity": ratio(hits, hits + misses),
            "specificity": ratio(passes, passes + false_alarms),
            "precision": ratio(hits, hits + false_alarms),
            "f1": ratio(2 * hits, 2 * hits + misses + false_alarms),
            "auc": auc, "average_precision": average_precision}


def draw_patients(patients, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield float64 (images,), `resamples` times: how often each image counts when patients are drawn with replacement.

    Images of one patient are alike, so an image counts as often as its patient (the cluster bootstrap; Field and Welsh, 2007).
    """
    patient = np.unique(patients, return_inverse=True)[1]
    generator, count = np.random.default_rng(seed), patient.max() + 1
    for _ in range(resamples):
        yield np.bincount(generator.integers(count, size=count), minlength=count)[patient].astype(float)


def enclose(scores: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return {score: {"value", "low", "high"}} of a table of scores: first of all images, then of each draw; 95 % intervals."""
    result = {}
    for name, (value, *draws) in scores.items():
        seen = [draw for draw in draws if np.isfinite(draw)]
        low, high = np.quantile(seen, (0.025, 0.975)) if seen else (np.nan, np.nan)
        result[name] = {"value": float(value), "low": float(low), "high": float(high)}
    return result


def score(labels: np.ndarray, probabilities: np.ndarray, patients, threshold: float, resamples: int, seed: int) -> dict:
    """Return {score: {"value", "low", "high"}} with 95 % percentile bootstrap intervals, drawn by patient."""
    every_draw = np.ones(len(labels)), *draw_patients(patients, resamples, seed)
    result = enclose(pd.DataFrame([measure(labels, probabilities, threshold, weights) for weights in every_draw]))
    fewest = min(len(np.unique(np.asarray(patients)[labels == label])) for label in (0, 1))
    for one in result.values():  # where no patient is answered wrongly, none of any draw is: then as Clopper and Pearson, 1934
        if fewest and one["low"] == one["high"] and one["value"] in (0, 1):
            one["high" if one["value"] == 0 else "low"] = abs(1 - one["value"] - 0.025 ** (1 / fewest))
    return result


def mean_by_patient(values: np.ndarray, patients, resamples: int, seed: int) -> tuple[float, float, float]:
    """Return (mean, low, high) of values (n,), with a 95 % percentile bootstrap interval, drawn by patient."""
    means = [np.average(values, weights=weights) for weights in draw_patients(patients, resamples, seed)]
    return float(np.mean(values)), *np.quantile(means, (0.025, 0.975)).tolist()


def describe_rule() -> str:
    """Return in words what `choose_threshold` makes as large as can be."""
    miss = inspect.signature(choose_threshold).parameters["miss"].default
    return f"{miss} x sensitivity + specificity"


def choose_threshold(labels: np.ndarray, probabilities: np.ndarray, miss: float = 2) -> float:
    """Return the threshold with the largest `miss` × sensitivity + specificity (1: Youden, 1950); of several alike, the middle one."""
    false_rate, true_rate, steps = metrics.roc_curve(labels, probabilities, drop_intermediate=False)
    index = miss * true_rate - false_rate
    alike = np.flatnonzero(np.isclose(index, index.max()))
    best = alike[len(alike) // 2]
    below = steps[best + 1] if best + 1 < len(steps) else 0.0
    return float((min(steps[best], 1.0) + below) / 2)


def describe_line(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> str:
    """Return in words what a line at 0.5 would do to the same images."""
    ours, half = measure(labels, probabilities, threshold), measure(labels, probabilities, 0.5)
    return (f"That is {'above' if threshold > 0.5 else 'below' if threshold < 0.5 else 'at'} 0.5, where sensitivity on them is "
            f"{half['sensitivity']:.1%} in place of {ours['sensitivity']:.1%}, specificity {half['specificity']:.1%} in place of "
            f"{ours['specificity']:.1%}.")


def choose_for_sensitivity(labels: np.ndarray, probabilities: np.ndarray, wanted: float = 0.95) -> float:
    """Return the largest threshold at which at least the wanted share of the sick is found."""
    sick = np.sort(probabilities[labels == 1])
    return float(sick[math.floor((1 - wanted) * len(sick) + 1e-9)])


def choose_for_cost(labels: np.ndarray, probabilities: np.ndarray, miss: float = 5) -> float:
    """Return the threshold with the lowest cost, where a missed child costs `miss` false alarms."""
    steps = np.unique(np.concatenate([probabilities, [1.0]]))
    costs = [miss * np.sum(probabilities[labels == 1] < step) + np.sum(probabilities[labels == 0] >= step) for step in steps]
    return float(steps[np.argmin(costs)])


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Return (PPV, NPV): the shares of the alarms, and of the all-clears, that are right at a prevalence (Bayes' theorem)."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    clear, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return (right / (right + wrong) if right + wrong else np.nan), (clear / (clear + missed) if clear + missed else np.nan)


def compare_thresholds(labels: np.ndarray, probabilities: np.ndarray, thresholds: dict, prevalences=(0.05, 0.2, 0.5)) -> pd.DataFrame:
    """Return a table: what each of {name: threshold} gives, and what it would mean at other shares of sick children."""
    rows = {}
    for name, step in thresholds.items():
        scores = measure(labels, probabilities, step)
        rows[name] = {"threshold": step, "sensitivity": scores["sensitivity"], "specificity": scores["specificity"]}
        for share in prevalences:
            values = predictive_values(scores["sensitivity"], scores["specificity"], share)
            rows[name] |= {f"{word} at {share:.0%} sick": value for word, value in zip(("PPV", "NPV"), values)}
    return pd.DataFrame(rows).T.round(3)


def fit_calibration(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Return (temperature, shift) for which sigmoid(logit / temperature + shift) fits the labels best (Platt, 1999).

    The labels count as Platt's smoothed targets, so that answers without a mistake do not ask for certainty.
    """
    sick, healthy = np.sum(labels == 1), np.sum(labels == 0)
    targets = np.where(labels == 1, (sick + 1) / (sick + 2), 1 / (healthy + 2))
    logits = to_logits(probabilities)

    def cross_entropy(line):
        scaled = np.exp(line[0]) * logits + line[1]
        return np.mean(np.logaddexp(0, scaled) - targets * scaled)

    slope, shift = minimize(cross_entropy, (0.0, 0.0), method="Nelder-Mead").x
    return float(np.exp(-slope)), float(shift)


def choose_calibration(labels: np.ndarray, probabilities: np.ndarray, patients, folds: int = 10):
    """Return (temperature, shift, probabilities after): (1, 0, as before) unless that fits patients better whom it has not seen.

    The probabilities after are cross-fitted: those of a patient are changed by what was fitted to others.
    """
    crossed, logits = probabilities.copy(), to_logits(probabilities)
    for fit, rest in GroupKFold(min(folds, len(np.unique(patients)))).split(logits, labels, patients):
        temperature, shift = fit_calibration(labels[fit], probabilities[fit])
        crossed[rest] = special.expit(logits[rest] / temperature + shift)
    before, after = (metrics.log_loss(labels, said, labels=[0, 1]) for said in (probabilities, crossed))
    return (*fit_calibration(labels, probabilities), crossed) if after < before else (1.0, 0.0, probabilities)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error of P(PNEUMONIA), 0 to 1, in bins of equal width (Naeini et al., 2015)."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [abs(np.sum(labels[place == one]) - np.sum(probabilities[place == one])) for one in range(bins)]
    return float(np.sum(gaps) / len(labels))


def calibrate(model: keras.Model, temperature: float, shift: float):
    """Put temperature and shift into the weights of a network's last layer: it says calibrated probabilities from now on."""
    last = model.get_layer("logit")
    kernel, bias = last.get_weights()
    last.set_weights([kernel / temperature, bias / temperature + shift])


def describe_calibration(record: dict, pictures: str) -> str:
    """Return in words what calibration did to a run's answers for these pictures."""
    before, after = (record["calibration_error"][name] for name in ("before", "after"))
    if (record["temperature"], record["shift"]) == (1, 0):
        return f"Calibration error {before:.3f}: scaling does not help patients whom it has not seen, so nothing is changed ({pictures})"
    return (f"Calibration error {before:.3f} before, {after:.3f} after: temperature {record['temperature']:.2f}, "
            f"shift {record['shift']:+.2f} ({pictures})")


def describe_errors(matrix: np.ndarray, scores: dict, pictures: str) -> str:
    """Return in words what a confusion matrix ((2, 2), rows are the truth) shows, and how sure that is."""
    (passes, false_alarms), (misses, hits) = matrix
    floor, accuracy = matrix[1].sum() / matrix.sum(), scores["accuracy"]
    verdict = "above" if accuracy["low"] > floor else "not surely above"
    return (f"Missed {misses} of {misses + hits} {pictures} with pneumonia, {false_alarms} false alarms for {passes + false_alarms} normal "
            f"ones.\nAccuracy {accuracy['value']:.1%}, 95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%}: {verdict} the "
            f"{floor:.1%} of always answering PNEUMONIA.")


def adapt_to_prevalence(probabilities: np.ndarray, share: float, rounds: int = 200) -> tuple[np.ndarray, float]:
    """Return (probabilities, share): the answers for a set whose share of sick children is another one, and that share.

    Without any label, by expectation–maximisation (Saerens, Latinne and Decaestecker, 2002); right only where nothing but the share has
    changed. `share`: of the sick among what was learnt from.
    """
    odds, now = probabilities / np.maximum(1 - probabilities, 1e-12), share
    for _ in range(rounds):
        adapted = odds * now * (1 - share) / (share * (1 - now))
        adapted = adapted / (1 + adapted)
        now = float(np.clip(adapted.mean(), 1e-6, 1 - 1e-6))
    return adapted, now


def describe_share(learnt: float, estimated: float, true: float) -> str:
    """Return in words how the estimate of `adapt_to_prevalence` compares with the share that was learnt from, and with the true one."""
    verdict = ("nearer than what was learnt from" if abs(estimated - true) < abs(learnt - true) else
               "no nearer than what was learnt from: more than the share differs, or nothing does")
    return f"Learnt from {learnt:.1%} sick; test is estimated to have {estimated:.1%}, and has {true:.1%}: {verdict}."


def compare_sets(sets: dict, threshold: float) -> pd.DataFrame:
    """Return a table of what a shift changes, one row for each {name: (labels, probabilities)}."""
    rows = {}
    for name, (labels, probabilities) in sets.items():
        scores = measure(labels, probabilities, threshold)
        rows[name] = {"sick, truly": labels.mean(), "sick, as announced": probabilities.mean(), "sensitivity": scores["sensitivity"],
                      "specificity": scores["specificity"], "PPV": scores["precision"],
                      "calibration error": calibration_error(labels, probabilities)}
    return pd.DataFrame(rows).T
