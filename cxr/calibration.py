"""Calibration: Platt scaling, the expected calibration error, adaptation to another prevalence."""

import keras
import numpy as np
from scipy import special
from scipy.optimize import minimize
from sklearn import metrics
from sklearn.model_selection import GroupKFold


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Return the evidence behind probabilities, log(p / (1 − p)), also where they are rounded to 0 or 1."""
    return special.logit(np.clip(probabilities, 1e-7, 1 - 1e-7))


def fit_platt_scaling(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[float, float]:
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


def choose_calibration(
    labels: np.ndarray, probabilities: np.ndarray, patients, folds: int = 10
):
    """Return (temperature, shift, probabilities after): (1, 0, as before) unless that fits patients better whom it has not seen.

    The probabilities after are cross-fitted: those of a patient are changed by what was fitted to others.
    """
    crossed, logits = probabilities.copy(), to_logits(probabilities)
    for fit, rest in GroupKFold(min(folds, len(np.unique(patients)))).split(
        logits, labels, patients
    ):
        temperature, shift = fit_platt_scaling(labels[fit], probabilities[fit])
        crossed[rest] = special.expit(logits[rest] / temperature + shift)
    before, after = (
        metrics.log_loss(labels, said, labels=[0, 1])
        for said in (probabilities, crossed)
    )
    return (
        (*fit_platt_scaling(labels, probabilities), crossed)
        if after < before
        else (1.0, 0.0, probabilities)
    )


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 10
) -> float:
    """Return the expected calibration error of P(PNEUMONIA), 0 to 1, in bins of equal width (Naeini et al., 2015)."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        abs(np.sum(labels[place == one]) - np.sum(probabilities[place == one]))
        for one in range(bins)
    ]
    return float(np.sum(gaps) / len(labels))


def calibrate_model(model: keras.Model, temperature: float, shift: float):
    """Put temperature and shift into the weights of a network's last layer: it says calibrated probabilities from now on."""
    last = model.get_layer("logit")
    kernel, bias = last.get_weights()
    last.set_weights([kernel / temperature, bias / temperature + shift])


def describe_calibration(record: dict, pictures: str) -> str:
    """Return in words what calibration did to a run's answers for these pictures."""
    before, after = (
        record["expected_calibration_error"][name] for name in ("before", "after")
    )
    if (record["temperature"], record["shift"]) == (1, 0):
        return f"Calibration error {before:.3f}: scaling does not help patients whom it has not seen, so nothing is changed ({pictures})"
    return (
        f"Calibration error {before:.3f} before, {after:.3f} after: temperature {record['temperature']:.2f}, "
        f"shift {record['shift']:+.2f} ({pictures})"
    )


def adapt_to_prevalence(
    probabilities: np.ndarray, share: float, rounds: int = 200
) -> tuple[np.ndarray, float]:
    """Return (probabilities, share): the answers for a set whose share of sick children is another one, and that share.

    Without any label, by expectation–maximization (Saerens, Latinne and Decaestecker, 2002); right only where nothing but the share has
    changed. `share`: of the sick among what was learned from.
    """
    odds, now = probabilities / np.maximum(1 - probabilities, 1e-12), share
    for _ in range(rounds):
        adapted = odds * now * (1 - share) / (share * (1 - now))
        adapted = adapted / (1 + adapted)
        now = float(np.clip(adapted.mean(), 1e-6, 1 - 1e-6))
    return adapted, now


def describe_prevalence(learned: float, estimated: float, true: float) -> str:
    """Return in words how the estimate of `adapt_to_prevalence` compares with the share that was learned from, and with the true one."""
    verdict = (
        "nearer than what was learned from"
        if abs(estimated - true) < abs(learned - true)
        else "no nearer than what was learned from: more than the share differs, or nothing does"
    )
    return f"Learnt from {learned:.1%} sick; test is estimated to have {estimated:.1%}, and has {true:.1%}: {verdict}."
