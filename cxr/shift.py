"""Changed films: how a network answers where the pictures are not as those it has learnt from."""

import cv2
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import rankdata

from cxr.batches import ImageBatches, change_batches
from cxr.figures import Look
from cxr.measure import draw_patients, measure, predict_probabilities, to_logits
from cxr.surroundings import find_marks, mark_frame


def list_shifts(size: int) -> dict:
    """Return {name: function of one picture, float32 (size, size) of 0–255}: changes that no diagnosis should depend on."""
    def place(turn=0, zoom=1, taller=1, wider=1):
        matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), turn, zoom)
        for row, longer in enumerate((wider, taller)):
            matrix[row] = longer * matrix[row] + [0, 0, (1 - longer) * (size - 1) / 2]
        return lambda picture: cv2.warpAffine(picture, matrix, (size, size), borderMode=cv2.BORDER_REFLECT)

    def write_letter(picture):
        at, height = (round(size / 20), round(size / 7)), size / 300  # where train has it on films of the sick, and hardly on others
        return cv2.putText(picture.astype(np.uint8), "R", at, cv2.FONT_HERSHEY_SIMPLEX, height, 230, max(1, round(size / 64)), cv2.LINE_AA)

    def paint_out(picture):
        grey = picture.astype(np.uint8)
        marks = cv2.dilate(cv2.resize(find_marks(grey[:, :, None]), (size, size), interpolation=cv2.INTER_NEAREST), np.ones((5, 5)))
        return cv2.inpaint(grey, marks, 3, cv2.INPAINT_TELEA)

    noise = np.random.default_rng(0).normal(0, 15, (size, size))
    return {"unchanged": lambda picture: picture,
            "half the contrast": lambda picture: (picture - picture.mean()) * 0.5 + picture.mean(),
            "more contrast, clipped": lambda picture: (picture - picture.mean()) * 1.6 + picture.mean(),
            "darker, clipped": lambda picture: picture - 60,
            "brighter, clipped": lambda picture: picture + 60,
            "gamma 0.5": lambda picture: 255 * (picture / 255) ** 0.5,
            "gamma 2": lambda picture: 255 * (picture / 255) ** 2,
            "equalised place by place": lambda picture: cv2.createCLAHE(3, (8, 8)).apply(picture.astype(np.uint8)),
            "blurred": lambda picture: cv2.GaussianBlur(picture, (0, 0), size / 70),
            "sharpened": lambda picture: picture + 1.5 * (picture - cv2.GaussianBlur(picture, (0, 0), size / 70)),
            "noisy": lambda picture: picture + noise,
            "cropped to 80 %": place(zoom=1.25),
            "shrunk to 85 %": place(zoom=0.85),
            "stretched by a quarter in height": place(taller=1.25),
            "stretched by a quarter in width": place(wider=1.25),
            "turned by 12 degrees": place(turn=12),
            "a letter put on": write_letter,
            "letters painted out": paint_out,
            "frame replaced by grey": hide_border}


def vary(batches: "ImageBatches", often: int = 3) -> "ImageBatches":
    """Return ImageBatches of the same images as they are, and then each `often` times, with the changes of `list_shifts` in turn."""
    unchanged, *kinds = list_shifts(batches.arrays[0].shape[1]).values()
    rows, labels = (np.concatenate([values, np.repeat(values, often)]) for values in (batches.rows, batches.labels))
    changes = [unchanged] * len(batches.rows) + [kinds[place % len(kinds)] for place in range(often * len(batches.rows))]
    return ImageBatches(batches.arrays, rows, labels, batches.size, devices=batches.devices, changes=changes)


def answer_changed(model: keras.Model, batches: "ImageBatches") -> dict[str, np.ndarray]:
    """Return {change: float64 (n,)}: probabilities for the images of ImageBatches, "unchanged" and with each change of `list_shifts`."""
    return {name: predict_probabilities(model, change_batches(batches, change))
            for name, change in list_shifts(batches.arrays[0].shape[1]).items()}


def join_changes(labels: np.ndarray, changed: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, probabilities) of all {change: probabilities} as one set of pictures: what one line for all of them meets."""
    return np.tile(labels, len(changed)), np.concatenate(list(changed.values()))


def measure_shifts(labels: np.ndarray, changed: dict[str, np.ndarray], threshold: float) -> pd.DataFrame:
    """Return a table of scores of a network on changed pictures, one row for each {change: probabilities}."""
    return pd.DataFrame({name: measure(labels, probabilities, threshold) for name, probabilities in changed.items()}).T


def keep_border(picture: np.ndarray, share: float = 0.12) -> np.ndarray:
    """Return a picture, float32 (size, size), of which only a frame of this share of its width is left, the rest at the mean grey."""
    return np.where(mark_frame(len(picture), share), picture, picture.mean())


def hide_border(picture: np.ndarray, share: float = 0.12) -> np.ndarray:
    """Return the opposite: without the frame, where letters and edges lie."""
    return picture + picture.mean() - keep_border(picture, share)


def follow_shape(files: pd.DataFrame, probabilities: np.ndarray, resamples: int, seed: int) -> tuple[float, float, float]:
    """Return (correlation, low, high): how the logit follows width / height among images of one class.

    Spearman's rank correlation, with a 95 % bootstrap interval, drawn by patient; NaN where all shapes are the same.
    """
    ranks = np.stack([rankdata(files.width / files.height), rankdata(to_logits(probabilities))])
    if not np.ptp(ranks, axis=1).all():
        return np.nan, np.nan, np.nan
    covariances = [np.cov(ranks, aweights=weights) for weights in draw_patients(files.patient, resamples, seed)]
    values = [both[0, 1] / np.sqrt(both[0, 0] * both[1, 1]) for both in (np.cov(ranks), *covariances)]
    return float(values[0]), *np.nanquantile(values[1:], (0.025, 0.975)).tolist()


def describe_shape_use(files: pd.DataFrame, probabilities: np.ndarray, settings) -> str:
    """Return in words, class by class, how the answers follow width / height."""
    texts = []
    for label, name in enumerate(Look.names):
        own = (files.label == label).to_numpy()
        value, low, high = follow_shape(files[own], probabilities[own], settings.RESAMPLES, settings.SEED)
        texts.append(f"Among {name}, the answer follows width / height with a rank correlation of {value:.2f} [{low:.2f}, {high:.2f}]."
                     if np.isfinite(value) else f"{name}: all have one shape, so no answer can follow it.")
    return "\n".join(texts)


def plot_shifts(table: pd.DataFrame) -> Figure:
    """Return a figure of AUC, sensitivity and specificity of one network on changed pictures, the worst AUC at the bottom."""
    table = table.sort_values("auc")
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 0.8 + 0.33 * len(table)), sharey=True, layout="constrained")
    rows = np.arange(len(table))
    axes[0].plot(table.auc, rows, "o", color="black")
    axes[1].plot(table.sensitivity, rows, "o", color=Look.colours["PNEUMONIA"], label="sensitivity")
    axes[1].plot(table.specificity, rows, "s", color=Look.colours["NORMAL"], label="specificity")
    axes[0].set_yticks(rows, table.index)
    axes[0].set(xlabel="AUC")
    axes[1].set(xlabel="share, at the threshold chosen before", xlim=(-0.03, 1.03))
    axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    for axis in axes:
        axis.grid(axis="y", color="#dddddd")
        axis.set_axisbelow(True)
    return figure
