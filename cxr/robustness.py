"""Changed films: how a network answers where the pictures are not as those it has learned from."""

import cv2
import keras
import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cxr.batches import ImageBatches, perturb_batches
from cxr.calibration import to_logits
from cxr.confounders import border_mask, detect_markers
from cxr.evaluation import (
    cluster_bootstrap_weights,
    compute_metrics,
    predict_probabilities,
)
from cxr.labels import CLASS_NAMES


def perturbations(size: int) -> dict:
    """Return {name: function of one picture, float32 (size, size) of 0–255}: changes that no diagnosis should depend on."""

    def place(turn=0, zoom=1, taller=1, wider=1):
        matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), turn, zoom)
        for row, longer in enumerate((wider, taller)):
            matrix[row] = longer * matrix[row] + [0, 0, (1 - longer) * (size - 1) / 2]
        return lambda picture: cv2.warpAffine(
            picture, matrix, (size, size), borderMode=cv2.BORDER_REFLECT
        )

    def write_letter(picture):
        at, height = (
            (round(size / 20), round(size / 7)),
            size / 300,
        )  # where train has it on films of the sick, and hardly on others
        return cv2.putText(
            picture.astype(np.uint8),
            "R",
            at,
            cv2.FONT_HERSHEY_SIMPLEX,
            height,
            230,
            max(1, round(size / 64)),
            cv2.LINE_AA,
        )

    def paint_out(picture):
        gray = picture.astype(np.uint8)
        marks = cv2.dilate(
            cv2.resize(
                detect_markers(gray[:, :, None]),
                (size, size),
                interpolation=cv2.INTER_NEAREST,
            ),
            np.ones((5, 5)),
        )
        return cv2.inpaint(gray, marks, 3, cv2.INPAINT_TELEA)

    noise = np.random.default_rng(0).normal(0, 15, (size, size))
    return {
        "unchanged": lambda picture: picture,
        "half the contrast": lambda picture: (
            (picture - picture.mean()) * 0.5 + picture.mean()
        ),
        "more contrast, clipped": lambda picture: (
            (picture - picture.mean()) * 1.6 + picture.mean()
        ),
        "darker, clipped": lambda picture: picture - 60,
        "brighter, clipped": lambda picture: picture + 60,
        "gamma 0.5": lambda picture: 255 * (picture / 255) ** 0.5,
        "gamma 2": lambda picture: 255 * (picture / 255) ** 2,
        "equalized place by place": lambda picture: cv2.createCLAHE(3, (8, 8)).apply(
            picture.astype(np.uint8)
        ),
        "blurred": lambda picture: cv2.GaussianBlur(picture, (0, 0), size / 70),
        "sharpened": lambda picture: (
            picture + 1.5 * (picture - cv2.GaussianBlur(picture, (0, 0), size / 70))
        ),
        "noisy": lambda picture: picture + noise,
        "cropped to 80 %": place(zoom=1.25),
        "shrunk to 85 %": place(zoom=0.85),
        "stretched by a quarter in height": place(taller=1.25),
        "stretched by a quarter in width": place(wider=1.25),
        "turned by 12 degrees": place(turn=12),
        "a letter put on": write_letter,
        "letters painted out": paint_out,
        "frame replaced by gray": mask_border,
    }


def add_perturbed_copies(batches: ImageBatches, often: int = 3) -> ImageBatches:
    """Return ImageBatches of the same images as they are, and then each `often` times, with the changes of `perturbations` in turn."""
    unchanged, *kinds = perturbations(batches.arrays[0].shape[1]).values()
    rows, labels = (
        np.concatenate([values, np.repeat(values, often)])
        for values in (batches.rows, batches.labels)
    )
    changes = [unchanged] * len(batches.rows) + [
        kinds[place % len(kinds)] for place in range(often * len(batches.rows))
    ]
    return ImageBatches(
        batches.arrays,
        rows,
        labels,
        batches.size,
        devices=batches.devices,
        changes=changes,
    )


def predict_perturbed(
    model: keras.Model, batches: ImageBatches
) -> dict[str, np.ndarray]:
    """Return {change: float64 (n,)}: probabilities for the images of ImageBatches, "unchanged" and with each change of `perturbations`."""
    return {
        name: predict_probabilities(model, perturb_batches(batches, change))
        for name, change in perturbations(batches.arrays[0].shape[1]).items()
    }


def pool_perturbations(
    labels: np.ndarray, changed: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, probabilities) of all {change: probabilities} as one set of pictures: what one line for all of them meets."""
    return np.tile(labels, len(changed)), np.concatenate(list(changed.values()))


def evaluate_perturbations(
    labels: np.ndarray, changed: dict[str, np.ndarray], threshold: float
) -> pd.DataFrame:
    """Return a table of scores of a network on changed pictures, one row for each {change: probabilities}."""
    return pd.DataFrame(
        {
            name: compute_metrics(labels, probabilities, threshold)
            for name, probabilities in changed.items()
        }
    ).T


def keep_only_border(picture: np.ndarray, share: float = 0.12) -> np.ndarray:
    """Return a picture, float32 (size, size), of which only a frame of this share of its width is left, the rest at the mean gray."""
    return np.where(border_mask(len(picture), share), picture, picture.mean())


def mask_border(picture: np.ndarray, share: float = 0.12) -> np.ndarray:
    """Return the opposite: without the frame, where letters and edges lie."""
    return picture + picture.mean() - keep_only_border(picture, share)


def aspect_ratio_correlation(
    files: pd.DataFrame, probabilities: np.ndarray, bootstrap_samples: int, seed: int
) -> tuple[float, float, float]:
    """Return (correlation, low, high): how the logit follows width / height among images of one class.

    Spearman's rank correlation, with a 95 % bootstrap interval, drawn by patient; NaN where all shapes are the same.
    """
    ranks = np.stack(
        [rankdata(files.width / files.height), rankdata(to_logits(probabilities))]
    )
    if not np.ptp(ranks, axis=1).all():
        return np.nan, np.nan, np.nan
    covariances = [
        np.cov(ranks, aweights=weights)
        for weights in cluster_bootstrap_weights(files.patient, bootstrap_samples, seed)
    ]
    values = [
        both[0, 1] / np.sqrt(both[0, 0] * both[1, 1])
        for both in (np.cov(ranks), *covariances)
    ]
    return float(values[0]), *np.nanquantile(values[1:], (0.025, 0.975)).tolist()


def describe_aspect_ratio_use(
    files: pd.DataFrame, probabilities: np.ndarray, settings
) -> str:
    """Return in words, class by class, how the answers follow width / height."""
    texts = []
    for label, name in enumerate(CLASS_NAMES):
        own = (files.label == label).to_numpy()
        value, low, high = aspect_ratio_correlation(
            files[own], probabilities[own], settings.BOOTSTRAP_SAMPLES, settings.SEED
        )
        texts.append(
            f"Among {name}, the answer follows width / height with a rank correlation of {value:.2f} [{low:.2f}, {high:.2f}]."
            if np.isfinite(value)
            else f"{name}: all have one shape, so no answer can follow it."
        )
    return "\n".join(texts)
