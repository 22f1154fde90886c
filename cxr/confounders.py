"""Confounders: what images and files show besides lungs, and what it predicts."""

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr.evaluation import (
    Estimate,
    auc_and_average_precision,
    cluster_bootstrap_weights,
    percentile_ci,
)
from cxr.labels import CLASS_NAMES
from cxr.linear_baseline import border_mask
from cxr.split import count_groups


def detect_markers(image: np.ndarray) -> np.ndarray:
    """Return a map of the side markers, such as the letter R, of an image.

    A marker is a small bright spot on an even background near the left or right edge.

    Parameters
    ----------
    image : uint8 array of shape (height, width, 1)

    Returns
    -------
    uint8 array of shape (96, 96), 1 where a marker is
    """
    image = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
    # Keep what is brighter than its surroundings and narrower than 11 pixels.
    spots = cv2.morphologyEx(image, cv2.MORPH_TOPHAT, np.ones((11, 11), np.uint8))
    bright = (spots > 20).astype(np.uint8)
    _, components, table, _ = cv2.connectedComponentsWithStats(bright)
    markers = np.zeros_like(image)
    for number, (left, top, width, height, area) in enumerate(table):
        short_side, long_side = sorted((width, height))
        is_compact = short_side >= 2 and long_side <= min(10, 3 * short_side)
        is_filled = area >= 0.4 * width * height
        is_lateral = left + width < 20 or left > 76
        if not (is_compact and is_filled and is_lateral):
            continue
        rows = slice(max(0, top - 3), top + height + 3)
        columns = slice(max(0, left - 3), left + width + 3)
        background = image[rows, columns][components[rows, columns] == 0]
        if background.std() < 12:  # beside a rib, it is partly dark, partly bright
            markers[components == number] = 1
    return markers


def features_outside_lungs(
    image: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the side markers, gray levels, corners and border of an image.

    Parameters
    ----------
    image : uint8 array of shape (height, width, 1)

    Returns
    -------
    side_markers, gray_levels, corners, border : arrays of any shape
        `gray_levels` is a histogram of the whole image, without positions.
    """
    markers = 255 * detect_markers(image)
    markers = cv2.resize(markers, (12, 12), interpolation=cv2.INTER_AREA)
    gray_levels = np.histogram(image, 32, (0, 256))[0] / image.size
    thumbnail = cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA)
    ends = np.r_[:9, 39:48]
    corners = thumbnail[np.ix_(ends, ends)]
    thumbnail = cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA)
    border = thumbnail[border_mask(24)]
    return markers, gray_levels, corners, border


def shortcut_features(
    images: list[np.ndarray], files: pd.DataFrame
) -> dict[str, np.ndarray]:
    """Return features that can predict the label without any shape in the lungs.

    Parameters
    ----------
    images : list of n uint8 arrays of shape (height, width, 1)
    files : DataFrame of n rows, as `load_split` returns it
        With the columns width and height (pixels of the original), bytes and color.

    Returns
    -------
    dict of float32 arrays of shape (n, k), with the keys aspect_ratio,
    file_size_and_color, side_markers, gray_levels, corners, border, and all (the other
    six side by side)
    """
    log_ratio = np.log(files.width / files.height)
    log_bytes = np.log(files.bytes)
    log_bytes_per_pixel = np.log(files.bytes / files.width / files.height)
    columns: dict[str, list] = {
        "aspect_ratio": list(zip(log_ratio, log_ratio**2)),
        "file_size_and_color": list(zip(log_bytes, log_bytes_per_pixel, files.color)),
    }
    names = ("side_markers", "gray_levels", "corners", "border")
    columns |= {name: [] for name in names}
    for image in images:
        for name, values in zip(names, features_outside_lungs(image)):
            columns[name].append(values)
    features = {
        name: np.asarray(values, np.float32).reshape(len(files), -1)
        for name, values in columns.items()
    }
    return features | {"all": np.concatenate(list(features.values()), axis=1)}


def mean_images_by_class(
    x: np.ndarray, labels: np.ndarray
) -> tuple[list[np.ndarray], list[str]]:
    """Return four images for each class and for their difference, with captions.

    The mean image, its two upper corners, and how often a side marker is where
    (brightest where at least one image in twelve has one). The difference,
    PNEUMONIA − NORMAL, is 0.5 where the classes agree, and amplified.

    Parameters
    ----------
    x : uint8 array of shape (n, size, size, 1)
    labels : int array of shape (n,), 0 or 1

    Returns
    -------
    images : list of 12 float32 arrays, from 0 to 1; NaN for a class without images
    captions : list of 12 str
    """
    corner = x.shape[1] // 3
    images = []
    captions = []
    for label, name in enumerate(CLASS_NAMES):
        rows = np.flatnonzero(labels == label)
        total = np.zeros(x.shape[1:3])
        markers = np.zeros((96, 96))
        for row in rows:
            total += x[row, :, :, 0]
            markers += detect_markers(x[row])
        count = len(rows) if len(rows) else np.nan
        mean = (total / count / 255).astype(np.float32)
        marker_frequency = cv2.blur(markers / count, (3, 3)).astype(np.float32)
        images += [
            mean,
            mean[:corner, :corner],
            mean[:corner, -corner:],
            np.minimum(1, 12 * marker_frequency),
        ]
        captions += [
            f"{name}: mean",
            f"{name}: mean, upper left",
            f"{name}: mean, upper right",
            f"{name}: side markers",
        ]
    for normal, pneumonia, gain in zip(images[:4], images[4:8], (2, 2, 2, 0.5)):
        images.append(np.clip(0.5 + gain * (pneumonia - normal), 0, 1))
    captions += [
        "difference (gray is 0)",
        "difference, upper left",
        "difference, upper right",
        "difference: side markers",
    ]
    return images, captions


def crossfit_ridge(
    values: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int = 5
) -> np.ndarray:
    """Return cross-fitted scores of a linear classifier (ridge regression).

    Each patient is scored by a model that was trained on other patients.

    Parameters
    ----------
    values : array of shape (n, k)
    labels : int array of shape (n,), 0 or 1
    groups : array of shape (n,)
        Images of a group are in the same fold (see `group_patients`).
    folds : int

    Returns
    -------
    array of shape (n,)

    Raises
    ------
    ValueError
        If a class has images of one group only (see `count_groups`).
    """
    folds = min(folds, count_groups(labels, groups))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=300))
    return cross_val_predict(ridge, values, labels, groups=groups, cv=splitter)


def describe_aspect_ratios(files: pd.DataFrame, image_label: str) -> str:
    """Return in words how the aspect ratio differs by class.

    Parameters
    ----------
    files : DataFrame with the columns width, height and label
    image_label : str, such as "chest radiographs"
    """
    if files[["width", "height"]].drop_duplicates().shape[0] == 1:
        return (
            f"All {image_label} have {files.width.iloc[0]} × {files.height.iloc[0]} "
            "pixels: their original aspect ratios are lost"
        )
    ratios = files.width / files.height
    normal, pneumonia = (ratios[files.label == label].mean() for label in (0, 1))
    return (
        f"Mean aspect ratio (width / height) of {image_label}: {normal:.2f} for "
        f"NORMAL, {pneumonia:.2f} for PNEUMONIA"
    )


def shortcut_aucs(
    scores: dict[str, np.ndarray],
    labels: np.ndarray,
    patients: ArrayLike,
    bootstrap_samples: int,
    seed: int,
) -> dict[str, Estimate]:
    """Return the AUC of each shortcut with a 95% bootstrap interval by patient.

    Parameters
    ----------
    scores : dict of {name: array of shape (n,)}
    labels : int array of shape (n,), 0 or 1
    patients : array-like of shape (n,)
    bootstrap_samples : int
    seed : int
    """
    rows = []
    for weights in (
        np.ones(len(labels)),
        *cluster_bootstrap_weights(patients, bootstrap_samples, seed),
    ):
        rows.append(
            {
                name: auc_and_average_precision(labels, values, weights)[0]
                for name, values in scores.items()
            }
        )
    return percentile_ci(pd.DataFrame(rows))


def describe_shortcuts(aucs: dict[str, Estimate], image_label: str) -> str:
    """Return in words how well shortcut features predict the label.

    Parameters
    ----------
    aucs : dict of {name: Estimate}
        As `shortcut_aucs` returns it; at least of "all" and "side_markers".
    image_label : str, such as "chest radiographs"
    """
    sentences = []
    for subject, estimate in (
        ("all shortcut features", aucs["all"]),
        ("only the side markers", aucs["side_markers"]),
    ):
        verdict = "not significantly better than chance"
        if estimate["low"] > 0.5:
            verdict = "significantly better than chance"
        sentences.append(
            f"AUC of a linear classifier that sees {subject}: {estimate['value']:.3f} "
            f"(95% CI {estimate['low']:.3f} to {estimate['high']:.3f}), {verdict} on "
            f"these {image_label}."
        )
    return "\n".join(sentences)
