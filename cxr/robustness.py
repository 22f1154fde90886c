"""Robustness: perturbed images, and what models predict for them."""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cxr.batches import ImageBatches
from cxr.calibration import to_logits
from cxr.confounders import detect_markers
from cxr.evaluation import (
    Estimate,
    bootstrap_estimate,
    compute_metrics,
)
from cxr.labels import CLASS_NAMES
from cxr.linear_baseline import border_mask
from cxr.settings import Settings


def warp_image(
    image: np.ndarray,
    angle: float = 0,
    zoom: float = 1,
    width_scale: float = 1,
    height_scale: float = 1,
) -> np.ndarray:
    """Return an image (size, size), rotated by an angle in degrees, and scaled."""
    size = len(image)
    center = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((center, center), angle, zoom)
    for row, scale in enumerate((width_scale, height_scale)):
        matrix[row] *= scale
        matrix[row, 2] += (1 - scale) * center
    return cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REFLECT)


def scale_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Return an image with each pixel's distance from the mean gray level scaled."""
    return (image - image.mean()) * factor + image.mean()


def blur_image(image: np.ndarray) -> np.ndarray:
    """Return an image after a Gaussian blur with a σ of 1/70 of its width."""
    return cv2.GaussianBlur(image, (0, 0), len(image) / 70)


def equalize_locally(image: np.ndarray) -> np.ndarray:
    """Return an image after contrast-limited adaptive histogram equalization."""
    return cv2.createCLAHE(3, (8, 8)).apply(image.astype(np.uint8))


def add_marker(image: np.ndarray) -> np.ndarray:
    """Return an image with a letter R at the upper left.

    There, the training set has a marker in many images with pneumonia, and in few
    normal ones.
    """
    size = len(image)
    return cv2.putText(
        image.astype(np.uint8),
        "R",
        (round(size / 20), round(size / 7)),
        cv2.FONT_HERSHEY_SIMPLEX,
        fontScale=size / 300,
        color=230,
        thickness=max(1, round(size / 64)),
        lineType=cv2.LINE_AA,
    )


def remove_markers(image: np.ndarray) -> np.ndarray:
    """Return an image with the side markers (see `detect_markers`) painted over."""
    gray = image.astype(np.uint8)
    markers = detect_markers(gray[:, :, None])
    markers = cv2.resize(markers, gray.shape[::-1], interpolation=cv2.INTER_NEAREST)
    markers = cv2.dilate(markers, np.ones((5, 5)))
    return cv2.inpaint(gray, markers, 3, cv2.INPAINT_TELEA)


def keep_only_border(image: np.ndarray, fraction: float = 0.12) -> np.ndarray:
    """Return an image with only its border left, the rest at the mean gray level.

    Parameters
    ----------
    image : float32 array of shape (size, size)
    fraction : float
        The width of the border, as a fraction of the width of the image.
    """
    return np.where(border_mask(len(image), fraction), image, image.mean())


def mask_border(image: np.ndarray, fraction: float = 0.12) -> np.ndarray:
    """Return an image without its border: the inverse of `keep_only_border`."""
    return np.where(border_mask(len(image), fraction), image.mean(), image)


def perturbations(size: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the perturbations that should not change a diagnosis.

    Parameters
    ----------
    size : int
        The width and height of the images in pixels.

    Returns
    -------
    dict of {name: function}
        A function takes and returns an image, float32 (size, size), with gray levels
        from 0 to 255; what it returns is to be clipped to that range. The first one is
        "unchanged".
    """
    noise = np.random.default_rng(0).normal(0, 15, (size, size))
    return {
        "unchanged": lambda image: image,
        "half_contrast": lambda image: scale_contrast(image, 0.5),
        "more_contrast": lambda image: scale_contrast(image, 1.6),
        "darker": lambda image: image - 60,
        "brighter": lambda image: image + 60,
        "gamma_one_half": lambda image: 255 * (image / 255) ** 0.5,
        "gamma_two": lambda image: 255 * (image / 255) ** 2,
        "locally_equalized": equalize_locally,
        "blurred": blur_image,
        "sharpened": lambda image: image + 1.5 * (image - blur_image(image)),
        "noisy": lambda image: image + noise,
        "cropped_to_80_percent": lambda image: warp_image(image, zoom=1.25),
        "shrunk_to_85_percent": lambda image: warp_image(image, zoom=0.85),
        "stretched_vertically": lambda image: warp_image(image, height_scale=1.25),
        "stretched_horizontally": lambda image: warp_image(image, width_scale=1.25),
        "rotated_by_12_degrees": lambda image: warp_image(image, angle=12),
        "marker_added": add_marker,
        "markers_removed": remove_markers,
        "border_masked": mask_border,
    }


def add_perturbed_copies(batches: ImageBatches, copies: int = 3) -> ImageBatches:
    """Return ImageBatches of the unchanged images and of perturbed copies.

    The perturbations are assigned in turn, so that each is applied equally often.

    Parameters
    ----------
    batches : ImageBatches of n images
    copies : int
        How many perturbed copies each image gets.

    Returns
    -------
    ImageBatches of n × (1 + copies) images: first the unchanged ones, then the copies
    """
    count = len(batches.rows)
    unchanged, *functions = perturbations(batches.arrays[0].shape[1]).values()
    copied = [functions[number % len(functions)] for number in range(copies * count)]
    return ImageBatches(
        batches.arrays,
        np.concatenate([batches.rows, np.repeat(batches.rows, copies)]),
        np.concatenate([batches.labels, np.repeat(batches.labels, copies)]),
        batches.batch_size,
        perturbations=[unchanged] * count + copied,
    )


def predict_perturbed(
    predict: Callable[[ImageBatches], np.ndarray], batches: ImageBatches
) -> dict[str, np.ndarray]:
    """Return the predictions for the images with each perturbation.

    Parameters
    ----------
    predict : function
        Takes ImageBatches of n images and returns an array of shape (n,).
    batches : ImageBatches of n images

    Returns
    -------
    dict of {perturbation: array of shape (n,)}, without "unchanged"
    """
    functions = perturbations(batches.arrays[0].shape[1])
    del functions["unchanged"]
    count = len(batches.rows)
    # One prediction for all: Keras takes longer to begin one than for a few batches.
    copies = ImageBatches(
        batches.arrays,
        np.tile(batches.rows, len(functions)),
        np.tile(batches.labels, len(functions)),
        batches.batch_size,
        perturbations=[
            function for function in functions.values() for _ in range(count)
        ],
    )
    probabilities = predict(copies).reshape(len(functions), count)
    return dict(zip(functions, probabilities, strict=True))


def pool_perturbations(
    labels: np.ndarray, predictions: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, probabilities) of all perturbations as one set of images.

    In the pooled set, one threshold has to fit all perturbations.

    Parameters
    ----------
    labels : array of shape (n,)
    predictions : dict of {perturbation: probabilities of shape (n,)}
    """
    probabilities = np.concatenate(list(predictions.values()))
    return np.tile(labels, len(predictions)), probabilities


def evaluate_perturbations(
    labels: np.ndarray, predictions: dict[str, np.ndarray], threshold: float
) -> pd.DataFrame:
    """Return a table of the metrics of `compute_metrics`, one row a perturbation.

    Parameters
    ----------
    labels : array of shape (n,)
    predictions : dict of {perturbation: probabilities of shape (n,)}
    threshold : float
    """
    return pd.DataFrame(
        {
            name: compute_metrics(labels, probabilities, threshold)
            for name, probabilities in predictions.items()
        }
    ).T


def aspect_ratio_correlation(
    files: pd.DataFrame, probabilities: np.ndarray, bootstrap_samples: int, seed: int
) -> Estimate:
    """Return the rank correlation of the logit with the aspect ratio of the original.

    Parameters
    ----------
    files : DataFrame of n rows, with the columns width, height and patient
        Images of one class: otherwise the diagnosis correlates with both.
    probabilities : float array of shape (n,)
    bootstrap_samples : int
    seed : int

    Returns
    -------
    Estimate of Spearman's correlation, with a bootstrap interval by patient; NaN where
    all images have the same aspect ratio or the same probability
    """
    aspect_ratios = (files.width / files.height).to_numpy()
    if len(np.unique(aspect_ratios)) < 2 or len(np.unique(probabilities)) < 2:
        return {"value": np.nan, "low": np.nan, "high": np.nan}
    ranks = np.stack([rankdata(aspect_ratios), rankdata(to_logits(probabilities))])

    def correlation(weights: np.ndarray) -> float:
        mean = np.average(ranks, axis=1, weights=weights)
        deviations = ranks - mean[:, None]
        covariance = deviations * weights @ deviations.T
        variances = covariance[0, 0] * covariance[1, 1]
        return covariance[0, 1] / np.sqrt(variances) if variances > 1e-12 else np.nan

    return bootstrap_estimate(correlation, files.patient, bootstrap_samples, seed)


def describe_aspect_ratio_use(
    files: pd.DataFrame, probabilities: np.ndarray, settings: Settings
) -> str:
    """Return in words, class by class, whether predictions follow the aspect ratio.

    Parameters
    ----------
    files : DataFrame of n rows, with the columns label, width, height and patient
    probabilities : float array of shape (n,)
    settings : Settings
    """
    sentences = []
    for label, name in enumerate(CLASS_NAMES):
        has_label = (files.label == label).to_numpy()
        estimate = aspect_ratio_correlation(
            files[has_label],
            probabilities[has_label],
            settings.BOOTSTRAP_SAMPLES,
            settings.SEED,
        )
        value, low, high = estimate["value"], estimate["low"], estimate["high"]
        if np.isnan(value):
            ratios = (files.width / files.height)[has_label]
            same = "aspect ratio" if ratios.nunique() < 2 else "probability"
            sentences.append(
                f"{name}: no correlation with the aspect ratio can be computed, as all "
                f"images have the same {same}."
            )
            continue
        verdict = "significant" if low > 0 or high < 0 else "not significant"
        sentences.append(
            f"{name}: rank correlation of the logit with the aspect ratio {value:.2f} "
            f"(95% CI {low:.2f} to {high:.2f}), {verdict}."
        )
    return "\n".join(sentences)


def describe_border_use(
    masked: Estimate, border: Estimate, difference: Estimate
) -> str:
    """Return in words whether the network needs the border, and whether it can use it.

    Parameters
    ----------
    masked, border : Estimate
        AUC with the border masked, and AUC on the border alone.
    difference : Estimate
        AUC on whole images minus AUC with the border masked, see
        `paired_auc_difference`.
    """
    value, low, high = difference["value"], difference["low"], difference["high"]
    needs = "no sign that the network needs the border"
    if low > 0:
        needs = "the network uses the border, or a gray one confuses it"
    can = "the network can predict from it"
    if not border["low"] > 0.5:
        can = "no sign that the network can predict from it"
    return (
        f"Masking the border lowers the AUC to {masked['value']:.3f}, by {value:.3f} "
        f"(95% CI {low:.3f} to {high:.3f}): {needs}. On the border alone it is "
        f"{border['value']:.3f} ({border['low']:.3f} to {border['high']:.3f}): {can}."
    )


def describe_robustness(table: pd.DataFrame) -> str:
    """Return in words which perturbations cost most AUC, sensitivity and specificity.

    Parameters
    ----------
    table : DataFrame
        As `evaluate_perturbations` returns it, with a row "unchanged".
    """
    drops = table.loc["unchanged"] - table.drop("unchanged")
    sentences = []
    for metric, name in (
        ("auc", "AUC"),
        ("sensitivity", "sensitivity"),
        ("specificity", "specificity"),
    ):
        drop = drops[metric].dropna().astype(float)
        if drop.empty:
            sentences.append(f"The {name} could not be measured.")
        elif drop.max() <= 0:
            sentences.append(f"No perturbation lowers the {name}.")
        else:
            worst = str(drop.idxmax())
            sentences.append(
                f"Largest drop in {name}: {drop.max():.3f}, {worst.replace('_', ' ')}."
            )
    rates = drops[["sensitivity", "specificity"]].astype(float)
    misfits = drops.index[rates.max(axis=1) > 0.1]
    names = ", ".join(str(name).replace("_", " ") for name in misfits)
    sentences.append(
        f"Sensitivity or specificity drops by more than 0.1 in {len(misfits)} of "
        f"{len(drops)} perturbations{': ' + names if names else ''}."
    )
    return "\n".join(sentences)
