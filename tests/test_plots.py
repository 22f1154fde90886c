"""The figures: each carries its title and what a reader takes from it, and phantoms are labeled wherever they are shown."""

import warnings

import cv2
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Arc
from sklearn import metrics as sk

from cxr.evaluation import format_metrics
from cxr.labels import (
    image_label,
    label_colors,
)
from cxr.models import build_baseline, build_cnn, receptive_field
from cxr.plots import (
    drop_outliers,
    plot_architecture,
    plot_aspect_ratios,
    plot_class_balance,
    plot_confusion_matrix,
    plot_images,
    plot_images_per_patient,
    plot_learning_curves,
    plot_reliability,
    plot_robustness,
    plot_roc_pr_curves,
    plot_small_validation_sets,
    show_figure,
)
from cxr.storage import StorageError

FILES = pd.DataFrame(
    {
        "folder": ["train"] * 6 + ["test"] * 3,
        "label": [0, 1, 1, 1, 1, 1, 0, 0, 1],
        "finding": [
            "normal",
            *["bacterial"] * 3,
            "viral",
            "viral",
            "normal",
            "normal",
            "viral",
        ],
        "patient": list("aabcddefg"),
        "width": [120, 150, 160, 150, 140, 170, 110, 130, 1000],
        "height": 100,
    }
)


@pytest.fixture(autouse=True)
def close_figures():
    """What a test draws is drawn in full, without a complaint, and closed."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # what libraries say of each other
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    plt.close("all")


def texts(axis):
    return [text.get_text() for text in axis.texts]


def labels_of(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("kind", "warned"),
    [("phantom", True), ("chest-xray-pneumonia", False), ("own", False)],
)
def test_phantoms_are_labeled_and_others_are_not(tmp_path, monkeypatch, kind, warned):
    shown = []
    monkeypatch.setattr("cxr.plots.plt.show", lambda: shown.append(plt.get_fignums()))
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    show_figure(figure, "The title", "curves", tmp_path / "out", kind)
    assert (
        any(
            "PHANTOM" in text.get_text() and "show no patient" in text.get_text()
            for text in figure.texts
        )
        == warned
    )
    assert (
        len(shown) == 1
        and not plt.get_fignums()
        and figure.get_suptitle() == "The title"
    )
    red = np.all(
        cv2.imread(str(tmp_path / "out/figures/curves.png")) == (0x20, 0, 0xB0), axis=2
    )  # the words lie below the axes
    assert red.any() == warned


def test_a_disk_that_is_full_or_a_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/curves.png").symlink_to("/dev/full")
    with pytest.raises(
        StorageError, match=f"^{tmp_path}/figures is full: free some space"
    ):
        show_figure(plt.figure(), "The title", "curves", tmp_path, "own")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/figures").write_text("in the way")
    with pytest.raises(
        StorageError, match=f"^{tmp_path}/out/figures cannot be written"
    ):
        show_figure(plt.figure(), "The title", "curves", tmp_path / "out", "own")


def test_pictures_are_named_after_what_they_are():
    assert (
        image_label("phantom") == "phantom radiographs"
        and image_label("chest-xray-pneumonia") == "chest radiographs"
    )
    assert image_label("own") == "pictures"


def test_each_class_has_its_color():
    assert label_colors([1, 0]) == ["#D55E00", "#0072B2"]


def test_scores_are_told_with_their_intervals():
    table = format_metrics(
        validation={
            "auc": {"value": 0.98765, "low": 0.9, "high": 1.0},
            "f1": {"value": np.nan, "low": 0, "high": 0},
        },
        test={"auc": {"value": 0.5, "low": 0.4004, "high": 0.5996}},
    )
    assert table.loc["auc"].tolist() == [
        "0.988 [0.900–1.000]",
        "0.500 [0.400–0.600]",
    ] and table.loc["f1", "validation"].startswith("nan")


def test_panels_keep_their_limits_and_leave_no_empty_frame():
    bright, film = (
        np.full((4, 4, 1), 200, np.uint8),
        np.full((1, 4, 4, 1), 0.5, np.float32),
    )
    figure = plot_images(
        [bright, film, bright],
        ["a", "b", "c"],
        columns=2,
        colors=["#D55E00", "black", "#0072B2"],
    )
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", ""]
    assert [axis.images[0].get_clim() for axis in figure.axes[:3]] == [
        (0, 255),
        (0, 1),
        (0, 255),
    ]
    assert (
        not any(axis.axison for axis in figure.axes)
        and figure.axes[0].title.get_color() == "#D55E00"
    )


def test_the_bars_carry_the_counts_of_each_folder():
    figure = plot_class_balance(FILES)
    by_class, by_finding = figure.axes
    assert sorted(texts(by_class)) == ["1", "1", "2", "5"] and labels_of(by_class) == [
        "NORMAL",
        "PNEUMONIA",
    ]
    counted = {
        to_hex(bars[0].get_facecolor()).upper(): [bar.get_height() for bar in bars]
        for bars in by_class.containers
    }
    assert counted == {"#0072B2": [1, 2], "#D55E00": [5, 1]}
    assert labels_of(by_finding) == ["normal", "bacterial", "viral"]  # none is unknown
    assert by_class.get_ylim()[0] == 0


def test_shapes_show_every_image_and_an_extreme_one_too():
    figure = plot_aspect_ratios(FILES)
    sizes, ratios = figure.axes
    assert labels_of(sizes) == ["NORMAL", "PNEUMONIA"]
    assert sorted(sizes.collections[0].get_offsets()[:, 0]) == sorted(FILES.width)
    assert ratios.get_xlim()[1] > 10 and sizes.get_xlim()[0] == sizes.get_ylim()[0] == 0


def test_patients_are_counted_by_their_images():
    figure = plot_images_per_patient(FILES)
    axis = figure.axes[0]
    assert axis.get_yscale() == "log"
    assert {
        round(bar.get_x() + bar.get_width() / 2): bar.get_height()
        for bar in axis.patches
    } == {1: 5, 2: 2}


def test_small_sets_show_what_the_binomial_says():
    """Of answers that are right in 80 %, 95 % of the sets of 10 show 5 to 10, and 95 % of those of 400 show 304 to 335."""
    figure = plot_small_validation_sets((10, 400), np.arange(1000) % 5 > 0, 0)
    small, large = figure.axes
    assert small.get_title() == "10 images: 95 % of sets show 50% to 100%"
    heights = {
        round(bar.get_x() + bar.get_width() / 2, 2): bar.get_height()
        for bar in small.patches
    }
    assert heights[0.8] == pytest.approx(0.302, abs=0.02) and sum(
        heights.values()
    ) == pytest.approx(1)  # the binomial's 0.302
    assert large.get_title() == "400 images: 95 % of sets show 76% to 84%"


@pytest.mark.parametrize("epochs", [1, 4])
def test_the_history_marks_the_best_epoch(epochs):
    table = pd.DataFrame(
        {
            "epoch": range(1, epochs + 1),
            "loss": [0.6, 0.4, 0.3, 0.2][:epochs],
            "val_loss": [0.7, 0.5, 0.6, 0.9][:epochs],
            "learning_rate": 0.001,
        }
        | dict.fromkeys(("accuracy", "val_accuracy", "auc", "val_auc"), 0.9)
    )
    figure = plot_learning_curves(table)
    by_title = {axis.get_title(): axis for axis in figure.axes}
    assert {"loss", "accuracy", "AUC"} <= set(by_title)
    training, validation, best = by_title["loss"].lines
    assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    assert labels_of(by_title["accuracy"]) == ["training", "validation"]
    assert list(validation.get_ydata()) == table.val_loss.tolist() and best.get_xdata()[
        0
    ] == min(2, epochs)
    assert by_title["loss"].get_ylim()[0] == 0
    assert training.get_marker() == (
        "o" if epochs == 1 else "None"
    )  # a line of one point cannot be seen
    assert (training.get_fillstyle(), validation.get_fillstyle()) == (
        "full",
        "none",
    )  # nor whether it is dashed


def test_a_loss_that_ran_away_does_not_flatten_the_others():
    table = pd.DataFrame(
        {
            "epoch": [1, 2],
            "loss": [0.6, 0.4],
            "val_loss": [500, 0.5],
            "learning_rate": 0.001,
        }
        | dict.fromkeys(("accuracy", "val_accuracy", "auc", "val_auc"), 0.9)
    )
    axis = next(
        axis for axis in plot_learning_curves(table).axes if axis.get_title() == "loss"
    )
    assert 0.6 < axis.get_ylim()[1] < 5


@pytest.mark.parametrize(
    ("values", "left"),
    [
        (
            [0.9, 0.27, 0.85, 0.95],
            [0.85, 0.9, 0.95],
        ),  # the gap, .58, is wider than what is left, .1
        (
            [0.62, 0.72, 0.85, 0.89, 0.9, 0.95, 0.99, 1.0],
            [0.62, 0.72, 0.85, 0.89, 0.9, 0.95, 0.99, 1.0],
        ),  # a climb has no such gap
        (
            [3, 0.5, 0.4, 450, 0.3, 0.35, 0.6, 500],
            [0.3, 0.35, 0.4, 0.5, 0.6, 3],
        ),  # two of eight at most
        ([0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 7], [0.9] * 6),
        ([0.9, 0.9, 0.9, 0.86], [0.86, 0.9, 0.9, 0.9]),
        ([0.5, 0.9], [0.5, 0.9]),
        ([np.nan, 0.5, np.inf], [0.5]),
        ([np.nan, np.nan], []),
    ],
)
def test_an_outlier_is_what_a_gap_wider_than_all_the_rest_cuts_off(values, left):
    assert drop_outliers(np.array(values)).tolist() == left


def test_one_epoch_that_went_wrong_sets_no_axis_but_is_marked_with_its_value():
    table = pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            "loss": [0.6, 0.4, 0.3, 0.2],
            "val_loss": [0.5, 0.4, 9, 0.3],
            "learning_rate": 0.001,
            "accuracy": [0.8, 0.85, 0.9, 0.92],
            "val_accuracy": [0.82, 0.31, 0.9, 0.91],
            "auc": 0.9,
            "val_auc": 0.9,
        }
    )
    panels = {axis.get_title(): axis for axis in plot_learning_curves(table).axes}
    low, high = panels["accuracy"].get_ylim()
    assert (
        0.75 < low < 0.8 and 0.92 < high < 1 and texts(panels["accuracy"]) == ["0.31"]
    )
    assert panels["accuracy"].collections[0].get_offsets().tolist() == [[2, low]]
    assert list(panels["accuracy"].lines[1].get_ydata()) == [
        0.82,
        0.31,
        0.9,
        0.91,
    ]  # the line still goes there
    assert (
        panels["loss"].get_ylim()[0] == 0
        and 0.6 < panels["loss"].get_ylim()[1] < 0.7
        and texts(panels["loss"]) == ["9"]
    )
    assert not panels["AUC"].collections and not texts(panels["AUC"])


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([0.7, 0.3, 0.6, 0.9], "dashed stays above from epoch 3 on"),
        ([0.7, 0.5, 0.6, 0.1], "dashed is not above solid at the end"),
        ([0.7, 0.5, 0.4, 0.3], "dashed stays above from epoch 1 on"),
    ],
)
def test_the_legend_tells_from_where_on_validation_is_worse(losses, told):
    table = pd.DataFrame(
        {
            "epoch": [1, 2, 3, 4],
            "loss": [0.6, 0.4, 0.3, 0.2],
            "val_loss": losses,
            "learning_rate": 0.001,
        }
        | dict.fromkeys(("accuracy", "val_accuracy", "auc", "val_auc"), 0.9)
    )
    accuracy = next(
        axis
        for axis in plot_learning_curves(table).axes
        if axis.get_title() == "accuracy"
    )
    assert (
        " ".join(accuracy.get_legend().get_title().get_text().split())
        == f"loss: {told}"
    )


def test_a_loss_that_became_nan_can_be_plotted():
    table = pd.DataFrame(
        {"epoch": [1, 2], "loss": np.nan, "val_loss": np.nan, "learning_rate": 0.001}
        | dict.fromkeys(("accuracy", "val_accuracy", "auc", "val_auc"), 0.5)
    )
    table.loc[0, "val_loss"] = 0.7
    plot_learning_curves(table)


@pytest.mark.parametrize("count", [1, 2])
def test_the_confusion_matrix_shows_counts_and_the_shares_of_each_row(count):
    matrix = np.array([[1150, 50], [30, 70]])
    figure = plot_confusion_matrix([matrix] * count, ["validation", "test"][:count])
    assert [axis.get_title() for axis in figure.axes] == ["validation", "test"][:count]
    for axis in figure.axes:
        assert texts(axis) == [
            "1,150\n95.8%",
            "50\n4.2%",
            "30\n30.0%",
            "70\n70.0%",
        ]  # row by row
        assert [text.get_text() for text in axis.get_yticklabels()] == [
            "NORMAL",
            "PNEUMONIA",
        ]
        assert (axis.get_xlabel(), axis.get_ylabel()) == (
            "the network's answer",
            "the label",
        )


def test_curves_tell_their_areas_and_a_dot_lies_where_the_threshold_does():
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=80)
    sets = {
        "validation": (labels, 0.4 * labels + generator.uniform(0, 0.6, 80)),
        "test": (labels, generator.uniform(0, 1, 80)),
    }
    figure = plot_roc_pr_curves(sets, 0.5)
    roc, pr = figure.axes
    assert labels_of(roc) == [
        f"{name}: AUC {sk.roc_auc_score(*one):.3f}" for name, one in sets.items()
    ]
    assert labels_of(pr) == [
        f"{name}: average precision {sk.average_precision_score(*one):.3f}"
        for name, one in sets.items()
    ]
    dots = [line.get_xydata()[0] for line in roc.lines if line.get_marker() == "o"]
    for dot, (_, said) in zip(dots, sets.values()):
        assert dot == pytest.approx(
            [np.mean(said[labels == 0] >= 0.5), np.mean(said[labels == 1] >= 0.5)]
        )
    dots = [line.get_xydata()[0] for line in pr.lines if line.get_marker() == "o"]
    for dot, (_, said) in zip(dots, sets.values()):
        assert dot == pytest.approx(
            [
                sk.recall_score(labels, said >= 0.5),
                sk.precision_score(labels, said >= 0.5),
            ]
        )


def test_reliability_shows_what_was_said_against_what_was_so():
    """Ten images at 0.25, of which 4 are sick; ten at 1, all of them: Wilson's interval goes from .168 to .687, and from .722 to 1."""
    said, labels = np.repeat([0.25, 1.0], 10), np.array([1] * 4 + [0] * 6 + [1] * 10)
    figure = plot_reliability(
        labels, {"as it was": said, "calibrated": np.clip(said, 0.25, 0.9)}
    )
    reliability, counts = figure.axes
    assert labels_of(reliability) == ["as it was", "calibrated"]
    points, _, (bars,) = reliability.containers[0].lines
    assert points.get_xydata() == pytest.approx(np.array([[0.25, 0.4], [1.0, 1.0]]))
    ends = np.array([[low[1], high[1]] for low, high in bars.get_segments()])
    assert ends == pytest.approx(np.array([[0.168, 0.687], [0.722, 1.0]]), abs=0.002)
    assert counts.get_yscale() == "log"


def test_the_worst_change_lies_at_the_bottom():
    table = pd.DataFrame(
        {
            "auc": [0.99, 0.7, 0.9],
            "sensitivity": [0.9, 0.8, 0.5],
            "specificity": [0.95, 0.4, 1.0],
        },
        ["unchanged", "noisy", "blurred"],
    )
    figure = plot_robustness(table)
    areas, shares = figure.axes
    assert [text.get_text() for text in areas.get_yticklabels()] == [
        "noisy",
        "blurred",
        "unchanged",
    ]
    assert (
        list(areas.lines[0].get_xdata()) == [0.7, 0.9, 0.99]
        and areas.get_ylim()[0] < areas.get_ylim()[1]
    )
    sensitivity, specificity = shares.lines
    assert list(sensitivity.get_xdata()) == [0.8, 0.5, 0.9] and list(
        specificity.get_xdata()
    ) == [0.4, 1.0, 0.95]
    assert (sensitivity.get_color(), specificity.get_color()) == ("#D55E00", "#0072B2")


def test_receptive_field_of_the_baseline_worked_out_by_hand():
    model = build_baseline(
        64
    )  # 3, 4, 8, 10, 18, 22, 38, 46: convolution and pooling in turn
    assert receptive_field(model, "conv1") == (3, 1)
    assert receptive_field(model, "pool2") == (10, 4)
    assert receptive_field(model, "pool4") == (46, 16)
    with pytest.raises(ValueError, match="no layer"):
        receptive_field(model, "conv9")


def test_receptive_field_of_a_residual_network_is_that_of_its_longest_way():
    """5 × 5 with stride 2, a pool of 2, then two blocks of two 3 × 3: 5 + 2 = 7, and four times 2 × 4; the shortcuts add nothing."""
    model = build_cnn(64)
    assert receptive_field(model, "stem_pool") == (7, 4)
    assert receptive_field(model, "stage1_block2_add") == (7 + 4 * 2 * 4, 4)


def test_no_pixel_outside_the_receptive_field_matters():
    model = build_baseline(96)
    maps = keras.Model(model.input, model.get_layer("pool4").output)
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (1, 96, 96, 1)).astype("float32")
    changed = x.copy()
    changed[:, 50:] = changed[:, :, 50:] = (
        0  # unit (2, 2) looks at 46 pixels from 17 to 62, unit (1, 1) from 1 to 46
    )
    before, after = maps.predict(x, verbose=0), maps.predict(changed, verbose=0)
    assert np.allclose(before[0, 1, 1], after[0, 1, 1], atol=1e-5) and not np.allclose(
        before[0, 2, 2], after[0, 2, 2], atol=1e-3
    )


def test_the_architecture_names_each_stage_once_with_its_shape():
    figure = plot_architecture(build_baseline(64))
    axis = figure.axes[0]
    shapes, kinds = texts(axis)[::2], texts(axis)[1::2]
    assert shapes == [
        "64×64×1",
        "64×64×32",
        "32×32×32",
        "32×32×64",
        "16×16×64",
        "8×8×64",
        "8×8×128",
        "4×4×128",
        "2048",
        "128",
        "1",
    ]
    assert (
        kinds[:3] == ["Rescaling", "Conv", "MaxPooling"]
        and kinds[4] == "MaxPooling\nConv"
        and kinds[-1] == "Dense\nActivation"
    )
    assert not [patch for patch in axis.patches if isinstance(patch, Arc)]


def test_each_residual_block_has_its_box_and_an_arc_over_it():
    model = build_cnn(64)
    axis = plot_architecture(model).axes[0]
    shapes, kinds = texts(axis)[::2], texts(axis)[1::2]
    assert shapes == [
        "64×64×1",
        "32×32×32",
        "16×16×32",
        "16×16×32",
        "16×16×32",
        "8×8×64",
        "8×8×64",
        "4×4×128",
        "4×4×128",
        "4×4×192",
        "192",
        "1",
    ]
    assert kinds[2] == "MaxPooling" and set(kinds[3:9]) == {
        "Conv ×2\nBatchNorm ×2\nReLU ×2\nAdd"
    }
    arcs = [patch for patch in axis.patches if isinstance(patch, Arc)]
    assert (
        len(arcs)
        == sum(isinstance(layer, keras.layers.Add) for layer in model.layers)
        == 7
    )
    places = [text.get_position()[0] for text in axis.texts[::2]]
    for number, arc in enumerate(
        arcs, 3
    ):  # from the gap before the block's box to the gap behind it
        left, right = arc.center[0] - arc.width / 2, arc.center[0] + arc.width / 2
        assert [place for place in places if left < place < right] == [places[number]]


def test_a_shortcut_over_two_maps_is_drawn_over_both():
    inputs = keras.Input((16, 16, 1))
    start = keras.layers.Conv2D(4, 3, padding="same", name="start")(inputs)
    x = keras.layers.Conv2D(8, 3, padding="same")(start)
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    axis = plot_architecture(keras.Model(inputs, keras.layers.Add()([x, start]))).axes[
        0
    ]
    (arc,) = [patch for patch in axis.patches if isinstance(patch, Arc)]
    first, *under = [text.get_position()[0] for text in axis.texts[::2]]
    assert texts(axis)[::2] == ["16×16×4", "16×16×8", "16×16×4"]
    assert (
        first < arc.center[0] - arc.width / 2 < under[0]
        and under[-1] < arc.center[0] + arc.width / 2
    )


def test_pictures_of_one_size_only_can_be_plotted():
    sizes, ratio = plot_aspect_ratios(FILES.assign(width=224, height=224)).axes
    assert (
        len(sizes.collections) >= 1 and len(ratio.patches) + len(ratio.collections) > 0
    )
