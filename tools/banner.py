#!/usr/bin/env python3
"""Draw docs/banner.png and docs/first_screen.png from a run on phantoms: `make banner`.

    python tools/banner.py outputs/banner

Real radiographs are refused: no image of a patient is part of this repository.
"""

import argparse
import io
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import RocCurveDisplay

from cxr.grad_cam import grad_cam
from cxr.images import read_image
from cxr.models import load_model
from cxr.phantoms import Phantom

DOCS = Path(__file__).resolve().parent.parent / "docs"
WARNING = "PHANTOM radiographs: drawn by this project, they show no patient"


def choose_images(predictions, threshold):
    """Return rows of predictions: a correct one of each finding, and an error."""
    finding = predictions.path.str.extract("_(bacteria|virus)_")[0].fillna("normal")
    is_correct = (predictions.probability >= threshold) == (predictions.label == 1)
    table = predictions.assign(finding=finding.where(is_correct, "error"))
    return table.drop_duplicates("finding").sort_values("finding")


def read_phantoms(report, paths):
    """Return the images at the network's input size; exit if one is no phantom."""
    folder = Path(report["settings"]["DATA_DIR"])
    for path in paths:
        is_marked = Phantom.mark in (folder / path).read_bytes()[:200]
        if report["data"] != "phantom" or not is_marked:
            sys.exit(
                f"banner.py: {folder / path} is not a phantom, and no image of a "
                "patient belongs in the repository: use a run on phantoms."
            )
    size = report["settings"]["IMAGE_SIZE"]
    return np.stack([read_image(folder / path, size)[0] for path in paths])


def show_image(axis, image, title="", heat=None):
    """Draw an image in gray, with a heat map over it."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    if heat is not None:
        axis.imshow(heat, cmap="inferno", vmin=0, vmax=1.3, alpha=0.55 * heat)
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def draw_banner(images, heat, captions, predictions, history):
    """Return the README's figure: images, heat maps, loss and ROC curve."""
    count = len(images)
    figure = plt.figure(figsize=(1.6 * count + 6, 3.5), dpi=150, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.6 * count, 6))
    axes = left.subplots(2, count, squeeze=False)
    for column in range(count):
        show_image(axes[0, column], images[column], captions[column])
        show_image(axes[1, column], images[column], heat=heat[column])
    left.suptitle("P(pneumonia) and Grad-CAM", fontsize=10)
    loss_axis, roc_axis = right.subplots(1, 2)
    columns = ["loss", "val_loss"]
    history.plot("epoch", columns, ax=loss_axis, color="black", style=["-", "--"])
    loss_axis.set_ylim(bottom=0)
    RocCurveDisplay.from_predictions(
        predictions.label, predictions.probability, ax=roc_axis, name="test"
    )
    figure.supxlabel(
        f"{WARNING}, and the scores say nothing about patients", color="#B00020", size=9
    )
    return figure


def draw_first_screen(image, heat, probability):
    """Return the notebook's first figure: an image and its heat map."""
    figure, axes = plt.subplots(1, 2, figsize=(4.8, 3), dpi=100, layout="constrained")
    show_image(axes[0], image, "radiograph")
    show_image(axes[1], image, f"P(pneumonia) = {probability:.2f}", heat)
    figure.supxlabel(WARNING, color="#B00020", size=9)
    return figure


def save(figure, path, colors):
    """Write a figure as a PNG file with few colors, a third of the bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer)
    image = Image.open(buffer).convert("RGB")
    image.quantize(colors, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", type=Path, help="OUTPUT_DIR of a run on phantoms")
    outputs = parser.parse_args(arguments).outputs
    report = json.loads((outputs / "metrics.json").read_text(encoding="utf-8"))
    predictions = pd.read_csv(outputs / "predictions.csv")
    predictions = predictions[predictions.split == "test"].reset_index(drop=True)
    threshold = report["threshold"]["value"]
    chosen = choose_images(predictions, threshold)
    pairs = zip(chosen.finding, chosen.probability, strict=True)
    captions = [f"{finding}: {probability:.2f}" for finding, probability in pairs]
    images = read_phantoms(report, chosen.path)
    is_positive = chosen.probability.to_numpy() >= threshold
    model = load_model(outputs / "best.keras")
    heat = grad_cam(model, images[..., np.newaxis], is_positive)
    history = pd.read_csv(outputs / "history.csv")
    banner = draw_banner(images, heat, captions, predictions, history)
    save(banner, DOCS / "banner.png", 256)
    first_screen = draw_first_screen(images[0], heat[0], chosen.probability.iloc[0])
    save(first_screen, DOCS / "first_screen.png", 96)


if __name__ == "__main__":
    main()
