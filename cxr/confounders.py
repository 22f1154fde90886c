"""What a film shows besides lungs, and how much that tells of the diagnosis."""

import cv2
import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr.evaluation import (
    auc_and_average_precision,
    cluster_bootstrap_weights,
    percentile_ci,
)
from cxr.labels import CLASS_NAMES
from cxr.split import count_groups


def detect_markers(picture: np.ndarray) -> np.ndarray:
    """Return uint8 (96, 96), 1 where a picture, uint8 (height, width, 1), has a small bright spot on even ground at a side: a letter."""
    picture = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA)
    raised = cv2.morphologyEx(
        picture, cv2.MORPH_TOPHAT, np.ones((11, 11), np.uint8)
    )  # above what is wider than 11 pixels
    _, spots, table, _ = cv2.connectedComponentsWithStats(
        (raised > 20).astype(np.uint8)
    )
    marks = np.zeros_like(picture)
    for number, (left, top, width, height, area) in enumerate(table):
        small, large = sorted((width, height))
        if (
            2 <= small
            and large <= min(10, 3 * small)
            and area >= 0.4 * width * height
            and (left + width < 20 or left > 76)
        ):
            around = np.s_[
                max(0, top - 3) : top + height + 3, max(0, left - 3) : left + width + 3
            ]
            if (
                picture[around][spots[around] == 0].std() < 12
            ):  # a rib lies between dark and bright
                marks[spots == number] = 1
    return marks


def border_mask(size: int, share: float = 0.12) -> np.ndarray:
    """Return bool (size, size), True in a frame of this share of the width."""
    width = round(share * size)
    return np.pad(
        np.zeros((size - 2 * width, size - 2 * width), bool),
        width,
        constant_values=True,
    )


def features_outside_lungs(picture: np.ndarray) -> tuple:
    """Return what a picture, uint8 (height, width, 1), shows outside the lungs: its letters, gray levels, corners and frame."""
    small, fine = (
        cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        for side in (24, 48)
    )
    marks, ends = (
        cv2.resize(
            255 * detect_markers(picture), (12, 12), interpolation=cv2.INTER_AREA
        ),
        np.r_[:9, 39:48],
    )
    return (
        marks,
        np.histogram(picture, 32, (0, 256))[0] / picture.size,
        fine[np.ix_(ends, ends)],
        small[border_mask(len(small))],
    )


def shortcut_features(pictures: list, files: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return {what: float32 (n, k)}: what n pictures, uint8 (height, width, 1), and their files say, without the lungs.

    `files`: the table of them that `load_split` returns, with width and height in pixels, bytes and color.
    """
    ratio = np.log(files.width / files.height).to_numpy()
    bytes_per_pixel = files.bytes / files.width / files.height
    names = (
        "letters: small bright spots at the sides",
        "how many pixels have which gray level",
        "the four corners",
        "the outer frame",
    )
    clues: dict = {
        "width / height": np.stack([ratio, ratio**2], axis=1),
        "size and color mode of the file": np.stack(
            [np.log(files.bytes), np.log(bytes_per_pixel), files.color], axis=1
        ),
        **dict(zip(names, zip(*map(features_outside_lungs, pictures)))),
    }
    clues = {
        name: np.asarray(values, np.float32).reshape(len(files), -1)
        for name, values in clues.items()
    }
    return clues | {"all of these": np.concatenate(list(clues.values()), axis=1)}


def mean_images_by_class(x: np.ndarray, labels: np.ndarray) -> tuple[list, list]:
    """Return (pictures, captions) for uint8 (n, size, size, 1): of each class the mean, its upper corners, and where letters stand."""
    panels, side = [], x.shape[1] // 3
    for label in (0, 1):
        total, marks, own = (
            np.zeros(x.shape[1:3]),
            np.zeros((96, 96)),
            np.flatnonzero(labels == label),
        )
        for row in own:
            total += x[row, :, :, 0]
            marks += detect_markers(x[row])
        mean, places = (
            (total / len(own) / 255).astype(np.float32),
            cv2.blur(marks / len(own), (3, 3)).astype(np.float32),
        )
        panels += [
            mean,
            mean[:side, :side],
            mean[:side, -side:],
            np.minimum(1, 12 * places),
        ]
    return panels, [
        f"{name}: {what}"
        for name in CLASS_NAMES
        for what in ("mean", "upper left", "upper right", "where letters stand")
    ]


def crossfit_ridge(
    values: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int = 5
) -> np.ndarray:
    """Return the answers (n,) of a linear classifier for values (n, k), each by one that learned from other groups of patients.

    Raises ValueError if a class has one group only (see `count_groups`).
    """
    parts = StratifiedGroupKFold(
        min(folds, count_groups(labels, groups)), shuffle=True, random_state=0
    )
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=300))
    return cross_val_predict(ridge, values, labels, groups=groups, cv=parts)


def describe_aspect_ratios(files: pd.DataFrame, pictures: str) -> str:
    """Return in words how width / height differs by class; squashed copies have lost it."""
    if files[["width", "height"]].nunique().max() == 1:
        return f"All {pictures} are {files.width[0]} × {files.height[0]} pixels: their original shapes are lost"
    means = (files.width / files.height).groupby(files.label).mean()
    return f"Width / height averages {means[0]:.2f} for NORMAL and {means[1]:.2f} for PNEUMONIA in these {pictures}"


def shortcut_aucs(
    said: dict, labels: np.ndarray, patients, bootstrap_samples: int, seed: int
) -> dict[str, dict]:
    """Return {what: {"value", "low", "high"}}: the AUC of each of {what: answers (n,)}, with a 95 % interval drawn by patient."""
    draws = (
        np.ones(len(labels)),
        *cluster_bootstrap_weights(patients, bootstrap_samples, seed),
    )
    return percentile_ci(
        pd.DataFrame(
            {
                name: [
                    auc_and_average_precision(labels, answers, weights)[0]
                    for weights in draws
                ]
                for name, answers in said.items()
            }
        )
    )


def describe_shortcuts(scores: dict, pictures: str) -> str:
    """Return in words what the clues tell together, and what the letters do."""

    def say(name):
        one = scores[name]
        verdict = "knows" if one["low"] > 0.5 else "does not surely know"
        return f"{verdict} the diagnosis: AUC {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"

    return (
        f"On these {pictures}, a classifier that sees no place within the lungs {say('all of these')}.\n"
        f"What is small and bright at the sides, such as the letter R, {say('letters: small bright spots at the sides')}."
    )
