"""Figures: everything that draws, in colours that colour-blind readers can tell apart."""

from pathlib import Path
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Arc
from sklearn import metrics

from cxr.measure import measure
from cxr.storage import name_folder


class Look:
    """Colours that colour-blind readers can tell apart, and the names of the classes in the order of their numbers."""

    names = ("NORMAL", "PNEUMONIA")
    colours = MappingProxyType({"NORMAL": "#0072B2", "PNEUMONIA": "#D55E00"})
    findings = MappingProxyType({"normal": "#0072B2", "bacterial": "#D55E00", "viral": "#E69F00", "unknown": "#888888"})

    @classmethod
    def paint(cls, labels) -> list[str]:
        """Return the colour of the class of each label."""
        return [cls.colours[cls.names[label]] for label in labels]


def name_pictures(kind: str) -> str:
    """Return what to call pictures of this kind of data in a text."""
    return {"phantom": "phantom radiographs", "chest-xray-pneumonia": "chest radiographs"}.get(kind, "pictures")


def tabulate_scores(**sets: dict) -> pd.DataFrame:
    """Return a table of scores as "value [low–high]", one column a set."""
    return pd.DataFrame({name: {key: f"{one['value']:.3f} [{one['low']:.3f}–{one['high']:.3f}]" for key, one in scores.items()}
                         for name, scores in sets.items()})


def finish_figure(figure: Figure, title: str, name: str, output_dir: Path, kind: str, colour: str = "black"):
    """Give the figure its title, label it if it shows phantoms, save it as OUTPUT_DIR/figures/NAME.png (or StorageError), show it."""
    figure.suptitle(title, color=colour, fontsize=12)
    if kind == "phantom":
        figure.text(0.5, -0.01, "PHANTOM radiographs: drawn by this project, they show no patient",
                    ha="center", va="top", fontsize=9, color="#B00020")
    target = Path(output_dir) / "figures" / f"{name}.png"
    with name_folder(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, bbox_inches="tight", dpi=110)
    plt.show()
    plt.close(figure)


def plot_panels(pictures, captions, columns: int = 5, colours=None) -> Figure:
    """Return a figure of grey pictures (uint8, or float32 in 0..1) with fixed limits, a caption above each."""
    rows, side = -(-len(pictures) // columns), 2.1 if columns > 3 else 3.1
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns, (side + 0.25) * rows + 0.5), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption, number in zip(axes.flat, pictures, captions, range(len(pictures))):
        axis.imshow(np.squeeze(picture), cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)
        axis.set_title(caption, fontsize=9, color=colours[number] if colours else "black")
    return figure


def plot_class_balance(files: pd.DataFrame) -> Figure:
    """Return a figure with the number of images of each class, and of each finding, folder by folder."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    table = files.assign(label=files.label.map(dict(enumerate(Look.names))))
    findings = [name for name in Look.findings if (files.finding == name).any()]
    sns.countplot(table, x="split", hue="label", hue_order=Look.names, palette=dict(Look.colours), saturation=1, ax=axes[0])
    sns.countplot(table, x="split", hue="finding", hue_order=findings, palette=dict(Look.findings), saturation=1, ax=axes[1])
    for axis, name in zip(axes, ("by class", "by finding")):
        for bars in axis.containers:
            axis.bar_label(bars, fmt="{:,.0f}", fontsize=8)
        axis.set(title=name, xlabel="folder", ylabel="images")
        axis.legend(title=None)
    return figure


def plot_images_per_patient(files: pd.DataFrame) -> Figure:
    """Return a figure: how many patients have 1, 2, 3 … images."""
    figure, axis = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    counts = files.groupby("patient").size().value_counts().sort_index()
    axis.bar(counts.index, counts, color="#555555")
    axis.set(xlabel="images of one patient", ylabel="patients (log scale)", yscale="log")
    axis.xaxis.set_major_locator(plt.MaxNLocator("auto", integer=True))
    return figure


def plot_small_samples(sizes, right: np.ndarray, seed: int) -> Figure:
    """Return a figure: the accuracy that random sets of each size show of a classifier; right: bool (n,), which answers are."""
    figure, axes = plt.subplots(1, len(sizes), figsize=(4.4 * len(sizes), 3.1), sharex=True, layout="constrained")
    generator = np.random.default_rng(seed)
    for axis, size in zip(axes, sizes):
        seen = np.array([generator.choice(right, size).mean() for _ in range(5000)])
        axis.hist(seen, bins=np.arange(-0.5, size + 1) / size, color="#555555", linewidth=0, weights=np.full(len(seen), 1 / len(seen)))
        axis.axvline(right.mean(), color="black", linestyle="--", linewidth=1)
        axis.set(title=f"{size:,} images: 95 % of sets show {np.quantile(seen, 0.025):.0%} to {np.quantile(seen, 0.975):.0%}",
                 xlabel="accuracy shown (dashed: of all)", ylabel="share of sets", xlim=(max(0, right.mean() - 0.4), 1.02))
    return figure


def cut_outliers(values: np.ndarray) -> np.ndarray:
    """Return the finite values, sorted, without up to a quarter at either end that a gap wider than all the rest cuts off."""
    values = values[np.isfinite(values)]
    for _ in ("above", "below"):
        values = np.sort(-values)
        cuts = [cut for cut in range(1, len(values) // 4 + 1) if values[cut] - values[cut - 1] > max(0.05, values[-1] - values[cut])]
        values = values[max(cuts, default=0):]
    return values


def fit_axis(axis, epochs, lines, lowest: float | None = None):
    """Let the axis show the lines without their outliers; triangles at its edge, with the value, stand for those."""
    usual = cut_outliers(np.concatenate(lines))
    if not len(usual):
        return
    low, high = usual[0] if lowest is None else lowest, usual[-1]
    margin = 0.05 * max(high - low, 0.01)
    axis.set_ylim(low - margin * (lowest is None), high + margin)
    for line, face in zip(lines, ("black", "white")):
        for epoch, value in ((epoch, value) for epoch, value in zip(epochs, line) if value < low or value > high):
            edge, marker, up = (axis.get_ylim()[0], "v", 6) if value < low else (axis.get_ylim()[1], "^", -12)
            axis.scatter([epoch], [edge], marker=marker, color=face, edgecolor="black", clip_on=False, zorder=3)
            axis.annotate(f"{value:.2g}", (epoch, edge), (6, up), textcoords="offset points", fontsize=8)


def plot_history(table: pd.DataFrame) -> Figure:
    """Return a figure of loss, accuracy and AUC over the epochs, with the learning rate under them; outliers set no axis."""
    figure, axes = plt.subplot_mosaic([["loss", "accuracy", "auc"], ["rate", "accuracy", "auc"]], figsize=(11, 4.4), height_ratios=(3, 1),
                                      sharex=True, layout="constrained")
    best, marker = table.val_loss.idxmin(), "o" if len(table) < 3 else None
    for name in ("loss", "accuracy", "auc"):
        axis = axes[name]
        axis.plot(table.epoch, table[name], color="black", marker=marker, label="training")
        axis.plot(table.epoch, table[f"val_{name}"], color="black", linestyle="--", marker=marker, fillstyle="none", label="validation")
        axis.axvline(table.epoch[best], color="#888888", linewidth=1, linestyle=":")
        axis.set(title={"auc": "AUC"}.get(name, name), xlabel="epoch" if name != "loss" else None)
        axis.tick_params(labelbottom=name != "loss")
        fit_axis(axis, table.epoch, [table[name], table[f"val_{name}"]], 0 if name == "loss" else None)
    axes["rate"].plot(table.epoch, table.learning_rate, color="#888888", drawstyle="steps-mid", marker=marker)
    axes["rate"].set(yscale="log", xlabel="epoch", ylabel="learning rate")
    axes["rate"].xaxis.set_major_locator(plt.MaxNLocator("auto", integer=True))
    above = (table.val_loss > table.loss)[::-1].cumprod().sum()  # epochs, at the end
    told = f"dashed stays above\nfrom epoch {table.epoch.iloc[-above]} on" if above else "dashed is not above\nsolid at the end"
    axes["accuracy"].legend(title=f"loss: {told}", title_fontsize=8, fontsize=9)  # there is room
    return figure


def plot_confusion(matrices, titles) -> Figure:
    """Return a figure of confusion matrices ((2, 2) counts, rows are the truth), with counts and row shares."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(4.6 * len(matrices), 3.9), layout="constrained")
    for axis, matrix, name in zip(np.atleast_1d(axes), matrices, titles):
        shares = matrix / matrix.sum(axis=1, keepdims=True)
        words = [[f"{matrix[row, column]:,}\n{shares[row, column]:.1%}" for column in (0, 1)] for row in (0, 1)]
        sns.heatmap(shares, annot=np.array(words), fmt="", cmap="Blues", vmin=0, vmax=1.6, cbar=False, ax=axis, square=True,
                    xticklabels=Look.names, yticklabels=Look.names, annot_kws={"fontsize": 12}, linewidths=1, linecolor="#888888")
        axis.set(title=name, xlabel="the network's answer", ylabel="the label")
    return figure


def plot_curves(sets: dict, threshold: float) -> Figure:
    """Return a figure with the ROC and precision–recall curves of {name: (labels, probabilities)}; dots: the threshold."""
    figure, (roc, pr) = plt.subplots(1, 2, figsize=(9.6, 4.5), layout="constrained")
    for (name, (labels, probabilities)), line in zip(sets.items(), ("--", "-")):
        false_rate, true_rate, _ = metrics.roc_curve(labels, probabilities)
        precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
        roc.plot(false_rate, true_rate, color="black", linestyle=line, label=f"{name}: AUC {metrics.auc(false_rate, true_rate):.3f}")
        pr.plot(recall, precision, color="black", linestyle=line,
                label=f"{name}: average precision {metrics.average_precision_score(labels, probabilities):.3f}")
        at = measure(labels, probabilities, threshold)
        roc.plot(1 - at["specificity"], at["sensitivity"], "o", color="#D55E00")
        pr.plot(at["sensitivity"], at["precision"], "o", color="#D55E00")
        pr.axhline(labels.mean(), color="#888888", linewidth=1, linestyle=line)
    roc.plot([0, 1], [0, 1], color="#888888", linewidth=1)
    roc.set(title="ROC (grey: chance)", xlabel="1 − specificity", ylabel="sensitivity", aspect="equal")
    pr.set(title='precision–recall (grey: always "pneumonia")', xlabel="sensitivity (recall)", ylabel="precision", ylim=(0, 1.02))
    roc.legend(loc="lower right")
    pr.legend(loc="lower left")
    return figure


def plot_reliability(labels: np.ndarray, sets: dict, bins: int = 10) -> Figure:
    """Return a figure of how often images are PNEUMONIA against the probability said; sets: {name: probabilities}."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.1), layout="constrained")
    axes[0].plot([0, 1], [0, 1], color="#888888", linewidth=1)
    for (name, probabilities), colour, marker in zip(sets.items(), ("#888888", "#D55E00"), ("s", "o")):
        place = np.minimum((probabilities * bins).astype(int), bins - 1)
        used = [one for one in range(bins) if np.any(place == one)]
        said, seen = (np.array([np.mean(values[place == one]) for one in used]) for values in (probabilities, labels))
        count = np.array([np.sum(place == one) for one in used])
        middle = (seen + 1.92 / count) / (1 + 3.84 / count)  # Wilson's interval: not empty where all images are of one class
        half = 1.96 * np.sqrt(seen * (1 - seen) / count + 0.96 / count**2) / (1 + 3.84 / count)
        axes[0].errorbar(said, seen, [np.maximum(0, seen - middle + half), np.maximum(0, middle + half - seen)], color=colour,
                         marker=marker, linewidth=1, capsize=2, label=name)
        axes[1].hist(probabilities, np.linspace(0, 1, bins + 1), histtype="step", color=colour, linewidth=2, label=name)
    axes[0].set(title="reliability (grey line: calibrated)", xlabel="mean probability said", ylabel="share that is PNEUMONIA",
                xlim=(-0.02, 1.02), ylim=(-0.05, 1.05))
    axes[1].set(title="how often each answer is given", xlabel="probability said", ylabel="images (log scale)", yscale="log",
                ylim=(0.8, None))
    axes[0].legend(loc="upper left")
    return figure


def receptive_field(model, layer_name: str) -> tuple[int, int]:
    """Return (field, step) in input pixels: the side of a unit's receptive field, and from unit to unit.

    Araujo et al., "Computing receptive fields of convolutional neural networks", Distill, 2019.
    """
    reach = {}
    for layer in model.layers:
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        known = [reach[id(source)] for source in sources if id(source) in reach] or [(1, 1)]
        field, step = max(field for field, _ in known), max(step for _, step in known)
        window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None) or (1, 1)
        stride = getattr(layer, "strides", (1, 1))
        field, step = field + (window[0] - 1) * step, step * stride[0]
        reach[id(layer.output)] = field, step
        if layer.name == layer_name:
            return field, step
    raise ValueError(f"The model has no layer called {layer_name!r}.")


def plot_architecture(model) -> Figure:
    """Return a figure of the model: a box for a block, or for layers with one output shape, and an arc for each shortcut to an Add."""
    stages, place, sources = [], {}, {}
    for add in (layer for layer in model.layers if type(layer).__name__ == "Add"):
        source = add.input[1]._keras_history.operation
        while "_shortcut" in source.name:
            source = source.input._keras_history.operation
        sources[add.name] = source.name
    shown = [one for one in model.layers if "_shortcut" not in one.name and type(one).__name__ not in ("InputLayer", "Sequential")]
    for layer in shown:
        shape, kind = tuple(layer.output.shape[1:]), type(layer).__name__.removeprefix("Global").replace("2D", "")
        if not stages or stages[-1][0] != shape or list(place)[-1] in sources.values():
            stages.append((shape, {}))
        place[layer.name], stages[-1][1][kind] = len(stages) - 1, stages[-1][1].get(kind, 0) + 1
    figure, axis = plt.subplots(figsize=(11, 3.4), layout="constrained")
    tallest, left, ends = max(shape[0] for shape, _ in stages if len(shape) == 3), 0.0, []
    for shape, kinds in stages:
        height = 0.25 + 1.75 * (shape[0] / tallest) ** 0.6 if len(shape) == 3 else 0.25
        depth = 0.12 + 0.03 * shape[-1] ** 0.5 if len(shape) == 3 else 0.16
        for shift in (0.12, 0.06, 0):
            axis.add_patch(plt.Rectangle((left + shift, -height / 2 + shift), depth, height, facecolor="#DCE6F2", edgecolor="#1F3B5C"))
        axis.text(left + depth / 2, -1.1, "×".join(map(str, shape)), ha="center", va="top", fontsize=8, fontweight="bold")
        words = "\n".join(f"{kind.replace('alization', '')}{f' ×{count}' if count > 1 else ''}" for kind, count in kinds.items())
        axis.text(left + depth / 2, -1.3, words, ha="center", va="top", fontsize=8)
        left += max(depth, 0.35) + 0.85
        ends.append((left - 0.4, height))  # where what leaves the box begins
    axis.plot([0, left - 1], [0.06, 0.06], color="#888888", linewidth=1, zorder=0)
    for add, source in sources.items():
        (start, _), (end, height) = ends[place[source]], ends[place[add]]
        axis.add_patch(Arc(((start + end) / 2, 0.06), end - start, height + 0.9, theta1=0, theta2=180, color="#D55E00", linewidth=1.5))
    axis.set(xlim=(-0.5, left - 0.3), ylim=(-2.35, 1.3))
    axis.axis("off")
    return figure
