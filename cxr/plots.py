"""Figures: everything that draws, in colors that color-blind readers can tell apart."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Arc
from sklearn import metrics

from cxr.evaluation import compute_metrics
from cxr.labels import CLASS_COLORS, CLASS_NAMES, FINDING_COLORS
from cxr.run_comparison import reference_run
from cxr.storage import wrap_os_errors


def show_figure(
    figure: Figure,
    title: str,
    name: str,
    output_dir: Path,
    kind: str,
    color: str = "black",
):
    """Give the figure its title, label it if it shows phantoms, save it as OUTPUT_DIR/figures/NAME.png (or StorageError), show it."""
    figure.suptitle(title, color=color, fontsize=12)
    if kind == "phantom":
        figure.text(
            0.5,
            -0.01,
            "PHANTOM radiographs: drawn by this project, they show no patient",
            ha="center",
            va="top",
            fontsize=9,
            color="#B00020",
        )
    target = Path(output_dir) / "figures" / f"{name}.png"
    with wrap_os_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, bbox_inches="tight", dpi=110)
    plt.show()
    plt.close(figure)


def plot_images(pictures, captions, columns: int = 5, colors=None) -> Figure:
    """Return a figure of gray pictures (uint8, or float32 in 0..1) with fixed limits, a caption above each."""
    rows, side = -(-len(pictures) // columns), 2.1 if columns > 3 else 3.1
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(side * columns, (side + 0.25) * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption, number in zip(
        axes.flat, pictures, captions, range(len(pictures))
    ):
        axis.imshow(
            np.squeeze(picture),
            cmap="gray",
            vmin=0,
            vmax=255 if picture.dtype == np.uint8 else 1,
        )
        axis.set_title(caption, fontsize=9, color=colors[number] if colors else "black")
    return figure


def plot_class_balance(files: pd.DataFrame) -> Figure:
    """Return a figure with the number of images of each class, and of each finding, folder by folder."""
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 3.8), sharey=True, layout="constrained"
    )
    table = files.assign(label=files.label.map(dict(enumerate(CLASS_NAMES))))
    findings = [name for name in FINDING_COLORS if (files.finding == name).any()]
    sns.countplot(
        table,
        x="folder",
        hue="label",
        hue_order=CLASS_NAMES,
        palette=dict(CLASS_COLORS),
        saturation=1,
        ax=axes[0],
    )
    sns.countplot(
        table,
        x="folder",
        hue="finding",
        hue_order=findings,
        palette=dict(FINDING_COLORS),
        saturation=1,
        ax=axes[1],
    )
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
    axis.set(
        xlabel="images of one patient", ylabel="patients (log scale)", yscale="log"
    )
    axis.xaxis.set_major_locator(plt.MaxNLocator("auto", integer=True))
    return figure


def plot_small_validation_sets(sizes, right: np.ndarray, seed: int) -> Figure:
    """Return a figure: the accuracy that random sets of each size show of a classifier; right: bool (n,), which answers are."""
    figure, axes = plt.subplots(
        1,
        len(sizes),
        figsize=(4.4 * len(sizes), 3.1),
        sharex=True,
        layout="constrained",
    )
    generator = np.random.default_rng(seed)
    for axis, size in zip(axes, sizes):
        seen = np.array([generator.choice(right, size).mean() for _ in range(5000)])
        axis.hist(
            seen,
            bins=np.arange(-0.5, size + 1) / size,
            color="#555555",
            linewidth=0,
            weights=np.full(len(seen), 1 / len(seen)),
        )
        axis.axvline(right.mean(), color="black", linestyle="--", linewidth=1)
        axis.set(
            title=f"{size:,} images: 95 % of sets show {np.quantile(seen, 0.025):.0%} to {np.quantile(seen, 0.975):.0%}",
            xlabel="accuracy shown (dashed: of all)",
            ylabel="share of sets",
            xlim=(max(0, right.mean() - 0.4), 1.02),
        )
    return figure


def drop_outliers(values: np.ndarray) -> np.ndarray:
    """Return the finite values, sorted, without up to a quarter at either end that a gap wider than all the rest cuts off."""
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


def limit_axis(axis, epochs, lines, lowest: float | None = None):
    """Let the axis show the lines without their outliers; triangles at its edge, with the value, stand for those."""
    usual = drop_outliers(np.concatenate(lines))
    if not len(usual):
        return
    low, high = usual[0] if lowest is None else lowest, usual[-1]
    margin = 0.05 * max(high - low, 0.01)
    axis.set_ylim(low - margin * (lowest is None), high + margin)
    for line, face in zip(lines, ("black", "white")):
        for epoch, value in (
            (epoch, value)
            for epoch, value in zip(epochs, line)
            if value < low or value > high
        ):
            edge, marker, up = (
                (axis.get_ylim()[0], "v", 6)
                if value < low
                else (axis.get_ylim()[1], "^", -12)
            )
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
                (6, up),
                textcoords="offset points",
                fontsize=8,
            )


def plot_learning_curves(table: pd.DataFrame) -> Figure:
    """Return a figure of loss, accuracy and AUC over the epochs, with the learning rate under them; outliers set no axis."""
    figure, axes = plt.subplot_mosaic(
        [["loss", "accuracy", "auc"], ["rate", "accuracy", "auc"]],
        figsize=(11, 4.4),
        height_ratios=(3, 1),
        sharex=True,
        layout="constrained",
    )
    best, marker = table.val_loss.idxmin(), "o" if len(table) < 3 else None
    for name in ("loss", "accuracy", "auc"):
        axis = axes[name]
        axis.plot(
            table.epoch, table[name], color="black", marker=marker, label="training"
        )
        axis.plot(
            table.epoch,
            table[f"val_{name}"],
            color="black",
            linestyle="--",
            marker=marker,
            fillstyle="none",
            label="validation",
        )
        axis.axvline(table.epoch[best], color="#888888", linewidth=1, linestyle=":")
        axis.set(
            title={"auc": "AUC"}.get(name, name),
            xlabel="epoch" if name != "loss" else None,
        )
        axis.tick_params(labelbottom=name != "loss")
        limit_axis(
            axis,
            table.epoch,
            [table[name], table[f"val_{name}"]],
            0 if name == "loss" else None,
        )
    axes["rate"].plot(
        table.epoch,
        table.learning_rate,
        color="#888888",
        drawstyle="steps-mid",
        marker=marker,
    )
    axes["rate"].set(yscale="log", xlabel="epoch", ylabel="learning rate")
    axes["rate"].xaxis.set_major_locator(plt.MaxNLocator("auto", integer=True))
    above = (table.val_loss > table.loss)[::-1].cumprod().sum()  # epochs, at the end
    told = (
        f"dashed stays above\nfrom epoch {table.epoch.iloc[-above]} on"
        if above
        else "dashed is not above\nsolid at the end"
    )
    axes["accuracy"].legend(
        title=f"loss: {told}", title_fontsize=8, fontsize=9
    )  # there is room
    return figure


def plot_confusion_matrix(matrices, titles) -> Figure:
    """Return a figure of confusion matrices ((2, 2) counts, rows are the truth), with counts and row shares."""
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(4.6 * len(matrices), 3.9), layout="constrained"
    )
    for axis, matrix, name in zip(np.atleast_1d(axes), matrices, titles):
        shares = matrix / matrix.sum(axis=1, keepdims=True)
        words = [
            [f"{matrix[row, column]:,}\n{shares[row, column]:.1%}" for column in (0, 1)]
            for row in (0, 1)
        ]
        sns.heatmap(
            shares,
            annot=np.array(words),
            fmt="",
            cmap="Blues",
            vmin=0,
            vmax=1.6,
            cbar=False,
            ax=axis,
            square=True,
            xticklabels=CLASS_NAMES,
            yticklabels=CLASS_NAMES,
            annot_kws={"fontsize": 12},
            linewidths=1,
            linecolor="#888888",
        )
        axis.set(title=name, xlabel="the network's answer", ylabel="the label")
    return figure


def plot_roc_pr_curves(sets: dict, threshold: float) -> Figure:
    """Return a figure with the ROC and precision–recall curves of {name: (labels, probabilities)}; dots: the threshold."""
    figure, (roc, pr) = plt.subplots(1, 2, figsize=(9.6, 4.5), layout="constrained")
    for (name, (labels, probabilities)), line in zip(sets.items(), ("--", "-")):
        false_rate, true_rate, _ = metrics.roc_curve(labels, probabilities)
        precision, recall, _ = metrics.precision_recall_curve(labels, probabilities)
        roc.plot(
            false_rate,
            true_rate,
            color="black",
            linestyle=line,
            label=f"{name}: AUC {metrics.auc(false_rate, true_rate):.3f}",
        )
        pr.plot(
            recall,
            precision,
            color="black",
            linestyle=line,
            label=f"{name}: average precision {metrics.average_precision_score(labels, probabilities):.3f}",
        )
        at = compute_metrics(labels, probabilities, threshold)
        roc.plot(1 - at["specificity"], at["sensitivity"], "o", color="#D55E00")
        pr.plot(at["sensitivity"], at["precision"], "o", color="#D55E00")
        pr.axhline(labels.mean(), color="#888888", linewidth=1, linestyle=line)
    roc.plot([0, 1], [0, 1], color="#888888", linewidth=1)
    roc.set(
        title="ROC (gray: chance)",
        xlabel="1 − specificity",
        ylabel="sensitivity",
        aspect="equal",
    )
    pr.set(
        title='precision–recall (gray: always "pneumonia")',
        xlabel="sensitivity (recall)",
        ylabel="precision",
        ylim=(0, 1.02),
    )
    roc.legend(loc="lower right")
    pr.legend(loc="lower left")
    return figure


def plot_reliability(labels: np.ndarray, sets: dict, bins: int = 10) -> Figure:
    """Return a figure of how often images are PNEUMONIA against the probability said; sets: {name: probabilities}."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.1), layout="constrained")
    axes[0].plot([0, 1], [0, 1], color="#888888", linewidth=1)
    for (name, probabilities), color, marker in zip(
        sets.items(), ("#888888", "#D55E00"), ("s", "o")
    ):
        place = np.minimum((probabilities * bins).astype(int), bins - 1)
        used = [one for one in range(bins) if np.any(place == one)]
        said, seen = (
            np.array([np.mean(values[place == one]) for one in used])
            for values in (probabilities, labels)
        )
        count = np.array([np.sum(place == one) for one in used])
        middle = (seen + 1.92 / count) / (
            1 + 3.84 / count
        )  # Wilson's interval: not empty where all images are of one class
        half = (
            1.96
            * np.sqrt(seen * (1 - seen) / count + 0.96 / count**2)
            / (1 + 3.84 / count)
        )
        axes[0].errorbar(
            said,
            seen,
            [np.maximum(0, seen - middle + half), np.maximum(0, middle + half - seen)],
            color=color,
            marker=marker,
            linewidth=1,
            capsize=2,
            label=name,
        )
        axes[1].hist(
            probabilities,
            np.linspace(0, 1, bins + 1),
            histtype="step",
            color=color,
            linewidth=2,
            label=name,
        )
    axes[0].set(
        title="reliability (gray line: calibrated)",
        xlabel="mean probability said",
        ylabel="share that is PNEUMONIA",
        xlim=(-0.02, 1.02),
        ylim=(-0.05, 1.05),
    )
    axes[1].set(
        title="how often each answer is given",
        xlabel="probability said",
        ylabel="images (log scale)",
        yscale="log",
        ylim=(0.8, None),
    )
    axes[0].legend(loc="upper left")
    return figure


def plot_architecture(model) -> Figure:
    """Return a figure of the model: a box for a block, or for layers with one output shape, and an arc for each shortcut to an Add."""
    stages, place, sources = [], {}, {}
    for add in (layer for layer in model.layers if type(layer).__name__ == "Add"):
        source = add.input[1]._keras_history.operation
        while "_shortcut" in source.name:
            source = source.input._keras_history.operation
        sources[add.name] = source.name
    shown = [
        one
        for one in model.layers
        if "_shortcut" not in one.name
        and type(one).__name__ not in ("InputLayer", "Sequential")
    ]
    for layer in shown:
        shape, kind = (
            tuple(layer.output.shape[1:]),
            type(layer).__name__.removeprefix("Global").replace("2D", ""),
        )
        if not stages or stages[-1][0] != shape or list(place)[-1] in sources.values():
            stages.append((shape, {}))
        place[layer.name], stages[-1][1][kind] = (
            len(stages) - 1,
            stages[-1][1].get(kind, 0) + 1,
        )
    figure, axis = plt.subplots(figsize=(11, 3.4), layout="constrained")
    tallest, left, ends = (
        max(shape[0] for shape, _ in stages if len(shape) == 3),
        0.0,
        [],
    )
    for shape, kinds in stages:
        height = 0.25 + 1.75 * (shape[0] / tallest) ** 0.6 if len(shape) == 3 else 0.25
        depth = 0.12 + 0.03 * shape[-1] ** 0.5 if len(shape) == 3 else 0.16
        for shift in (0.12, 0.06, 0):
            axis.add_patch(
                plt.Rectangle(
                    (left + shift, -height / 2 + shift),
                    depth,
                    height,
                    facecolor="#DCE6F2",
                    edgecolor="#1F3B5C",
                )
            )
        axis.text(
            left + depth / 2,
            -1.1,
            "×".join(map(str, shape)),
            ha="center",
            va="top",
            fontsize=8,
            fontweight="bold",
        )
        words = "\n".join(
            f"{kind.replace('alization', '')}{f' ×{count}' if count > 1 else ''}"
            for kind, count in kinds.items()
        )
        axis.text(left + depth / 2, -1.3, words, ha="center", va="top", fontsize=8)
        left += max(depth, 0.35) + 0.85
        ends.append((left - 0.4, height))  # where what leaves the box begins
    axis.plot([0, left - 1], [0.06, 0.06], color="#888888", linewidth=1, zorder=0)
    for add, source in sources.items():
        (start, _), (end, height) = ends[place[source]], ends[place[add]]
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
    axis.set(xlim=(-0.5, left - 0.3), ylim=(-2.35, 1.3))
    axis.axis("off")
    return figure


def plot_robustness(table: pd.DataFrame) -> Figure:
    """Return a figure of AUC, sensitivity and specificity of one network on changed pictures, the worst AUC at the bottom."""
    table = table.sort_values("auc")
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 0.8 + 0.33 * len(table)), sharey=True, layout="constrained"
    )
    rows = np.arange(len(table))
    axes[0].plot(table.auc, rows, "o", color="black")
    axes[1].plot(
        table.sensitivity,
        rows,
        "o",
        color=CLASS_COLORS["PNEUMONIA"],
        label="sensitivity",
    )
    axes[1].plot(
        table.specificity, rows, "s", color=CLASS_COLORS["NORMAL"], label="specificity"
    )
    axes[0].set_yticks(rows, table.index)
    axes[0].set(xlabel="AUC")
    axes[1].set(xlabel="share, at the threshold chosen before", xlim=(-0.03, 1.03))
    axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    for axis in axes:
        axis.grid(axis="y", color="#dddddd")
        axis.set_axisbelow(True)
    return figure


def plot_aspect_ratios(files: pd.DataFrame) -> Figure:
    """Return a figure of the original sizes, and of width / height, by class."""
    table = files.assign(
        label=files.label.map(dict(enumerate(CLASS_NAMES))),
        ratio=files.width / files.height,
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
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
        ax=left,
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
        ax=right,
        legend=False,
    )
    left.set(title="original size in pixels", xlim=(0, None), ylim=(0, None))
    left.legend(title=None, markerscale=2)
    right.set(
        title="width / height",
        xlabel="width / height",
        xlim=(0.5, max(2.5, table.ratio.max() + 0.1)),
    )
    return figure


def plot_hundred_children(
    sensitivity: float, specificity: float, shares=(0.5, 0.2, 0.05)
) -> tuple[Figure, str]:
    """Return (figure, title): a hundred children as dots at each share of sick ones, alarms filled, in whole children."""
    figure, axes = plt.subplots(
        1, len(shares), figsize=(3.2 * len(shares), 3.4), layout="constrained"
    )
    for axis, share in zip(axes, shares):
        sick = round(100 * share)
        hits, alarms = (
            round(sensitivity * sick),
            round((1 - specificity) * (100 - sick)),
        )
        groups = [
            (hits, "PNEUMONIA", True),
            (sick - hits, "PNEUMONIA", False),
            (alarms, "NORMAL", True),
            (100 - sick - alarms, "NORMAL", False),
        ]
        start = 0
        for count, name, alarm in groups:
            places = np.arange(start, start + count)
            axis.plot(
                places % 10,
                -(places // 10),
                "o",
                color=CLASS_COLORS[name],
                fillstyle="full" if alarm else "none",
                markersize=9,
            )
            start += count
        axis.set(
            title=f"{sick} sick: {hits} of {hits + alarms} alarms right",
            aspect="equal",
            xlim=(-0.7, 9.7),
            ylim=(-9.7, 0.7),
        )
        axis.axis("off")
    return figure, "A hundred children: orange sick, blue healthy; filled: alarm"


def plot_model_comparison(scores: dict, columns: dict) -> Figure:
    """Return a figure of scores with intervals, a row for each classifier of `compare_models`; columns: {column: color}."""
    figure, axis = plt.subplots(
        figsize=(9.6, 0.9 + 0.6 * len(scores)), layout="constrained"
    )
    for number, (column, color) in enumerate(columns.items()):
        cells = [row[column] for row in scores.values()]
        values = np.array([one["value"] for one in cells])
        # With few draws a value may lie beyond its own interval.
        reach = np.maximum(
            0,
            [
                [one["value"] - one["low"] for one in cells],
                [one["high"] - one["value"] for one in cells],
            ],
        )
        axis.errorbar(
            values,
            np.arange(len(scores)) + 0.18 * number,
            xerr=reach,
            fmt="os^"[number],
            color=color,
            label=column,
            lw=1,
        )
    axis.set_yticks(np.arange(len(scores)) + 0.09 * (len(columns) - 1), list(scores))
    axis.axvline(0.5, color="#888888", linewidth=1, linestyle=":")
    axis.set(xlabel="AUC (dotted: chance)", ylim=(len(scores) - 0.3, -0.4))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_grad_cam(
    x: np.ndarray, heat: np.ndarray, captions, colors, columns: int = 4
) -> Figure:
    """Return a figure of radiographs with their heat maps laid over them; a new row where the kind (before ":") changes."""
    kinds = [caption.split(":")[0] for caption in captions]
    rows = list(dict.fromkeys(kinds))
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(2.5 * columns, 2.75 * len(rows) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, (picture, warmth, caption, color) in enumerate(
        zip(x, heat, captions, colors)
    ):
        axis = axes[rows.index(kinds[number]), kinds[:number].count(kinds[number])]
        axis.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=255)
        axis.imshow(warmth, cmap="inferno", vmin=0, vmax=1.3, alpha=0.55 * warmth)
        axis.set_title(caption, fontsize=9, color=color)
    return figure


def plot_runs(records: list, differences: dict, most: int = 6) -> Figure:
    """Return a figure of the comparable runs: AUC, its paired difference to the reference, and validation curves of the best."""
    compared, reference = (
        [one for one in records if not one["apart"]],
        reference_run(records),
    )
    drawn = [reference, *[one for one in compared if one is not reference][:most]]
    names, colors = (
        [one["name"] for one in drawn],
        ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    )
    color, marker = dict(zip(names, colors)), dict(zip(names, "osD^vP*"))
    figure, ((left, right), curves) = plt.subplots(
        2,
        2,
        figsize=(10, 4.6 + 0.3 * len(compared)),
        layout="constrained",
        height_ratios=(0.7 + 0.3 * len(compared), 2.9),
    )
    for place, one in enumerate(reversed(compared)):
        look = {
            "color": color.get(one["name"], "#888888"),
            "marker": marker.get(one["name"], "."),
            "linewidth": 2,
        }
        for axis, scores in (
            (left, one["validation"]),
            (right, differences.get(one["name"])),
        ):
            if scores:
                axis.plot(
                    [scores["auc"][key] for key in ("low", "value", "high")],
                    [place] * 3,
                    markevery=[1],
                    **look,
                )
    short = [
        one["name"] if len(one["name"]) < 28 else one["name"][:26] + "…"
        for one in reversed(compared)
    ]
    left.set(
        yticks=range(len(compared)),
        yticklabels=short,
        ylim=(-0.6, len(compared) - 0.4),
        title="validation AUC, 95 % interval",
    )
    right.set(
        yticks=range(len(compared)),
        yticklabels=[],
        ylim=left.get_ylim(),
        title="minus that of the reference, paired 95 % interval",
    )
    right.axvline(0, color="#888888", linewidth=1)
    history = pd.concat(
        [one["history"].assign(run=one["name"]) for one in drawn], ignore_index=True
    )
    best = history.loc[history.groupby("run").val_loss.idxmin()]
    for axis, name, label in zip(curves, ("val_loss", "val_auc"), ("loss", "AUC")):
        shared = {
            "x": "epoch",
            "y": name,
            "hue": "run",
            "palette": color,
            "legend": False,
            "ax": axis,
        }
        sns.lineplot(
            history,
            **shared,
            estimator=None,
            size="run",
            sizes={one: 3.2 if one == reference["name"] else 1.4 for one in names},
        )
        sns.scatterplot(best, **shared, style="run", markers=marker, zorder=3)
        (low, high), kept = (
            axis.get_ylim(),
            best[name],
        )  # the first epochs would squeeze all that matters
        low, high = (
            (0, min(high, 3 * kept.max()))
            if name == "val_loss"
            else (max(low, 1 - 3 * (1 - kept.min()) - 0.005), high)
        )
        axis.set(
            title=f"validation {label}, changed films too (look as above)",
            xlabel="epoch; marked: the one kept",
            ylabel="",
            ylim=(low, high),
        )
        axis.xaxis.set_major_locator(plt.MaxNLocator("auto", integer=True))
    return figure
