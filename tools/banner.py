#!/usr/bin/env python3
"""Draw the picture at the top of the README from a run on phantoms: `make banner` makes the phantoms, the run and the picture.

    python tools/banner.py outputs/banner data/phantoms/chest_xray docs/banner.png
    python tools/banner.py --small outputs/banner data/phantoms/chest_xray docs/first_screen.png   # that of the notebook's first cell

Real radiographs are refused: no picture of a patient is part of this repository.
"""

import argparse
import io
import json
import os
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from sklearn import metrics

from cxr.figures import Look
from cxr.measure import measure
from cxr.phantoms import Phantom


def choose_pictures(answers, threshold):
    """Return {caption: row} of a table of test answers: right ones of each finding, and the most confident mistake, if any."""
    right = (answers.probability >= threshold) == (answers.label == 1)
    kinds = {"NORMAL": answers.label == 0, "bacterial": answers.path.str.contains("_bacteria_"),
             "viral": answers.path.str.contains("_virus_")}
    chosen = {}
    for name, kind in kinds.items():
        fitting = answers[kind & right]
        if len(fitting):  # neither the clearest nor the faintest
            chosen[name] = fitting.probability.sub(fitting.probability.median()).abs().idxmin()
    if not right.all():
        worst = answers.probability[~right].sub(threshold).abs().idxmax()
        chosen["false alarm" if answers.label[worst] == 0 else "missed"] = worst
    return chosen


def draw(report, answers, history, pictures, heat, chosen):
    """Return the figure: radiographs above their heat maps, then the losses and the ROC curve of test."""
    threshold = report["threshold"]["value"]
    figure = plt.figure(figsize=(11, 3.5), dpi=150, facecolor="white", layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.62 * len(chosen), 6.3))
    axes = left.subplots(2, len(chosen), squeeze=False)
    for column, (name, row) in enumerate(chosen.items()):
        for axis in axes[:, column]:
            axis.imshow(pictures[column, ..., 0], cmap="gray", vmin=0, vmax=255)
            axis.axis("off")
        axes[1, column].imshow(heat[column], cmap="inferno", vmin=0, vmax=1.3, alpha=0.55 * heat[column])
        axes[0, column].set_title(f"{name}: {answers.probability[row]:.2f}", fontsize=9, color=Look.paint([answers.label[row]])[0])
    left.suptitle("P(pneumonia), and what speaks for the answer (Grad-CAM)", fontsize=10)
    curves, roc = right.subplots(1, 2)
    best = history.loc[history.val_loss.idxmin()]
    curves.plot(history.epoch, history.loss, color="black", label="training")
    curves.plot(history.epoch, history.val_loss, color="black", linestyle="--", label="validation")
    curves.axvline(best.epoch, color="#888888", linewidth=1, linestyle=":")
    curves.set(xlabel="epoch", ylim=(0, None))
    curves.set_title(f"loss: epoch {best.epoch:.0f} of {len(history)} is kept", fontsize=10)
    curves.legend(frameon=False, fontsize=8)
    false_rate, true_rate, _ = metrics.roc_curve(answers.label, answers.probability)
    at = measure(answers.label.to_numpy(), answers.probability.to_numpy(), threshold)
    roc.plot([0, 1], [0, 1], color="#888888", linewidth=1)
    roc.plot(false_rate, true_rate, color="black")
    roc.plot(1 - at["specificity"], at["sensitivity"], "o", color=Look.colours["PNEUMONIA"])
    roc.set(xlabel="1 − specificity", ylabel="sensitivity", aspect="equal")
    auc = report["test"]["auc"]
    roc.set_title(f"test AUC {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]", fontsize=10)
    for axis in (curves, roc):
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    figure.supxlabel("PHANTOM radiographs: drawn by this project, they show no patient, and these scores say nothing about patients",
                     fontsize=9, color="#B00020")
    return figure


def draw_small(pictures, heat, chosen, said):
    """Return the figure that the notebook begins with: one film, the probability that it shows pneumonia, and the map of the answer."""
    one = list(chosen).index("bacterial") if "bacterial" in chosen else 0
    figure, axes = plt.subplots(1, 2, figsize=(4.8, 3), dpi=100, facecolor="white", layout="constrained")
    for axis, title in zip(axes, ("a film goes in", f"out comes P(pneumonia) = {said[one]:.3f}")):
        axis.imshow(pictures[one, ..., 0], cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    axes[1].imshow(heat[one], cmap="inferno", vmin=0, vmax=1.3, alpha=0.55 * heat[one])
    figure.supxlabel("bright: what speaks for the answer\nPHANTOM: drawn by this project, shows no patient", fontsize=9, color="#B00020")
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, help="OUTPUT_DIR of a run on phantoms")
    parser.add_argument("data", type=Path, help="the phantoms of that run")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--small", action="store_true", help="the small picture of the notebook's first cell")
    options = parser.parse_args(arguments)
    report = json.loads((options.outputs / "metrics.json").read_text(encoding="utf-8"))
    answers = pd.read_csv(options.outputs / "predictions.csv")
    answers = answers[answers.split == "test"].reset_index(drop=True)
    chosen = choose_pictures(answers, report["threshold"]["value"])
    paths = [options.data / answers.path[row] for row in chosen.values()]
    for path in paths:
        if report["data"] != "phantom" or Phantom.mark not in path.read_bytes()[:200]:
            sys.exit(f"banner.py: {path} is not a phantom. Pictures of patients do not belong in the README: run on phantoms.")
    from cxr.explain import grad_cam
    from cxr.images import read_image
    from cxr.machine import load_network
    model = load_network(options.outputs / "best.keras")
    size = model.input_shape[1]
    pictures = np.stack([read_image(str(path), size)[0].reshape(size, size, 1) for path in paths])
    sick = answers.probability[list(chosen.values())].to_numpy() >= report["threshold"]["value"]
    heat = grad_cam(model, pictures, sick)
    if options.small:
        figure, colours = draw_small(pictures, heat, chosen, answers.probability[list(chosen.values())].to_numpy()), 96
    else:
        figure, colours = draw(report, answers, pd.read_csv(options.outputs / "history.csv"), pictures, heat, chosen), 256
    whole = io.BytesIO()
    figure.savefig(whole)
    small = Image.open(whole).convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE)  # a third of the bytes
    small.save(options.picture, optimize=True)
    print(f"{options.picture}: {options.picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
