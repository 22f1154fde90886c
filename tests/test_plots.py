"""Figures show what they are given, and label phantoms wherever they are shown."""

import warnings

import cv2
import keras
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Arc
from sklearn import metrics as sk

from cxr.labels import image_label, label_colors
from cxr.models import build_baseline, build_cnn, receptive_field
from cxr.plots import (
    describe_loss_gap,
    display_name,
    drop_outliers,
    plot_adaptation,
    plot_architecture,
    plot_aspect_ratios,
    plot_class_balance,
    plot_confusion_matrix,
    plot_grad_cam,
    plot_images,
    plot_images_per_patient,
    plot_learning_curves,
    plot_model_comparison,
    plot_reliability,
    plot_robustness,
    plot_roc_pr_curves,
    plot_runs,
    plot_small_validation_sets,
    set_plot_style,
    show_figure,
)
from cxr.storage import StorageError

FILES = pd.DataFrame(
    {
        "folder": ["train"] * 6 + ["test"] * 3,
        "label": [0, 1, 1, 1, 1, 1, 0, 0, 1],
        "finding": ["normal"]
        + ["bacterial"] * 3
        + ["viral"] * 2
        + ["normal", "normal", "viral"],
        "patient": list("aabcddefg"),
        "width": [120, 150, 160, 150, 140, 170, 110, 130, 1000],
        "height": 100,
    }
)


@pytest.fixture(autouse=True)
def close_figures():
    """What a test draws is drawn in full, without a warning, and closed."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # among libraries
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    plt.close("all")


def texts(axis):
    return [text.get_text() for text in axis.texts]


def legend_labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def panels(figure):
    """Return {first line of its title: axis}."""
    return {axis.get_title().split("\n")[0]: axis for axis in figure.axes}


def make_history(**columns):
    """Return a history of training in which all metrics but these are constant."""
    constant = dict.fromkeys(("accuracy", "val_accuracy", "auc", "val_auc"), 0.9)
    columns = constant | {"learning_rate": 0.001} | columns
    return pd.DataFrame(columns | {"epoch": range(1, len(columns["loss"]) + 1)})


def test_the_style_does_not_depend_on_the_users_configuration(tmp_path):
    """As from a matplotlibrc of the user's own."""
    mpl.rcdefaults()
    set_plot_style()
    expected = dict(mpl.rcParams)
    backend = mpl.get_backend()
    mpl.rcParams.update(
        {
            "image.origin": "lower",
            "savefig.facecolor": "black",
            "text.usetex": True,
            "axes.grid": False,
            "figure.dpi": 30,
            "lines.linewidth": 9,
        }
    )
    set_plot_style()
    assert dict(mpl.rcParams) == expected and mpl.get_backend() == backend
    assert (mpl.rcParams["figure.dpi"], mpl.rcParams["axes.titlesize"]) == (100, 11)
    image = np.zeros((9, 9), np.uint8)
    image[:4] = 255  # the upper part is bright
    show_figure(plot_images([image], ["a"], 1), "upright", "A title", tmp_path, "own")
    saved = cv2.imread(str(tmp_path / "upright.png"), cv2.IMREAD_GRAYSCALE)
    assert saved[0, 0] == 255  # the background
    middle = saved[:, saved.shape[1] // 2]
    dark = np.flatnonzero(middle == 0)
    assert dark.mean() > len(middle) / 2


@pytest.mark.parametrize(
    ("data_kind", "labeled"),
    [("phantom", True), ("chest-xray-pneumonia", False), ("own", False)],
)
def test_phantoms_are_labeled_and_others_are_not(
    tmp_path, monkeypatch, data_kind, labeled
):
    shown = []
    monkeypatch.setattr("cxr.plots.display", shown.append)
    figure, axis = plt.subplots()
    axis.plot([0, 1])
    show_figure(figure, "curves", "The title", tmp_path / "out/figures", data_kind)
    labels = [text.get_text() for text in figure.texts if "PHANTOM" in text.get_text()]
    assert bool(labels) == labeled
    assert all("show no patient" in label for label in labels)
    [image] = shown
    assert image.data == (tmp_path / "out/figures/curves.png").read_bytes()
    assert not plt.get_fignums()
    assert figure.get_suptitle() == "The title"
    saved = cv2.imread(str(tmp_path / "out/figures/curves.png"))
    red = np.all(saved == (0x20, 0, 0xB0), axis=2)  # the label is below the axes
    assert red.any() == labeled


@pytest.mark.parametrize("figure_of", [plot_learning_curves, plot_reliability])
def test_the_label_of_phantoms_hides_no_legend(tmp_path, figure_of):
    set_plot_style()
    if figure_of is plot_learning_curves:
        figure = plot_learning_curves(
            make_history(loss=[0.6, 0.4], val_loss=[0.7, 0.5])
        )
    else:
        labels = np.array([0, 1])
        figure = plot_reliability(labels, {"before": labels * 0.5, "after": labels})
    show_figure(figure, "curves", "The title", tmp_path, "phantom")
    [legend] = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    [label] = [text for text in figure.texts if "PHANTOM" in text.get_text()]
    bottom = legend.get_window_extent().transformed(figure.transFigure.inverted()).y0
    assert bottom > label.get_position()[1]


def test_a_full_disk_and_a_file_in_place_of_the_folder_are_named(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/curves.png").symlink_to("/dev/full")
    with pytest.raises(
        StorageError, match=f"^{tmp_path}/figures is full: free some space"
    ):
        show_figure(plt.figure(), "curves", "A title", tmp_path / "figures", "own")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=f"^{tmp_path}/file cannot be written"):
        show_figure(plt.figure(), "curves", "A title", tmp_path / "file", "own")


def test_images_are_named_after_their_data_set():
    assert image_label("phantom") == "phantom radiographs"
    assert image_label("chest-xray-pneumonia") == "chest radiographs"
    assert image_label("own") == "images"


def test_each_class_has_its_color():
    assert label_colors([1, 0]) == ["#D55E00", "#0072B2"]


@pytest.mark.parametrize(
    "key, name",
    [
        ("residual_cnn", "residual CNN"),
        ("auc_bias_conflicting", "validation AUC, bias-conflicting"),
        ("half_contrast", "half contrast"),
    ],
)
def test_keys_are_shown_as_words(key, name):
    assert display_name(key) == name


def test_images_keep_their_limits_and_leave_no_empty_frame():
    integers = np.full((4, 4, 1), 200, np.uint8)
    floats = np.full((1, 4, 4, 1), 0.5, np.float32)
    figure = plot_images(
        [integers, floats, integers],
        ["a", "b", "c"],
        columns=2,
        colors=["#D55E00", "black", "#0072B2"],
    )
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", ""]
    limits = [axis.images[0].get_clim() for axis in figure.axes[:3]]
    assert limits == [(0, 255), (0, 1), (0, 255)]
    assert not any(axis.axison for axis in figure.axes)
    assert figure.axes[0].title.get_color() == "#D55E00"


def test_bars_show_the_counts_and_the_findings_of_each_folder():
    counts, mix = plot_class_balance(FILES).axes
    assert sorted(texts(counts)) == ["1", "1", "2", "5"]
    assert legend_labels(counts) == ["NORMAL", "PNEUMONIA"]
    heights = {
        to_hex(bars[0].get_facecolor()).upper(): [bar.get_height() for bar in bars]
        for bars in counts.containers
    }
    assert heights == {"#0072B2": [1, 2], "#D55E00": [5, 1]}
    assert counts.get_ylim()[0] == 0
    # None is unknown.
    assert set(legend_labels(mix)) == {"normal", "bacterial", "viral"}
    fractions = {
        bars.get_label(): [bar.get_height() for bar in bars] for bars in mix.containers
    }
    assert fractions["normal"] == pytest.approx([1 / 6, 2 / 3])
    assert fractions["bacterial"] == pytest.approx([1 / 2, 0])
    tops = [bar.get_y() + bar.get_height() for bar in mix.containers[-1]]
    assert tops == pytest.approx([1, 1])


def test_aspect_ratios_show_every_image_and_an_extreme_one_too():
    sizes, ratios = plot_aspect_ratios(FILES).axes
    assert legend_labels(sizes) == ["NORMAL", "PNEUMONIA"]
    assert sorted(sizes.collections[0].get_offsets()[:, 0]) == sorted(FILES.width)
    assert ratios.get_xlim()[1] > 10
    assert sizes.get_xlim()[0] == sizes.get_ylim()[0] == 0


def test_images_of_one_size_only_can_be_plotted():
    sizes, ratios = plot_aspect_ratios(FILES.assign(width=224, height=224)).axes
    assert len(sizes.collections) >= 1
    assert len(ratios.patches) + len(ratios.collections) > 0


def test_patients_are_counted_by_their_images():
    axis = plot_images_per_patient(FILES).axes[0]
    assert axis.get_yscale() == "log"
    heights = {
        round(bar.get_x() + bar.get_width() / 2): bar.get_height()
        for bar in axis.patches
    }
    assert heights == {1: 5, 2: 2}


def test_small_validation_sets_follow_the_binomial_distribution():
    """At an accuracy of 80%: 5 to 10 of 10 images, and 304 to 335 of 400."""
    figure = plot_small_validation_sets((10, 400), np.arange(1000) % 5 > 0, 0)
    small, large = figure.axes
    assert small.get_title().startswith("10 images")
    assert "50% to 100%" in small.get_title()
    heights = {
        round(bar.get_x() + bar.get_width() / 2, 2): bar.get_height()
        for bar in small.patches
    }
    assert heights[0.8] == pytest.approx(0.302, abs=0.02)  # the binomial's
    assert sum(heights.values()) == pytest.approx(1)
    assert large.get_title().startswith("400 images")
    assert "76% to 84%" in large.get_title()


@pytest.mark.parametrize("epochs", [1, 4])
def test_learning_curves_mark_the_epoch_of_the_lowest_validation_loss(epochs):
    history = make_history(
        loss=[0.6, 0.4, 0.3, 0.2][:epochs], val_loss=[0.7, 0.5, 0.6, 0.9][:epochs]
    )
    figure = plot_learning_curves(history)
    by_title = panels(figure)
    assert {"loss", "accuracy", "AUC"} <= set(by_title)
    training, validation, best = by_title["loss"].lines
    assert (training.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    [labels] = [legend_labels(axis) for axis in figure.axes if axis.get_legend()]
    assert labels[:2] == ["training", "validation"]
    assert f"epoch {min(2, epochs)}" in labels[2]
    assert list(validation.get_ydata()) == history.val_loss.tolist()
    assert best.get_xdata()[0] == min(2, epochs)
    assert f"epoch {min(2, epochs)}" in by_title["AUC"].get_title()
    assert by_title["loss"].get_ylim()[0] == 0
    figure.draw_without_rendering()
    for axis in (by_title["accuracy"], by_title["AUC"]):
        numbers = [tick.get_text() for tick in axis.get_xticklabels()]
        assert {str(epoch) for epoch in range(1, epochs + 1)} <= set(numbers)
    # A line of one point cannot be seen, nor whether it is dashed.
    assert training.get_marker() == ("o" if epochs == 1 else "None")
    fill_styles = (training.get_fillstyle(), validation.get_fillstyle())
    assert fill_styles == ("full", "none")


def test_a_loss_that_exploded_does_not_flatten_the_others():
    history = make_history(loss=[0.6, 0.4], val_loss=[500, 0.5])
    axis = panels(plot_learning_curves(history))["loss"]
    assert 0.6 < axis.get_ylim()[1] < 5


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        # The gap, .58, is wider than what is left, .1.
        ([0.9, 0.27, 0.85, 0.95], [0.85, 0.9, 0.95]),
        # A climb has no such gap.
        (
            [0.62, 0.72, 0.85, 0.89, 0.9, 0.95, 0.99, 1.0],
            [0.62, 0.72, 0.85, 0.89, 0.9, 0.95, 0.99, 1.0],
        ),
        # Two of eight at most.
        ([3, 0.5, 0.4, 450, 0.3, 0.35, 0.6, 500], [0.3, 0.35, 0.4, 0.5, 0.6, 3]),
        ([0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 7], [0.9] * 6),
        ([0.9, 0.9, 0.9, 0.86], [0.86, 0.9, 0.9, 0.9]),
        ([0.5, 0.9], [0.5, 0.9]),
        ([np.nan, 0.5, np.inf], [0.5]),
        ([np.nan, np.nan], []),
    ],
)
def test_outliers_are_cut_off_by_a_gap_wider_than_all_the_rest(values, kept):
    assert drop_outliers(np.array(values)).tolist() == kept


def test_an_outlier_sets_no_limits_but_is_marked_with_its_value():
    history = make_history(
        loss=[0.6, 0.4, 0.3, 0.2],
        val_loss=[0.5, 0.4, 9, 0.3],
        accuracy=[0.8, 0.85, 0.9, 0.92],
        val_accuracy=[0.82, 0.31, 0.9, 0.91],
    )
    by_title = panels(plot_learning_curves(history))
    accuracy = by_title["accuracy"]
    low, high = accuracy.get_ylim()
    assert 0.75 < low < 0.8 and 0.92 < high < 1
    assert texts(accuracy) == ["0.31"]
    assert accuracy.collections[0].get_offsets().tolist() == [[2, low]]
    # The line still goes there.
    assert list(accuracy.lines[1].get_ydata()) == [0.82, 0.31, 0.9, 0.91]
    loss = by_title["loss"]
    assert loss.get_ylim()[0] == 0 and 0.6 < loss.get_ylim()[1] < 0.7
    assert texts(loss) == ["9"]
    assert not by_title["AUC"].collections and not texts(by_title["AUC"])


@pytest.mark.parametrize(
    ("val_loss", "words"),
    [
        ([0.7, 0.3, 0.6, 0.9], "above training from epoch 3"),
        ([0.7, 0.5, 0.6, 0.1], "not above"),
        ([0.7, 0.5, 0.4, 0.3], "above training from epoch 1"),
    ],
)
def test_the_title_says_since_when_validation_is_worse(val_loss, words):
    history = make_history(loss=[0.6, 0.4, 0.3, 0.2], val_loss=val_loss)
    assert words in describe_loss_gap(history)
    loss = panels(plot_learning_curves(history))["loss"]
    assert describe_loss_gap(history) in loss.get_title()


@pytest.mark.parametrize("val_loss", [[0.7, np.nan], [np.nan, np.nan]])
def test_a_loss_that_became_nan_can_be_plotted(val_loss):
    plot_learning_curves(make_history(loss=[np.nan, np.nan], val_loss=val_loss))


@pytest.mark.parametrize("count", [1, 2])
def test_the_confusion_matrix_shows_counts_and_row_percentages(count):
    matrix = np.array([[1150, 50], [30, 70]])
    titles = ["validation", "test"][:count]
    figure = plot_confusion_matrix([matrix] * count, titles)
    assert [axis.get_title() for axis in figure.axes] == titles
    for axis in figure.axes:
        assert texts(axis) == [
            "true negatives\n1,150\n95.8%",
            "false positives\n50\n4.2%",
            "false negatives\n30\n30.0%",
            "true positives\n70\n70.0%",
        ]
        names = [text.get_text() for text in axis.get_yticklabels()]
        assert names == ["NORMAL", "PNEUMONIA"]
        assert "predicted" in axis.get_xlabel() and "true" in axis.get_ylabel()


def draw_labels_and_scores(separation, seed, n=80):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=n)
    noise = generator.uniform(0, 1 - separation, n)
    return labels, separation * labels + noise


def dots_of(axis):
    return [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o"]


def test_curves_show_their_areas_and_dots_at_the_threshold():
    datasets = {
        "validation": draw_labels_and_scores(0.4, 0),
        "test": draw_labels_and_scores(0, 1),
    }
    roc, pr = plot_roc_pr_curves(datasets, 0.5).axes
    for axis, score in ((roc, sk.roc_auc_score), (pr, sk.average_precision_score)):
        *sets, open_dot, filled_dot = legend_labels(axis)
        assert [open_dot, filled_dot] == [
            f"{name} at threshold 0.500" for name in datasets
        ]
        for label, (name, dataset) in zip(sets, datasets.items(), strict=True):
            assert label.startswith(name) and label.endswith(f"{score(*dataset):.3f}")
    for roc_dot, pr_dot, (labels, scores) in zip(
        dots_of(roc), dots_of(pr), datasets.values(), strict=True
    ):
        predicted = scores >= 0.5
        recall = sk.recall_score(labels, predicted)
        false_positive_rate = np.mean(predicted[labels == 0])
        assert roc_dot == pytest.approx([false_positive_rate, recall])
        precision = sk.precision_score(labels, predicted)
        assert pr_dot == pytest.approx([recall, precision])
    assert roc.get_xlim()[1] > 1 and pr.get_ylim()[0] == 0  # the whole curves


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_curves_of_good_models_fill_the_axes_and_show_the_threshold(threshold):
    datasets = {
        "validation": draw_labels_and_scores(0.45, 0),
        "test": draw_labels_and_scores(0.42, 1),
    }
    assert all(sk.roc_auc_score(*dataset) > 0.95 for dataset in datasets.values())
    roc, pr = plot_roc_pr_curves(datasets, threshold).axes
    for axis in (roc, pr):
        assert "corner" in axis.get_title()
        for x, y in dots_of(axis):
            assert axis.get_xlim()[0] <= x <= axis.get_xlim()[1]
            assert axis.get_ylim()[0] <= y <= axis.get_ylim()[1]
    assert roc.get_xlim()[1] <= 1 and roc.get_ylim()[0] == 1 - roc.get_xlim()[1]


def test_reliability_compares_predicted_probabilities_with_observed_fractions():
    """Ten images at .25, of which 4 are positive, and ten at 1, all positive.

    Wilson's intervals are .168 to .687 and .722 to 1.
    """
    probabilities = np.repeat([0.25, 1.0], 10)
    labels = np.array([1] * 4 + [0] * 6 + [1] * 10)
    calibrated = np.clip(probabilities, 0.25, 0.9)
    figure = plot_reliability(
        labels, {"before": probabilities, "calibrated": calibrated}
    )
    diagram, counts, legend = figure.axes
    assert legend_labels(legend) == ["before", "calibrated"]
    points, _, (bars,) = diagram.containers[0].lines
    assert points.get_xydata() == pytest.approx(np.array([[0.25, 0.4], [1.0, 1.0]]))
    ends = np.array([[low[1], high[1]] for low, high in bars.get_segments()])
    assert ends == pytest.approx(np.array([[0.168, 0.687], [0.722, 1.0]]), abs=0.002)
    assert counts.get_yscale() == "log"
    # The second curve lies over the first one, which is still seen where they agree.
    after = diagram.containers[1].lines[0]
    assert points.get_linewidth() > after.get_linewidth()
    assert points.get_markersize() > after.get_markersize()
    assert points.get_color() != after.get_color()


def test_the_worst_perturbation_is_at_the_bottom():
    table = pd.DataFrame(
        {
            "auc": [0.99, 0.7, 0.9],
            "sensitivity": [0.9, 0.8, 0.5],
            "specificity": [0.95, 0.4, 1.0],
        },
        ["unchanged", "half_contrast", "blurred"],
    )
    areas, rates = plot_robustness(table).axes
    names = [text.get_text() for text in areas.get_yticklabels()]
    assert names == ["half contrast", "blurred", "unchanged"]
    values, reference = areas.lines
    assert list(values.get_xdata()) == [0.7, 0.9, 0.99]
    assert set(reference.get_xdata()) == {0.99}
    assert areas.get_ylim()[0] < areas.get_ylim()[1]
    sensitivity, specificity = rates.lines[:2]
    assert list(sensitivity.get_xdata()) == [0.8, 0.5, 0.9]
    assert list(specificity.get_xdata()) == [0.4, 1.0, 0.95]
    assert sensitivity.get_color() == "#D55E00"
    assert specificity.get_color() == "#0072B2"


def test_perturbations_can_be_plotted_without_the_unchanged_images():
    table = pd.DataFrame(
        {"auc": [0.7], "sensitivity": [0.8], "specificity": [0.4]}, ["blurred"]
    )
    areas, _ = plot_robustness(table).axes
    assert len(areas.lines) == 1


def test_models_and_columns_are_compared_under_their_names():
    estimate = {"value": 0.9, "low": 0.85, "high": 0.95}
    row = {"auc": estimate, "auc_bias_conflicting": estimate, "test_auc": estimate}
    models = {"linear_border": row, "residual_cnn": row}
    colors = dict(zip(row, ("#888888", "#0072B2", "#D55E00")))
    axis = plot_model_comparison(models, colors).axes[0]
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["linear model of the border", "residual CNN"]
    assert legend_labels(axis) == [
        "validation AUC",
        "validation AUC, bias-conflicting",
        "test AUC",
    ]
    for container, color in zip(axis.containers, colors.values(), strict=True):
        points, _, (bars,) = container.lines
        assert points.get_color() == color
        for segment in bars.get_segments():
            assert segment[:, 0] == pytest.approx([0.85, 0.95])


def test_each_outcome_has_its_row_of_images_and_maps():
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (3, 8, 8, 1), np.uint8)
    heatmaps = np.zeros((3, 8, 8))
    heatmaps[:, 2, 2] = 1
    captions = ["true positive: 0.9", "true positive: 0.8", "true negative: 0.1"]
    figure = plot_grad_cam(x, heatmaps, captions, ["#D55E00", "#D55E00", "#0072B2"])
    *cells, color_bar = figure.axes
    titles = np.array([axis.get_title() for axis in cells]).reshape(2, 3)
    assert titles.tolist() == [
        ["true positive: 0.9", "true positive: 0.8", ""],
        ["true negative: 0.1", "", ""],
    ]
    assert color_bar.get_ylim() == (0, 1)
    for axis, image in zip((cells[0], cells[1], cells[3]), x[..., 0]):
        pair, overlay = axis.images
        assert pair.get_clim() == (0, 255) and overlay.get_clim() == (0, 1)
        # On the left the plain image, on the right the same one under the map.
        for part in (slice(None, 8), slice(-8, None)):
            assert np.array_equal(pair.get_array()[:, part], image)
        alpha = overlay.cmap(overlay.norm(overlay.get_array()))[..., 3]
        assert (alpha[:, :-8] == 0).all()
        assert alpha[2, -6] > 0.5 and np.count_nonzero(alpha) == 1


def make_record(name, auc, exclusion_reason=""):
    history = make_history(loss=[0.6, 0.4, 0.3], val_loss=[0.6, 0.4, 0.5])
    return {
        "name": name,
        "reference": "first",
        "exclusion_reason": exclusion_reason,
        "validation": {"auc": {"value": auc, "low": auc - 0.01, "high": auc + 0.01}},
        "history": history,
    }


def test_runs_are_drawn_with_their_differences_unless_they_are_excluded():
    records = [
        make_record("second", 0.97),
        make_record("first", 0.96),
        make_record("other", 0.9, "other images"),
    ]
    difference = {"value": 0.01, "low": 0.005, "high": 0.015}
    figure = plot_runs(records, {"second": {"auc": difference}})
    scores, gains, loss, _ = figure.axes
    names = [text.get_text() for text in scores.get_yticklabels()]
    assert names == ["first", "second"]  # from the bottom
    assert [line.get_xdata()[1] for line in scores.lines] == [0.96, 0.97]
    drawn, zero = gains.lines
    assert list(drawn.get_xdata()) == [0.005, 0.01, 0.015]
    assert set(zero.get_xdata()) == {0}
    reference, other = loss.lines
    assert reference.get_color() == "black"
    assert reference.get_linewidth() > other.get_linewidth()


def test_receptive_field_of_the_baseline_worked_out_by_hand():
    # 3, 4, 8, 10, 18, 22, 38, 46: convolution and pooling in turn.
    model = build_baseline(64)
    assert receptive_field(model, "conv1") == (3, 1)
    assert receptive_field(model, "pool2") == (10, 4)
    assert receptive_field(model, "pool4") == (46, 16)
    with pytest.raises(ValueError, match="no layer"):
        receptive_field(model, "conv9")


def test_receptive_field_of_a_residual_network_is_that_of_its_longest_path():
    """5 × 5 with stride 2 and a pool of 2: 5 + 2 = 7; four 3 × 3 add 2 × 4 each.

    The shortcuts add nothing.
    """
    model = build_cnn(64)
    assert receptive_field(model, "stem_pool") == (7, 4)
    assert receptive_field(model, "stage1_block2_add") == (7 + 4 * 2 * 4, 4)


def test_no_pixel_outside_the_receptive_field_matters():
    model = build_baseline(96)
    maps = keras.Model(model.input, model.get_layer("pool4").output)
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (1, 96, 96, 1)).astype("float32")
    # Unit (2, 2) sees 46 pixels from 17 to 62, unit (1, 1) those from 1 to 46.
    changed = x.copy()
    changed[:, 50:] = 0
    changed[:, :, 50:] = 0
    before = maps.predict(x, verbose=0)
    after = maps.predict(changed, verbose=0)
    assert np.allclose(before[0, 1, 1], after[0, 1, 1], atol=1e-5)
    assert not np.allclose(before[0, 2, 2], after[0, 2, 2], atol=1e-3)


def test_the_architecture_names_each_stage_once_with_its_shape():
    axis = plot_architecture(build_baseline(64)).axes[0]
    shapes = texts(axis)[::2]
    kinds = texts(axis)[1::2]
    assert shapes == [
        "64×64×1",
        "64×64×32",
        "32×32×32",
        "32×32×64",
        "16×16×64",
        "16×16×64",
        "8×8×64",
        "8×8×128",
        "4×4×128",
        "2048",
        "128",
        "1",
    ]
    assert kinds[:3] == ["Rescaling", "Conv", "MaxPooling"]
    assert kinds[4:6] == ["MaxPooling", "Conv"] and kinds[-1] == "Dense\nActivation"
    assert not [patch for patch in axis.patches if isinstance(patch, Arc)]


def test_boxes_are_as_wide_as_their_channels_and_bars_as_high_as_their_units():
    axis = plot_architecture(build_baseline(64)).axes[0]
    boxes = axis.patches
    widths = [box.get_width() for box in boxes[::3][:9]]  # three to a feature map
    channels = [1, 32, 32, 64, 64, 64, 64, 128, 128]
    steps = np.diff(widths) / np.where(np.diff(channels), np.diff(channels), 1)
    assert steps[np.diff(channels) > 0] == pytest.approx(steps[0])
    assert not steps[np.diff(channels) == 0].any()
    flatten, dense, output = [bar.get_height() for bar in boxes[-3:]]
    assert flatten > 1.3 * dense > 5 * output


def test_each_residual_block_has_its_box_and_an_arc_over_it():
    model = build_cnn(64)
    axis = plot_architecture(model).axes[0]
    shapes = texts(axis)[::2]
    kinds = texts(axis)[1::2]
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
    assert kinds[0] == "Rescaling\nLocal mean\nLayerNorm"
    assert kinds[2] == "MaxPooling"
    assert set(kinds[3:9]) == {"Conv ×2\nBatchNorm ×2\nReLU ×2\nAdd"}
    arcs = [patch for patch in axis.patches if isinstance(patch, Arc)]
    adds = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert len(arcs) == len(adds) == 7
    places = [text.get_position()[0] for text in axis.texts[::2]]
    # From the gap before the box of the block to the gap behind it.
    for number, arc in enumerate(arcs, 3):
        left = arc.center[0] - arc.width / 2
        right = arc.center[0] + arc.width / 2
        assert [place for place in places if left < place < right] == [places[number]]


def test_a_shortcut_over_two_feature_maps_is_drawn_over_both():
    inputs = keras.Input((16, 16, 1))
    start = keras.layers.Conv2D(4, 3, padding="same", name="start")(inputs)
    x = keras.layers.Conv2D(8, 3, padding="same")(start)
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    model = keras.Model(inputs, keras.layers.Add()([x, start]))
    axis = plot_architecture(model).axes[0]
    assert texts(axis)[::2] == ["16×16×4", "16×16×8", "16×16×4"]
    [arc] = [patch for patch in axis.patches if isinstance(patch, Arc)]
    first, *under = [text.get_position()[0] for text in axis.texts[::2]]
    assert first < arc.center[0] - arc.width / 2 < under[0]
    assert under[-1] < arc.center[0] + arc.width / 2


def test_the_adaptation_of_a_threshold_is_drawn_with_its_range():
    table = pd.DataFrame(
        {"value": [0.8, 0.9], "low": [0.8, 0.85], "high": [0.8, 0.95]}, index=[0, 10]
    )
    (axis,) = plot_adaptation(table).axes
    assert axis.lines[0].get_ydata().tolist() == [0.8, 0.9]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "10"]
    corners = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.min() == 0.8 and corners.max() == 0.95
