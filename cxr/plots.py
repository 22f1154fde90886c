"""Figures: everything that draws, in colors that color-blind readers can tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Image as FigureFile
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Rectangle
from matplotlib.ticker import NullLocator
from sklearn import metrics

from cxr.evaluation import compute_metrics
from cxr.labels import CLASS_COLORS, CLASS_NAMES, FINDING_COLORS, display_name
from cxr.storage import wrap_os_errors
from cxr.training import count_epochs_above


def set_plot_style() -> None:
    """Set the style of all figures, whatever the user's own matplotlibrc says.

    The backend stays as it is, so that a notebook still shows its figures.
    """
    mpl.rcdefaults()
    sns.set_theme(style="whitegrid", rc={"figure.dpi": 100, "axes.titlesize": 11})


def show_figure(
    figure: Figure,
    name: str,
    title: str,
    folder: Path,
    data_kind: str,
    color: str = "black",
) -> None:
    """Give a figure its title, save it and show it.

    Parameters
    ----------
    figure : Figure
    name : str
        The figure is saved as `folder`/`name`.png.
    title : str
    folder : Path
        Created if it does not exist.
    data_kind : str
        Figures of "phantom" data are labeled as such.
    color : str, default "black"
        The color of the title.

    Raises
    ------
    StorageError
        If the figure cannot be saved.
    """
    figure.suptitle(title, color=color, fontsize=12)
    if data_kind == "phantom":
        figure.text(
            0.5,
            -0.01,
            "PHANTOM radiographs: synthetic images, they show no patient",
            ha="center",
            va="top",
            fontsize=9,
            color="#B00020",
        )
    target = Path(folder) / f"{name}.png"
    with wrap_os_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, bbox_inches="tight")
        display(FigureFile(target))  # drawing it a second time would take as long
    plt.close(figure)


def hide_axis(axis: Axes) -> None:
    """Hide ticks, labels and frame of an axis that shares none with another."""
    axis.axis("off")
    axis.set(xticks=[], yticks=[])  # the layout would measure them all the same


def plot_images(
    images: Sequence[np.ndarray] | np.ndarray,
    captions: Sequence[str],
    columns: int = 5,
    colors: Sequence[str] | None = None,
) -> Figure:
    """Return a figure of gray images with fixed limits and a caption above each.

    Parameters
    ----------
    images : sequence of arrays (height, width), with further axes of length 1 or not
        uint8 (0 to 255) or float (0 to 1).
    captions : sequence of str, one an image
    columns : int, default 5
    colors : sequence of str or None, default None
        The colors of the captions; black if None.
    """
    rows = -(-len(images) // columns)
    side = 2.1 if columns > 3 else 3.1
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(side * columns, (side + 0.25) * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        hide_axis(axis)
    for number, (image, caption) in enumerate(zip(images, captions)):
        axis = axes.flat[number]
        highest = 255 if image.dtype == np.uint8 else 1
        axis.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=highest)
        axis.set_title(caption, fontsize=9, color=colors[number] if colors else "black")
    return figure


def plot_class_balance(files: pd.DataFrame) -> Figure:
    """Return a figure of the images of each class, and of the findings, by folder."""
    figure, (counts, mix) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    table = files.assign(label=files.label.map(dict(enumerate(CLASS_NAMES))))
    folders = list(files.folder.unique())
    sns.countplot(
        table,
        x="folder",
        order=folders,
        hue="label",
        hue_order=CLASS_NAMES,
        palette=dict(CLASS_COLORS),
        saturation=1,
        ax=counts,
    )
    for bars in counts.containers:
        counts.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    counts.set(title="images by class", xlabel="folder", ylabel="images")
    counts.margins(y=0.1)
    # Fractions, because a folder of 16 images would not be seen beside one of 5,000.
    fractions = pd.crosstab(files.folder, files.finding, normalize="index")
    bottom = np.zeros(len(folders))
    for finding in [name for name in FINDING_COLORS if name in fractions]:
        heights = fractions[finding].reindex(folders).to_numpy()
        bars = mix.bar(
            folders,
            heights,
            bottom=bottom,
            color=FINDING_COLORS[finding],
            linewidth=0,
            label=finding,
        )
        text_color = "white" if finding in ("normal", "bacterial") else "black"
        texts = [f"{height:.0%}" if height > 0.05 else "" for height in heights]
        mix.bar_label(bars, texts, label_type="center", fontsize=8, color=text_color)
        bottom += heights
    mix.set(title="findings in each folder", xlabel="folder", ylabel="fraction")
    mix.grid(axis="x", visible=False)
    counts.legend(title=None)
    mix.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return figure


def plot_images_per_patient(files: pd.DataFrame) -> Figure:
    """Return a histogram of the number of images per patient."""
    figure, axis = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    counts = files.groupby("patient").size().value_counts().sort_index()
    axis.bar(counts.index, counts, color="#555555")
    axis.set(xlabel="images per patient", ylabel="patients (log scale)", yscale="log")
    axis.xaxis.set_major_locator(plt.MaxNLocator("auto", integer=True))
    return figure


def plot_small_validation_sets(
    sizes: Sequence[int], correct: np.ndarray, seed: int
) -> Figure:
    """Return histograms of the accuracy estimated from random sets of each size.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of images in a set.
    correct : bool array (n,)
        Which predictions of a classifier are correct. The sets are drawn from these,
        with replacement.
    seed : int
    """
    figure, axes = plt.subplots(
        1,
        len(sizes),
        figsize=(4.4 * len(sizes), 3.1),
        sharex=True,
        layout="constrained",
    )
    generator = np.random.default_rng(seed)
    accuracy = correct.mean()
    for axis, size in zip(axes, sizes):
        estimates = generator.binomial(size, accuracy, 5000) / size
        low, high = np.quantile(estimates, (0.025, 0.975))
        axis.hist(
            estimates,
            bins=np.arange(-0.5, size + 1) / size,
            color="#555555",
            linewidth=0,
            weights=np.full(len(estimates), 1 / len(estimates)),
        )
        axis.axvline(accuracy, color="black", linestyle="--", linewidth=1)
        axis.set(
            title=f"{size:,} images: 95% of sets give {low:.0%} to {high:.0%}",
            xlabel="estimated accuracy (dashed: all images)",
            ylabel="fraction of sets",
            xlim=(max(0, accuracy - 0.4), 1.02),
        )
    return figure


def drop_outliers(values: np.ndarray) -> np.ndarray:
    """Return the finite values, sorted, without outliers.

    Outliers are up to a quarter of the values at either end that a gap wider than the
    range of all the others cuts off.
    """
    values = values[np.isfinite(values)]
    for _ in ("above", "below"):
        values = np.sort(-values)
        cuts = [
            cut
            for cut in range(1, len(values) // 4 + 1)
            if values[cut] - values[cut - 1] > max(0.05, values[-1] - values[cut])
        ]
        values = values[max(cuts, default=0) :]
    return values


def limit_axis(
    axis: Axes,
    epochs: pd.Series,
    curves: Sequence[pd.Series],
    lowest: float | None = None,
) -> None:
    """Set the limits without outliers; triangles at the edge show their values."""
    usual = drop_outliers(np.concatenate(curves))
    if not len(usual):
        return
    low = usual[0] if lowest is None else lowest
    high = usual[-1]
    margin = 0.05 * max(high - low, 0.01)
    bottom = low - margin if lowest is None else low
    top = high + margin
    axis.set_ylim(bottom, top)
    for curve, face in zip(curves, ("black", "white")):
        for epoch, value in zip(epochs, curve):
            if value < low:
                edge, marker, offset = bottom, "v", 6
            elif value > high:
                edge, marker, offset = top, "^", -12
            else:
                continue
            axis.scatter(
                [epoch],
                [edge],
                marker=marker,
                color=face,
                edgecolor="black",
                clip_on=False,
                zorder=3,
            )
            axis.annotate(
                f"{value:.2g}",
                (epoch, edge),
                (6, offset),
                textcoords="offset points",
                fontsize=8,
            )


def draw_legend(axis: Axes, source: Axes, columns: int) -> None:
    """Fill an axis with the legend of another one, where it hides no curve."""
    axis.axis("off")
    handles, labels = source.get_legend_handles_labels()
    axis.legend(handles, labels, loc="center", ncols=columns, frameon=False)


def describe_loss_gap(history: pd.DataFrame) -> str:
    """Return since which epoch the validation loss has been above the training loss."""
    epochs_above = count_epochs_above(history)
    if not epochs_above:
        return "validation not above training at the end"
    return f"validation above training from epoch {history.epoch.iloc[-epochs_above]}"


def plot_learning_curves(history: pd.DataFrame) -> Figure:
    """Return a figure of loss, accuracy and AUC by epoch, with the learning rate.

    Parameters
    ----------
    history : DataFrame
        A row an epoch: epoch, learning_rate, loss, accuracy, auc, and the last three
        with the prefix "val_". Outliers do not set the limits of an axis.
    """
    figure, axes = plt.subplot_mosaic(
        [
            ["loss", "accuracy", "auc"],
            ["rate", "accuracy", "auc"],
            ["legend", "legend", "legend"],
        ],
        figsize=(11, 4.6),
        height_ratios=(3, 1, 0.3),
        sharex=True,
        layout="constrained",
    )
    best = history.index[-1]
    if history.val_loss.notna().any():
        best = history.val_loss.idxmin()
    epoch = history.epoch[best]
    marker = "o" if len(history) < 3 else None
    for name in ("loss", "accuracy", "auc"):
        axis = axes[name]
        axis.plot(
            history.epoch, history[name], color="black", marker=marker, label="training"
        )
        axis.plot(
            history.epoch,
            history[f"val_{name}"],
            color="black",
            linestyle="--",
            marker=marker,
            fillstyle="none",
            label="validation",
        )
        axis.axvline(
            epoch,
            color="#D55E00",
            linewidth=1.5,
            linestyle=":",
            label=f"lowest validation loss (epoch {epoch})",
        )
        finding = f"validation {history[f'val_{name}'][best]:.3f} at epoch {epoch}"
        if name == "loss":
            finding = describe_loss_gap(history)
        title = name.replace("auc", "AUC")
        axis.set_title(f"{title}\n{finding}", fontsize=10)
        axis.tick_params(labelbottom=name != "loss")
        if name != "loss":
            axis.set_xlabel("epoch")
        limit_axis(
            axis,
            history.epoch,
            [history[name], history[f"val_{name}"]],
            lowest=0 if name == "loss" else None,
        )
    axes["rate"].plot(
        history.epoch,
        history.learning_rate,
        color="#888888",
        drawstyle="steps-mid",
        marker=marker,
    )
    axes["rate"].set(yscale="log", xlabel="epoch", ylabel="learning rate")
    rates = sorted(set(history.learning_rate))
    axes["rate"].set_yticks(rates, [f"{rate:.0e}" for rate in rates])
    axes["rate"].yaxis.set_minor_locator(NullLocator())
    axes["rate"].tick_params(labelbottom=True)
    axes["rate"].xaxis.set_major_locator(
        plt.MaxNLocator("auto", integer=True, min_n_ticks=1)
    )
    draw_legend(axes["legend"], axes["loss"], columns=3)
    return figure


def plot_confusion_matrix(
    matrices: Sequence[np.ndarray], titles: Sequence[str]
) -> Figure:
    """Return a figure of confusion matrices with counts and row percentages.

    Parameters
    ----------
    matrices : sequence of int arrays (2, 2)
        Rows are the true classes, columns the predicted ones, as in scikit-learn.
    titles : sequence of str, one a matrix
    """
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(4.6 * len(matrices), 3.9), layout="constrained"
    )
    outcomes = np.array(
        [
            ["true negatives", "false positives"],
            ["false negatives", "true positives"],
        ]
    )
    for axis, matrix, title in zip(np.atleast_1d(axes), matrices, titles):
        fractions = matrix / matrix.sum(axis=1, keepdims=True)
        texts = [
            f"{outcome}\n{count:,}\n{fraction:.1%}"
            for outcome, count, fraction in zip(
                outcomes.flat, matrix.flat, fractions.flat
            )
        ]
        sns.heatmap(
            fractions,
            annot=np.reshape(texts, (2, 2)),
            fmt="",
            cmap="Blues",
            vmin=0,
            vmax=1.6,
            cbar=False,
            ax=axis,
            square=True,
            xticklabels=CLASS_NAMES,
            yticklabels=CLASS_NAMES,
            annot_kws={"fontsize": 11, "color": "black"},
            linewidths=1,
            linecolor="#888888",
        )
        axis.set(title=title, xlabel="predicted class", ylabel="true class")
    return figure


def plot_roc_pr_curves(
    datasets: Mapping[str, tuple[np.ndarray, np.ndarray]], threshold: float
) -> Figure:
    """Return a figure of ROC and precision–recall curves; dots mark the threshold.

    Where every AUC is above .95, the axes show only the corner with the curves.

    Parameters
    ----------
    datasets : mapping of str to (labels, probabilities), arrays (n,)
        At most two data sets: the first one is dashed with an open dot, the second one
        solid with a filled dot.
    threshold : float
    """
    figure, (roc, pr) = plt.subplots(1, 2, figsize=(9.6, 4.7), layout="constrained")
    aucs, points = [], []
    for (name, (labels, probabilities)), style in zip(datasets.items(), ("--", "-")):
        false_positive_rate, sensitivity, _ = metrics.roc_curve(labels, probabilities)
        precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
        auc = metrics.auc(false_positive_rate, sensitivity)
        average_precision = metrics.average_precision_score(labels, probabilities)
        roc.plot(
            false_positive_rate,
            sensitivity,
            color="black",
            linestyle=style,
            label=f"{name}: AUC {auc:.3f}",
        )
        pr.plot(
            recall,
            precision,
            color="black",
            linestyle=style,
            label=f"{name}: average precision {average_precision:.3f}",
        )
        pr.axhline(labels.mean(), color="#888888", linewidth=1, linestyle=style)
        aucs.append(auc)
        points.append(compute_metrics(labels, probabilities, threshold))
    for name, point, face in zip(datasets, points, ("white", "#D55E00")):
        dot: dict[str, Any] = {
            "color": "#D55E00",
            "markerfacecolor": face,
            "markersize": 7,
            "zorder": 3,
            "label": f"{name} at threshold {threshold:.3f}",
        }
        roc.plot(1 - point["specificity"], point["sensitivity"], "o", **dot)
        pr.plot(point["sensitivity"], point["precision"], "o", **dot)
    roc.plot([0, 1], [0, 1], color="#888888", linewidth=1)
    roc.set(
        title="ROC (gray: chance)",
        xlabel="1 − specificity",
        ylabel="sensitivity",
        aspect="equal",
    )
    pr.set(
        title="precision–recall (gray: all predicted PNEUMONIA)",
        xlabel="recall (sensitivity)",
        ylabel="precision",
        ylim=(0, 1.02),
    )
    if min(aucs) > 0.95:
        roc_reach = corner_size(points, ("sensitivity", "specificity"))
        roc.set(
            title="ROC, upper left corner",
            xlim=(-0.03 * roc_reach, roc_reach),
            ylim=(1 - roc_reach, 1 + 0.03 * roc_reach),
        )
        pr_reach = corner_size(points, ("sensitivity", "precision"))
        pr.set(
            title="precision–recall, upper right corner",
            xlim=(1 - pr_reach, 1 + 0.03 * pr_reach),
            ylim=(1 - pr_reach, 1 + 0.03 * pr_reach),
        )
    roc.legend(loc="lower right")
    pr.legend(loc="lower left")
    return figure


def corner_size(points: Sequence[dict[str, float]], names: Sequence[str]) -> float:
    """Return the side of a square at (1, 1) that holds these metrics, with a margin."""
    farthest = np.nanmax([1 - point[name] for point in points for name in names])
    return float(np.clip(np.ceil(20 * 1.3 * farthest) / 20, 0.1, 1))


def plot_reliability(
    labels: np.ndarray, predictions: Mapping[str, np.ndarray], bins: int = 10
) -> Figure:
    """Return a reliability diagram and a histogram of the probabilities.

    Parameters
    ----------
    labels : int array (n,)
    predictions : mapping of str to float array (n,)
        At most two sets of probabilities, for example before and after calibration.
    bins : int, default 10
        Number of bins of equal width. The bars are Wilson's 95% intervals.
    """
    figure, axes = plt.subplot_mosaic(
        [["diagram", "counts"], ["legend", "legend"]],
        figsize=(9.6, 4.5),
        height_ratios=(12, 1),
        layout="constrained",
    )
    diagram = axes["diagram"]
    counts = axes["counts"]
    diagram.plot([0, 1], [0, 1], color="#888888", linewidth=1)
    styles: tuple[dict[str, Any], ...] = (
        # The first set lies under the second one: wider, so that both can be seen.
        {"color": "#A0A0A0", "marker": "s", "markersize": 8, "linewidth": 3.5},
        {"color": "#D55E00", "marker": "o", "markersize": 5, "linewidth": 1.5},
    )
    for (name, probabilities), style in zip(predictions.items(), styles):
        bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
        table = pd.DataFrame({"predicted": probabilities, "observed": labels})
        groups = table.groupby(bin_of)
        count = groups.size().to_numpy()
        predicted = groups["predicted"].mean().to_numpy()
        observed = groups["observed"].mean().to_numpy()
        # Wilson's interval: not empty where all images of a bin are of one class.
        center = (observed + 1.92 / count) / (1 + 3.84 / count)
        variance = observed * (1 - observed) / count + 0.96 / count**2
        half_width = 1.96 * np.sqrt(variance) / (1 + 3.84 / count)
        diagram.errorbar(
            predicted,
            observed,
            [
                np.maximum(0, observed - center + half_width),
                np.maximum(0, center + half_width - observed),
            ],
            capsize=2,
            elinewidth=1,
            label=name,
            **style,
        )
        counts.hist(
            probabilities,
            np.linspace(0, 1, bins + 1).tolist(),
            histtype="step",
            color=style["color"],
            linewidth=style["linewidth"],
        )
    diagram.set(
        title="reliability (gray line: perfect calibration)",
        xlabel="mean predicted probability",
        ylabel="observed fraction of PNEUMONIA",
        xlim=(-0.02, 1.02),
        ylim=(-0.05, 1.05),
    )
    counts.set(
        title="distribution of the predictions",
        xlabel="predicted probability",
        ylabel="images (log scale)",
        yscale="log",
        ylim=(0.8, None),
    )
    draw_legend(axes["legend"], diagram, columns=2)
    return figure


def skip_sources(model: keras.Model) -> dict[str, str]:
    """Return {name of an Add layer: name of the layer where its skip begins}."""
    sources = {}
    for layer in model.layers:
        if type(layer).__name__ != "Add":
            continue
        source = layer.input[1]._keras_history.operation
        while "_skip_" in source.name:
            source = source.input._keras_history.operation
        sources[layer.name] = source.name
    return sources


def group_layers(
    model: keras.Model, sources: Mapping[str, str]
) -> tuple[list[tuple[tuple[int, ...], dict[str, int]]], dict[str, int]]:
    """Return the stages of a model, and the stage of each layer.

    A stage is a residual block, or successive layers with one output shape, of which a
    max pooling is the last: (shape, {kind of layer: how many}).
    """
    stages: list[tuple[tuple[int, ...], dict[str, int]]] = []
    stage_of: dict[str, int] = {}
    starts_block = False
    for layer in model.operations:
        kind = type(layer).__name__
        if kind == "Subtract":  # the only operation that is drawn and not a layer
            kind = "Local mean"
        elif not isinstance(layer, keras.Layer):
            continue
        if "_skip_" in layer.name or kind in ("InputLayer", "Sequential"):
            continue
        shape = tuple(layer.output.shape[1:])
        if not stages or stages[-1][0] != shape or starts_block:
            stages.append((shape, {}))
        kind = kind.removeprefix("Global").replace("2D", "").replace("alization", "")
        kinds = stages[-1][1]
        kinds[kind] = kinds.get(kind, 0) + 1
        stage_of[layer.name] = len(stages) - 1
        starts_block = layer.name in sources.values() or kind == "MaxPooling"
    return stages, stage_of


def plot_architecture(model: keras.Model) -> Figure:
    """Return a diagram of a model: a box a stage, an arc for each skip connection.

    The height of a box follows the size of its feature map, and its width the number
    of channels. A vector is a bar whose height follows the logarithm of its length.
    """
    sources = skip_sources(model)
    stages, stage_of = group_layers(model, sources)
    figure, axis = plt.subplots(figsize=(11, 3.6), layout="constrained")
    tallest = max(shape[0] for shape, _ in stages if len(shape) == 3)
    left = 0.0
    ends = []
    for shape, kinds in stages:
        if len(shape) == 3:
            height = 0.25 + 1.75 * (shape[0] / tallest) ** 0.6
            width = 0.04 + 0.004 * shape[-1]
            shifts: tuple[float, ...] = (0.12, 0.06, 0) if shape[-1] > 1 else (0,)
            color = "#DCE6F2"
        else:
            height = 0.12 + 0.14 * np.log2(shape[0])
            width = 0.14
            shifts = (0,)
            color = "#8FB0D6"
        slot = max(width, 0.4)  # wide enough for the text under it
        start = left + (slot - width) / 2
        for shift in shifts:
            axis.add_patch(
                Rectangle(
                    (start + shift, -height / 2 + shift),
                    width,
                    height,
                    facecolor=color,
                    edgecolor="#1F3B5C",
                )
            )
        text: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 7.5}
        center = left + slot / 2
        shape_text = "×".join(map(str, shape))
        axis.text(center, -1.1, shape_text, fontweight="bold", **text)
        kind_lines = [
            f"{kind} ×{count}" if count > 1 else kind for kind, count in kinds.items()
        ]
        axis.text(center, -1.3, "\n".join(kind_lines), **text)
        left += slot + 0.85
        ends.append((left - 0.4, height))  # the gap behind the box
    axis.plot([0, left - 1], [0.06, 0.06], color="#888888", linewidth=1, zorder=0)
    for add, source in sources.items():
        start, _ = ends[stage_of[source]]
        end, height = ends[stage_of[add]]
        axis.add_patch(
            Arc(
                ((start + end) / 2, 0.06),
                end - start,
                height + 0.9,
                theta1=0,
                theta2=180,
                color="#D55E00",
                linewidth=1.5,
            )
        )
    most_lines = max(len(kinds) for _, kinds in stages)
    axis.set(xlim=(-0.5, left - 0.3), ylim=(-1.4 - 0.19 * most_lines, 1.3))
    hide_axis(axis)
    note = (
        "Box: feature map (height: its size, width: channels). "
        "Filled bar: vector (height: log of its length)."
    )
    if sources:
        note += " Arc: skip connection."
    figure.supxlabel(note, fontsize=9)
    return figure


def plot_robustness(table: pd.DataFrame) -> Figure:
    """Return a figure of a model's metrics on perturbed images, the worst AUC below.

    Parameters
    ----------
    table : DataFrame
        A row a perturbation, with auc, sensitivity and specificity. Dotted lines show
        the row "unchanged".
    """
    table = table.sort_values("auc")
    figure, (areas, rates) = plt.subplots(
        1, 2, figsize=(9.6, 0.8 + 0.33 * len(table)), sharey=True, layout="constrained"
    )
    rows = np.arange(len(table))
    columns = (
        (areas, "auc", "black", "o"),
        (rates, "sensitivity", CLASS_COLORS["PNEUMONIA"], "o"),
        (rates, "specificity", CLASS_COLORS["NORMAL"], "s"),
    )
    for axis, name, color, marker in columns:
        axis.plot(table[name], rows, marker, color=color, label=name)
    if "unchanged" in table.index:
        for axis, name, color, _ in columns:
            axis.axvline(table[name]["unchanged"], color=color, linestyle=":")
    areas.set_yticks(rows, [display_name(name) for name in table.index])
    areas.set(xlabel="AUC (dotted: unchanged)")
    areas.xaxis.set_major_locator(plt.MaxNLocator(5))
    rates.set(xlabel="at the threshold (dotted: unchanged)")
    rates.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    for axis in (areas, rates):
        axis.grid(axis="y", color="#dddddd")
        axis.set_axisbelow(True)
    return figure


def plot_aspect_ratios(files: pd.DataFrame) -> Figure:
    """Return a figure of the original sizes and aspect ratios, by class."""
    table = files.assign(
        label=files.label.map(dict(enumerate(CLASS_NAMES))),
        ratio=files.width / files.height,
    )
    figure, (sizes, ratios) = plt.subplots(
        1, 2, figsize=(9.5, 3.8), layout="constrained"
    )
    sns.scatterplot(
        table,
        x="width",
        y="height",
        hue="label",
        hue_order=CLASS_NAMES,
        palette=dict(CLASS_COLORS),
        s=9,
        alpha=0.4,
        linewidth=0,
        ax=sizes,
    )
    sns.histplot(
        table,
        x="ratio",
        hue="label",
        hue_order=CLASS_NAMES,
        palette=dict(CLASS_COLORS),
        stat="density",
        common_norm=False,
        element="step",
        bins=np.arange(0, table.ratio.max() + 0.1, 0.05).tolist(),
        ax=ratios,
        legend=False,
    )
    sizes.set(title="original size in pixels", xlim=(0, None), ylim=(0, None))
    sizes.legend(title=None, markerscale=2)
    ratios.set(
        title="aspect ratio",
        xlabel="width / height",
        ylabel="density",
        xlim=(0.5, max(2.5, table.ratio.max() + 0.1)),
    )
    return figure


def plot_hundred_children(
    sensitivity: float,
    specificity: float,
    prevalences: Sequence[float] = (0.5, 0.2, 0.05),
) -> tuple[Figure, str]:
    """Return (figure, title): a hundred children as dots, at each prevalence.

    Counts are rounded to whole children; filled dots are positive predictions.
    """
    figure, axes = plt.subplots(
        1, len(prevalences), figsize=(3.2 * len(prevalences), 3.6), layout="constrained"
    )
    for axis, prevalence in zip(axes, prevalences):
        positives = round(100 * prevalence)
        true_positives = round(sensitivity * positives)
        false_positives = round((1 - specificity) * (100 - positives))
        groups = [
            (true_positives, "PNEUMONIA", "full"),
            (positives - true_positives, "PNEUMONIA", "none"),
            (false_positives, "NORMAL", "full"),
            (100 - positives - false_positives, "NORMAL", "none"),
        ]
        start = 0
        for count, name, fill in groups:
            places = np.arange(start, start + count)
            axis.plot(
                places % 10,
                -(places // 10),
                "o",
                color=CLASS_COLORS[name],
                fillstyle=fill,
                markersize=9,
            )
            start += count
        alarms = true_positives + false_positives
        axis.set(
            title=f"prevalence {prevalence:.0%}:\n"
            f"{true_positives} of {alarms} alarms right",
            aspect="equal",
            xlim=(-0.7, 9.7),
            ylim=(-9.7, 0.7),
        )
        hide_axis(axis)
    title = "100 children: pneumonia orange, normal blue; filled: positive prediction"
    return figure, title


def plot_adaptation(table: pd.DataFrame) -> Figure:
    """Return a figure of balanced accuracy against the number of labeled images.

    Parameters
    ----------
    table : DataFrame
        As `adapt_threshold` returns it: value, low, high for each number of images.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    places = np.arange(len(table))
    axis.fill_between(places, table.low, table.high, color="#D55E00", alpha=0.2)
    axis.plot(places, table.value, "o-", color="#D55E00")
    axis.axhline(table.value.iloc[0], color="#888888", linestyle=":")
    axis.set_xticks(places, table.index)
    axis.set(
        xlabel="labeled images of the new place (0: threshold from validation)",
        ylabel="balanced accuracy",
        title="mean, and the range of 95% of the draws",
    )
    return figure


def plot_model_comparison(
    models: Mapping[str, Mapping[str, Mapping[str, float]]], columns: Mapping[str, str]
) -> Figure:
    """Return a figure of metrics with their intervals, a row a model.

    Parameters
    ----------
    models : mapping of str to mapping
        {model: {column: {"value", "low", "high"}}}, as from `compare_models`.
    columns : mapping of str to str
        {column: color}, at most three.
    """
    figure, axis = plt.subplots(
        figsize=(9.6, 1.1 + 0.6 * len(models)), layout="constrained"
    )
    rows = np.arange(len(models))
    for number, (column, color) in enumerate(columns.items()):
        estimates = pd.DataFrame([row[column] for row in models.values()])
        # With few bootstrap samples a value may lie outside its own interval.
        lengths = np.maximum(
            0,
            [estimates.value - estimates.low, estimates.high - estimates.value],
        )
        axis.errorbar(
            estimates.value,
            rows + 0.18 * number,
            xerr=lengths,
            fmt="os^"[number],
            color=color,
            label=display_name(column),
            linewidth=1,
        )
    names = [display_name(name) for name in models]
    axis.set_yticks(rows + 0.09 * (len(columns) - 1), names)
    axis.axvline(0.5, color="#888888", linewidth=1, linestyle=":")
    left, right = axis.get_xlim()
    axis.set(
        xlabel="AUC with 95% CI (dotted: chance)",
        xlim=(min(left, 0.48), max(right, 0.52)),  # not on the frame
        ylim=(len(models) - 0.3, -0.4),
    )
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    return figure


def plot_grad_cam(
    x: np.ndarray,
    heatmaps: np.ndarray,
    captions: Sequence[str],
    colors: Sequence[str],
    columns: int = 3,
) -> Figure:
    """Return a figure of images, each plain and with its Grad-CAM heat map beside it.

    Parameters
    ----------
    x : uint8 array (n, size, size, 1)
    heatmaps : float array (n, size, size)
        Values from 0 to 1, as from `grad_cam`.
    captions : sequence of str, one an image
        A new row begins where the text before ":" changes.
    colors : sequence of str
        The colors of the captions.
    columns : int, default 3
        Pairs of images in a row; no caption may begin more often in the same way.
    """
    kinds = [caption.split(":")[0] for caption in captions]
    rows = list(dict.fromkeys(kinds))
    side = 1.75 if columns > 1 else 3.2
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(2 * side * columns + 0.8, (side + 0.3) * len(rows) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        hide_axis(axis)
    shades = plt.get_cmap("inferno")(np.linspace(0.25, 1, 256))
    shades[:, 3] = np.linspace(0, 0.65, 256)  # the image shows where the map is low
    overlay = ListedColormap(shades, "overlay")
    for number, (image, heatmap) in enumerate(zip(x[..., 0], heatmaps)):
        axis = axes[rows.index(kinds[number]), kinds[:number].count(kinds[number])]
        gap = np.full((len(image), len(image) // 40 + 1), 255, np.uint8)
        pair = np.hstack([image, gap, image])
        axis.imshow(pair, cmap="gray", vmin=0, vmax=255)
        beside = np.hstack([np.zeros(image.shape), 0.0 * gap, heatmap])
        axis.imshow(beside, cmap=overlay, vmin=0, vmax=1)
        axis.set_title(captions[number], fontsize=9, color=colors[number])
    scale = ScalarMappable(plt.Normalize(0, 1), overlay)
    bar = figure.colorbar(scale, ax=axes, shrink=0.8, aspect=30, pad=0.01)
    bar.ax.set_facecolor("#777777")  # as over an image
    bar.set_label("Grad-CAM (1: the maximum of each image)", fontsize=9)
    bar.ax.grid(visible=False)
    return figure


def plot_runs(
    records: Sequence[dict[str, Any]],
    differences: Mapping[str, Mapping[str, Mapping[str, float]]],
    most: int = 6,
) -> Figure:
    """Return a figure of the runs that can be compared.

    Parameters
    ----------
    records : sequence of dict
        As from `list_runs`, the highest AUC first; one of them is the reference.
    differences : mapping
        {run: {"auc": {"value", "low", "high"}}}, as from `paired_differences`.
    most : int, default 6
        Number of runs, besides the reference, whose validation curves are drawn.
    """
    compared = [record for record in records if not record["exclusion_reason"]]
    reference = next(
        record for record in records if record["name"] == record["reference"]
    )
    others = [record for record in compared if record is not reference]
    drawn = [reference, *others[:most]]
    names = [record["name"] for record in drawn]
    palette = (
        "black",
        "#0072B2",
        "#D55E00",
        "#009E73",
        "#CC79A7",
        "#E69F00",
        "#56B4E9",
    )
    colors = dict(zip(names, palette))
    markers = dict(zip(names, "osD^vP*"))
    figure, ((scores, gains), curves) = plt.subplots(
        2,
        2,
        figsize=(10, 4.6 + 0.3 * len(compared)),
        layout="constrained",
        height_ratios=(0.7 + 0.3 * len(compared), 2.9),
    )
    for row, record in enumerate(reversed(compared)):
        name = record["name"]
        panels = ((scores, record["validation"]), (gains, differences.get(name)))
        for axis, estimates in panels:
            if estimates:
                auc = estimates["auc"]
                axis.plot(
                    [auc["low"], auc["value"], auc["high"]],
                    [row] * 3,
                    markevery=[1],
                    color=colors.get(name, "#888888"),
                    marker=markers.get(name, "."),
                    linewidth=2,
                )
    labels = [
        record["name"] if len(record["name"]) < 28 else record["name"][:26] + "…"
        for record in reversed(compared)
    ]
    scores.set(
        yticks=range(len(compared)),
        yticklabels=labels,
        ylim=(-0.6, len(compared) - 0.4),
        title="validation AUC, 95% CI",
    )
    gains.set(
        yticks=range(len(compared)),
        yticklabels=[],
        ylim=scores.get_ylim(),
        title="AUC minus that of the reference, paired 95% CI",
    )
    gains.xaxis.set_major_locator(plt.MaxNLocator(5))
    gains.axvline(0, color="#888888", linewidth=1)
    history = pd.concat(
        [record["history"].assign(run=record["name"]) for record in drawn],
        ignore_index=True,
    )
    best = history.loc[history.groupby("run").val_loss.idxmin()]
    widths = dict.fromkeys(names, 1.4) | {reference["name"]: 3.2}
    for axis, column, label in zip(curves, ("val_loss", "val_auc"), ("loss", "AUC")):
        shared: dict[str, Any] = {
            "x": "epoch",
            "y": column,
            "hue": "run",
            "palette": colors,
            "legend": False,
            "ax": axis,
        }
        sns.lineplot(history, **shared, estimator=None, size="run", sizes=widths)
        sns.scatterplot(best, **shared, style="run", markers=markers, zorder=3)
        low, high = axis.get_ylim()
        # The first epochs would squeeze what matters into the rest of the axis.
        if column == "val_loss":
            low, high = 0, min(high, 3 * best.val_loss.max())
        else:
            low = max(low, 1 - 3 * (1 - best.val_auc.min()) - 0.005)
        axis.set(
            title=f"validation {label} by epoch (colors as above)",
            xlabel="epoch (marker: selected epoch)",
            ylabel="original and perturbed images",
            ylim=(low, high),
        )
        axis.xaxis.set_major_locator(
            plt.MaxNLocator("auto", integer=True, min_n_ticks=1)
        )
    return figure
