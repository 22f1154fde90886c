"""Calibration: Platt scaling, calibration error, adaptation to another prevalence."""

import keras
import numpy as np
from numpy.typing import ArrayLike
from scipy import special
from scipy.optimize import minimize
from sklearn import metrics
from sklearn.model_selection import GroupKFold


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 − p)) of probabilities, clipped so that 0 and 1 stay finite."""
    return special.logit(np.clip(probabilities, 1e-7, 1 - 1e-7))


def apply_calibration(
    logits: np.ndarray, temperature: float, shift: float
) -> np.ndarray:
    """Return the probabilities sigmoid(logit / temperature + shift), float64 (n,)."""
    return special.expit(logits / temperature + shift)


def fit_platt_scaling(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Return the (temperature, shift) that fit the logits to the labels.

    The calibrated probability is sigmoid(logit / temperature + shift). A temperature
    above 1 makes a network less confident. The targets are slightly below 1 and above
    0, as Platt proposes: otherwise, logits that separate the classes perfectly would
    demand probabilities of exactly 0 and 1.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    logits : float array of shape (n,)

    Returns
    -------
    temperature, shift : float

    References
    ----------
    Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    positives = np.sum(labels == 1)
    negatives = np.sum(labels == 0)
    positive_target = (positives + 1) / (positives + 2)
    negative_target = 1 / (negatives + 2)
    targets = np.where(labels == 1, positive_target, negative_target)

    def cross_entropy(parameters: np.ndarray) -> float:
        log_slope, shift = parameters  # the slope, exp(log_slope), stays positive
        scaled = np.exp(log_slope) * logits + shift
        return np.mean(np.logaddexp(0, scaled) - targets * scaled)

    log_slope, shift = minimize(cross_entropy, (0.0, 0.0), method="Nelder-Mead").x
    return float(np.exp(-log_slope)), float(shift)


def choose_calibration(
    labels: np.ndarray, logits: np.ndarray, patients: ArrayLike, folds: int = 10
) -> tuple[float, float, np.ndarray]:
    """Fit Platt scaling, and keep it if it lowers the cross-validated log loss.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    logits : float array of shape (n,)
    patients : array-like of shape (n,)
        No patient is in two folds.
    folds : int

    Returns
    -------
    temperature, shift : float
        1 and 0 if scaling does not help, or if there are images of one class or of one
        patient only.
    probabilities : float64 array of shape (n,)
        Cross-fitted: each patient's images are scaled with the values that were fitted
        to other patients. The unscaled probabilities if scaling does not help.
    """
    uncalibrated = apply_calibration(logits, 1, 0)
    folds = min(folds, len(np.unique(patients)))
    if folds < 2 or len(np.unique(labels)) < 2:
        return 1.0, 0.0, uncalibrated

    calibrated = np.empty_like(uncalibrated)
    for train, test in GroupKFold(folds).split(logits, labels, patients):
        temperature, shift = fit_platt_scaling(labels[train], logits[train])
        calibrated[test] = apply_calibration(logits[test], temperature, shift)
    loss_before = metrics.log_loss(labels, uncalibrated, labels=[0, 1])
    loss_after = metrics.log_loss(labels, calibrated, labels=[0, 1])
    if loss_after >= loss_before:
        return 1.0, 0.0, uncalibrated
    return *fit_platt_scaling(labels, logits), calibrated


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 10
) -> float:
    """Return the expected calibration error, 0 to 1, in bins of equal width.

    In each bin, the fraction of positive images is compared with the mean probability.
    The result is the mean difference, weighted by the number of images.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    probabilities : float array of shape (n,)
        P(PNEUMONIA), not the probability of the predicted class.
    bins : int

    References
    ----------
    Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using
    Bayesian binning", AAAI 2015.
    """
    if not len(labels):
        return float("nan")
    bin_of_image = np.minimum((probabilities * bins).astype(int), bins - 1)
    positives = np.bincount(bin_of_image, labels, minlength=bins)
    expected = np.bincount(bin_of_image, probabilities, minlength=bins)
    return float(np.sum(np.abs(positives - expected)) / len(labels))


def chance_calibration_error(
    probabilities: np.ndarray,
    bootstrap_samples: int,
    seed: int,
    quantile: float = 0.95,
) -> float:
    """Return the calibration error that a calibrated model may show by chance.

    Labels are drawn with the predicted probabilities, so that these are right, and the
    error of each draw is measured. Images of one patient are drawn independently.

    Parameters
    ----------
    probabilities : float array of shape (n,)
    bootstrap_samples : int
        Number of draws.
    seed : int
    quantile : float
        Of the errors of the draws.

    References
    ----------
    Bröcker and Smith, "Increasing the reliability of reliability diagrams", Weather and
    Forecasting 22, 2007.
    """
    if not len(probabilities):
        return float("nan")
    generator = np.random.default_rng(seed)
    errors = []
    for _ in range(bootstrap_samples):
        labels = generator.random(len(probabilities)) < probabilities
        errors.append(expected_calibration_error(labels, probabilities))
    return float(np.quantile(errors, quantile))


def describe_calibration_error(split: str, error: float, by_chance: float) -> str:
    """Return in words whether a model is calibrated on a set of this name.

    `error`: see `expected_calibration_error`; `by_chance`: see
    `chance_calibration_error`.
    """
    verdict = "so nothing here speaks against this one"
    if error > by_chance:
        verdict = "so this one is not calibrated here"
    return (
        f"The calibration error is {error:.4f} on {split}. On this set, a calibrated "
        f"network would show up to {by_chance:.4f} by chance, {verdict}."
    )


def calibrate_model(model: keras.Model, temperature: float, shift: float) -> None:
    """Build temperature and shift into the weights of the layer "logit", in place.

    From then on, the network returns calibrated logits and probabilities.
    """
    layer = model.get_layer("logit")
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel / temperature, bias / temperature + shift])


def describe_calibration(temperature: float, shift: float) -> str:
    """Return in words what Platt scaling has changed."""
    if (temperature, shift) == (1, 0):
        return (
            "Platt scaling did not improve the cross-validated log loss and was not "
            "applied."
        )
    level = "too low" if shift > 0 else "too high"
    spread = "too extreme" if temperature > 1 else "too moderate"
    if abs(shift) < 0.05:
        level = "neither too low nor too high"
    if abs(temperature - 1) < 0.05:
        spread = "neither too extreme nor too moderate"
    return (
        f"The probabilities were {level} (shift {shift:+.2f}) and {spread} "
        f"(temperature {temperature:.2f})."
    )


def adapt_to_prevalence(
    probabilities: np.ndarray, prevalence: float, iterations: int = 200
) -> tuple[np.ndarray, float]:
    """Adapt probabilities to a data set of another, unknown prevalence.

    Expectation–maximization estimates the prevalence without any label. The result is
    correct only if nothing but the prevalence has changed (label shift).

    Parameters
    ----------
    probabilities : float array of shape (n,)
        Calibrated at `prevalence`.
    prevalence : float
        The fraction of positive images in the training set.
    iterations : int

    Returns
    -------
    probabilities : float array of shape (n,)
    prevalence : float
        The estimate for these n images; NaN without images.

    References
    ----------
    Saerens, Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a
    priori probabilities", Neural Computation, 2002.
    """
    if not len(probabilities):
        return probabilities, float("nan")
    odds = probabilities / np.maximum(1 - probabilities, 1e-12)
    training_odds = prevalence / (1 - prevalence)
    adapted = probabilities
    estimate = prevalence
    for _ in range(iterations):
        adapted_odds = odds * estimate / (1 - estimate) / training_odds
        adapted = adapted_odds / (1 + adapted_odds)
        estimate = float(np.clip(adapted.mean(), 1e-6, 1 - 1e-6))
    return adapted, estimate


def describe_prevalence(training: float, estimated: float, true: float) -> str:
    """Return in words whether the estimated prevalence is closer to the true one."""
    verdict = (
        "The estimate is not closer to the truth than the training prevalence: more "
        "than the prevalence differs, or nothing does."
    )
    if abs(estimated - true) < abs(training - true):
        verdict = "The estimate is closer to the truth than the training prevalence."
    return (
        f"Prevalence of pneumonia: {training:.1%} in training, {true:.1%} in test, "
        f"estimated without labels {estimated:.1%}. {verdict}"
    )
