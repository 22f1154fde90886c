"""Model comparison: several models on bias-aligned and bias-conflicting images."""

import itertools
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from cxr.evaluation import (
    Estimate,
    auc_and_average_precision,
    metrics_with_ci,
    paired_auc_difference,
)
from cxr.labels import display_name
from cxr.settings import Settings


class ModelChoice(TypedDict):
    """The best simpler model, all AUCs, and that of the residual CNN minus its AUC."""

    simpler_model: str
    aucs: dict[str, float]
    difference: Estimate


def bias_conflicting_mask(
    labels: np.ndarray, scores: np.ndarray, fraction: float = 0.25
) -> np.ndarray:
    """Return the images on which shortcuts help least, or mislead.

    Such bias-conflicting images look most like the other class to a classifier that
    does not see the lungs. All others are bias-aligned.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    scores : float array of shape (n,)
        The higher, the more a shortcut suggests PNEUMONIA.
    fraction : float
        The fraction of each class that is bias-conflicting; at least one image.

    Returns
    -------
    bool array of shape (n,)

    References
    ----------
    Nam et al., "Learning from failure: training debiased classifier from biased
    classifier", 2020, arXiv:2007.02561.
    """
    conflicting = np.zeros(len(labels), bool)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        evidence = scores[rows] if label == 1 else -scores[rows]
        most_misleading_first = rows[np.argsort(evidence, kind="stable")]
        count = max(1, round(fraction * len(rows)))
        conflicting[most_misleading_first[:count]] = True
    return conflicting


def bias_subgroups(conflicting: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    """Return the columns of `compare_models` for bias-aligned and -conflicting images.

    Parameters
    ----------
    conflicting : bool array of shape (n,)

    Returns
    -------
    dict of {column: (bool array of shape (n,), name of a metric)}
    """
    everything = np.ones_like(conflicting)
    return {
        "auc": (everything, "auc"),
        "accuracy": (everything, "accuracy"),
        "auc_bias_aligned": (~conflicting, "auc"),
        "auc_bias_conflicting": (conflicting, "auc"),
        "sensitivity_bias_conflicting": (conflicting, "sensitivity"),
        "specificity_bias_conflicting": (conflicting, "specificity"),
    }


def release_subgroups(kaggle_only: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    """Return the columns of `compare_models` for a test set.

    The columns are the same whatever the data. Where all images are in both releases,
    or the data set is another one, test_specificity_kaggle_only is NaN.

    Parameters
    ----------
    kaggle_only : bool array of shape (n,)
        The images that only Kaggle's copy of the data set contains.

    Returns
    -------
    dict of {column: (bool array of shape (n,), name of a metric)}
    """
    everything = np.ones_like(kaggle_only)
    return {
        "test_auc": (everything, "auc"),
        "test_accuracy": (everything, "accuracy"),
        "test_sensitivity": (everything, "sensitivity"),
        "test_specificity": (everything, "specificity"),
        "test_auc_both_releases": (~kaggle_only, "auc"),
        "test_specificity_kaggle_only": (kaggle_only, "specificity"),
    }


def compare_models(
    labels: np.ndarray,
    predictions: dict[str, np.ndarray],
    thresholds: dict[str, float],
    patients: ArrayLike,
    columns: dict[str, tuple[np.ndarray, str]],
    settings: Settings,
) -> dict[str, dict[str, Estimate]]:
    """Return metrics of several models on subgroups of the same images.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    predictions : dict of {model: probabilities of shape (n,)}
    thresholds : dict of {model: threshold}
    patients : array-like of shape (n,)
    columns : dict of {column: (bool array of shape (n,), name of a metric)}
        As `bias_subgroups` and `release_subgroups` return it.
    settings : Settings

    Returns
    -------
    dict of {model: {column: Estimate}}
        With 95% bootstrap intervals by patient; NaN where a subgroup is empty.
    """
    patients = np.asarray(patients)
    models: dict[str, dict[str, Estimate]] = {}
    for name, probabilities in predictions.items():
        models[name] = {}
        metrics_of_subgroup: dict[bytes, dict[str, Estimate]] = {}
        for column, (rows, metric) in columns.items():
            key = rows.tobytes()  # columns of the same images are computed once
            if key not in metrics_of_subgroup:
                metrics_of_subgroup[key] = metrics_with_ci(
                    labels[rows],
                    probabilities[rows],
                    patients[rows],
                    thresholds[name],
                    settings.BOOTSTRAP_SAMPLES,
                    settings.SEED,
                )
            models[name][column] = metrics_of_subgroup[key][metric]
    return models


def describe_bias_gap(models: dict[str, dict[str, Estimate]]) -> str:
    """Return in words which model loses most on bias-conflicting images, which is best.

    Parameters
    ----------
    models : dict of {model: {column: Estimate}}, with the columns of `bias_subgroups`
    """
    auc = {}
    conflicting = {}
    gap = {}
    for name, columns in models.items():
        label = display_name(name)
        auc[label] = columns["auc"]["value"]
        conflicting[label] = columns["auc_bias_conflicting"]["value"]
        gap[label] = columns["auc_bias_aligned"]["value"] - conflicting[label]
    if not np.isfinite(list(gap.values())).all():
        return (
            "The models cannot be compared on bias-aligned and bias-conflicting "
            "images: one of these subgroups lacks a class."
        )
    largest = max(gap, key=lambda label: gap[label])
    best = max(conflicting, key=lambda label: conflicting[label])
    return (
        f"The AUCs of the models differ by up to {np.ptp(list(auc.values())):.3f} on "
        f"all images and by up to {np.ptp(list(conflicting.values())):.3f} on "
        "bias-conflicting images. From bias-aligned to bias-conflicting images, the "
        f"AUC falls most for the {largest} (by {gap[largest]:.3f}). On the "
        f"bias-conflicting ones, it is highest for the {best} "
        f"({conflicting[best]:.3f})."
    )


def compare_on_conflicting(
    labels: np.ndarray,
    predictions: dict[str, np.ndarray],
    patients: ArrayLike,
    conflicting: np.ndarray,
    settings: Settings,
) -> ModelChoice:
    """Compare the residual CNN with the best simpler model on bias-conflicting images.

    Parameters
    ----------
    labels : int array of shape (n,), 0 or 1
    predictions : dict of {model: probabilities of shape (n,)}
        With "residual_cnn".
    patients : array-like of shape (n,)
    conflicting : bool array of shape (n,), see `bias_conflicting_mask`
    settings : Settings

    Returns
    -------
    ModelChoice
        The simpler model is the one with the highest AUC on these images. The
        difference is that of the residual CNN to it, on the same bootstrap samples of
        patients.
    """
    labels = labels[conflicting]
    predictions = {name: values[conflicting] for name, values in predictions.items()}
    once = np.ones(len(labels))
    aucs = {
        name: auc_and_average_precision(labels, values, once)[0]
        for name, values in predictions.items()
    }
    simpler_models = aucs.keys() - {"residual_cnn"}
    name = max(sorted(simpler_models), key=lambda name: aucs[name])
    difference = paired_auc_difference(
        labels,
        predictions["residual_cnn"],
        predictions[name],
        np.asarray(patients)[conflicting],
        settings.BOOTSTRAP_SAMPLES,
        settings.SEED,
    )
    return {"simpler_model": name, "aucs": aucs, "difference": difference}


def describe_choice(
    simpler_model: str, aucs: dict[str, float], difference: Estimate
) -> str:
    """Return in words whether the residual CNN, as it was trained, is worth keeping.

    `simpler_model`, `aucs`, `difference`: see `ModelChoice`.
    """
    label = display_name(simpler_model)
    value, low, high = difference["value"], difference["low"], difference["high"]
    if not np.isfinite([value, low, high]).all():
        return f"The residual CNN and the {label} cannot be compared on these images."
    verdict = f"not distinguishable here, so the {label}, the simpler model, would do"
    if low > 0:
        verdict = "significantly better, so the residual CNN is kept"
    if high < 0:
        verdict = f"significantly worse, so the {label} is to be preferred"
    return (
        "On bias-conflicting images, unmodified and perturbed, the AUC of the residual "
        f"CNN is {aucs['residual_cnn']:.3f}, and that of the best simpler model, the "
        f"{label}, {aucs[simpler_model]:.3f}. The difference is {value:+.3f} (95% CI "
        f"{low:+.3f} to {high:+.3f}): {verdict}."
    )


def describe_releases(
    models: dict[str, dict[str, Estimate]], kaggle_only: np.ndarray
) -> str:
    """Return in words how the residual CNN does on images of one and of both releases.

    Parameters
    ----------
    models : dict of {model: {column: Estimate}}
        With the columns of `release_subgroups`.
    kaggle_only : bool array of shape (n,), see `kaggle_only_mask`
    """
    if not kaggle_only.any():
        return "No test image is known to be in Kaggle's release only."
    scores = models["residual_cnn"]
    return (
        f"{kaggle_only.sum()} of the {len(kaggle_only)} test images, all NORMAL, are "
        "in Kaggle's release only. The residual CNN recognizes "
        f"{scores['test_specificity_kaggle_only']['value']:.0%} of them as NORMAL, "
        f"and {scores['test_specificity']['value']:.0%} of all NORMAL test images. "
        f"Without them its AUC is {scores['test_auc_both_releases']['value']:.3f}, "
        f"with them {scores['test_auc']['value']:.3f}."
    )


def describe_order_agreement(models: dict[str, dict[str, Estimate]]) -> str:
    """Return in words how well validation predicts the order of the models on test.

    Pairs of models are counted, on all validation images and on the bias-conflicting
    ones.

    Parameters
    ----------
    models : dict of {model: {column: Estimate}}
        With the columns auc, auc_bias_conflicting and test_auc.
    """
    pairs = 0
    agreements = {"auc": 0, "auc_bias_conflicting": 0}
    for first, second in itertools.combinations(models.values(), 2):
        difference = {
            column: first[column]["value"] - second[column]["value"]
            for column in ("test_auc", *agreements)
        }
        if not np.isfinite(list(difference.values())).all():
            continue
        pairs += 1
        for column in agreements:
            same = (difference[column] > 0) == (difference["test_auc"] > 0)
            agreements[column] += int(same)
    return (
        f"Order by AUC, validation against test: {agreements['auc']} of {pairs} pairs "
        "of models have the same order on all validation images, "
        f"{agreements['auc_bias_conflicting']} of {pairs} on the bias-conflicting ones."
    )
