"""Models side by side, on bias-aligned and bias-conflicting images."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cxr.model_comparison import (
    bias_conflicting_mask,
    bias_subgroups,
    compare_models,
    compare_on_conflicting,
    describe_bias_gap,
    describe_choice,
    describe_order_agreement,
    describe_releases,
    release_subgroups,
)
from cxr.plots import plot_hundred_children, plot_model_comparison

SETTINGS = SimpleNamespace(BOOTSTRAP_SAMPLES=50, SEED=0)


def test_conflicting_images_look_most_like_the_other_class():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.9, 0.2, 0.6, 0.8, 0.3, 0.95, 0.7])
    assert np.flatnonzero(bias_conflicting_mask(labels, scores)).tolist() == [1, 5]
    half = bias_conflicting_mask(labels, scores, 0.5)
    assert np.flatnonzero(half).tolist() == [1, 3, 5, 7]
    assert bias_conflicting_mask(labels[:5], scores[:5])[4]  # at least one a class


@pytest.fixture(scope="module")
def models():
    """A model of a shortcut, and one of the lungs that is right in 90% of images."""
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    shortcut = np.clip(labels + generator.normal(0, 0.6, 400), -1, 2)
    is_correct = generator.random(400) < 0.9
    lungs = np.where(is_correct, labels, 1 - labels) + generator.normal(0, 0.01, 400)
    predictions = {"linear_border": shortcut, "residual_cnn": lungs}
    columns = bias_subgroups(bias_conflicting_mask(labels, shortcut))
    thresholds = dict.fromkeys(predictions, 0.5)
    models = compare_models(
        labels, predictions, thresholds, np.arange(400), columns, SETTINGS
    )
    accuracy = np.mean((lungs >= 0.5) == labels)
    assert models["residual_cnn"]["accuracy"]["value"] == pytest.approx(accuracy)
    return models


def test_a_model_of_a_shortcut_fails_on_conflicting_images(models):
    shortcut = models["linear_border"]
    assert shortcut["auc_bias_conflicting"]["value"] < 0.3
    assert shortcut["auc_bias_aligned"]["value"] > 0.95


def test_a_model_of_the_lungs_does_not_depend_on_the_shortcut(models):
    lungs = models["residual_cnn"]
    gap = lungs["auc_bias_aligned"]["value"] - lungs["auc_bias_conflicting"]["value"]
    assert gap == pytest.approx(0, abs=0.08)


def test_the_sentence_names_the_largest_and_the_smallest_gap(models):
    text = describe_bias_gap(models)
    assert "most for the linear model of the border" in text
    assert "highest for the residual CNN" in text


def test_every_metric_of_every_model_is_drawn(models):
    columns = ("auc", "auc_bias_conflicting")
    figure = plot_model_comparison(models, dict(zip(columns, ("black", "red"))))
    for container, column in zip(figure.axes[0].containers, columns, strict=True):
        values = [models[name][column]["value"] for name in models]
        assert list(container[0].get_xdata()) == values
    plt.close(figure)


def test_subgroups_of_the_releases_are_those_of_the_images():
    kaggle_only = np.array([True, True, False, False, False, False])
    labels = np.array([0, 0, 0, 0, 1, 1])
    probabilities = np.array([0.9, 0.1, 0.2, 0.1, 0.8, 0.7])
    columns = release_subgroups(kaggle_only)
    models = compare_models(
        labels, {"a": probabilities}, {"a": 0.5}, np.arange(6), columns, SETTINGS
    )
    values = {column: estimate["value"] for column, estimate in models["a"].items()}
    assert values == pytest.approx(
        {
            "test_auc": 6 / 8,
            "test_accuracy": 5 / 6,
            "test_sensitivity": 1,
            "test_specificity": 0.75,
            "test_auc_both_releases": 1,
            "test_specificity_kaggle_only": 0.5,
        }
    )


def test_the_columns_are_the_same_where_no_image_is_in_one_release_only():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([0.1, 0.2, 0.7, 0.8])
    columns = release_subgroups(np.zeros(4, bool))
    models = compare_models(
        labels, {"a": probabilities}, {"a": 0.5}, np.arange(4), columns, SETTINGS
    )
    assert list(columns) == list(release_subgroups(np.ones(4, bool)))
    estimate = models["a"]["test_specificity_kaggle_only"]
    assert np.isnan(list(estimate.values())).all()
    assert models["a"]["test_auc_both_releases"] == models["a"]["test_auc"]


def test_two_images_are_enough():
    """One a class, both of them bias-conflicting: no image is bias-aligned."""
    labels = np.array([0, 1])
    probabilities = np.array([0.3, 0.6])
    columns = bias_subgroups(bias_conflicting_mask(labels, probabilities))
    models = compare_models(
        labels,
        {"linear_border": probabilities, "residual_cnn": 1 - probabilities},
        {"linear_border": 0.5, "residual_cnn": 0.5},
        ["a", "b"],
        columns,
        SETTINGS,
    )
    aligned = models["linear_border"]["auc_bias_aligned"]
    assert np.isnan(list(aligned.values())).all()
    assert models["linear_border"]["auc_bias_conflicting"]["value"] == 1
    assert "cannot be compared" in describe_bias_gap(models)
    figure = plot_model_comparison(models, {"auc_bias_aligned": "black"})
    figure.canvas.draw()
    plt.close(figure)


def estimates(**values):
    return {column: {"value": value} for column, value in values.items()}


def test_agreement_with_the_order_on_test_is_counted_in_pairs():
    """Validation has one of three pairs wrong; the conflicting images have none."""
    models = {
        "a": estimates(auc=0.99, auc_bias_conflicting=0.5, test_auc=0.8),
        "b": estimates(auc=0.98, auc_bias_conflicting=0.7, test_auc=0.9),
        "c": estimates(auc=0.9, auc_bias_conflicting=0.4, test_auc=0.6),
    }
    text = describe_order_agreement(models)
    assert "2 of 3" in text.partition(",")[2] and "3 of 3" in text
    assert text.index("2 of 3") < text.index("3 of 3")
    models["d"] = estimates(auc=np.nan, auc_bias_conflicting=0.1, test_auc=0.5)
    assert describe_order_agreement(models) == text  # undefined pairs do not count


def test_a_hundred_children_are_a_hundred_dots():
    """Of 5 with pneumonia, four fifths are 4; of 95 without, a fifth are 19."""
    figure, _ = plot_hundred_children(0.8, 0.8)
    positives = (50, 20, 5)
    alarms = ((40, 10), (16, 16), (4, 19))
    for axis, positive, expected in zip(figure.axes, positives, alarms):
        dots = [
            (line.get_color(), line.get_fillstyle(), len(line.get_xdata()))
            for line in axis.lines
        ]
        assert sum(count for _, _, count in dots) == 100
        red = sum(count for color, _, count in dots if color == "#D55E00")
        assert red == positive
        full = tuple(count for _, style, count in dots if style == "full")
        assert full == expected
        assert f"{expected[0]} of {sum(expected)}" in axis.get_title()
    plt.close(figure)


def test_a_value_outside_its_own_interval_can_be_drawn():
    """This happens with few bootstrap samples. Undefined metrics are NaN."""
    models = {
        "a": {"auc": {"value": 0.9, "low": 0.91, "high": 0.95}},
        "b": {"auc": dict.fromkeys(("value", "low", "high"), np.nan)},
    }
    figure = plot_model_comparison(models, {"auc": "black"})
    figure.canvas.draw()
    plt.close(figure)


def test_images_of_one_release_only_are_named_with_their_specificity():
    scores = {
        "test_specificity_kaggle_only": 0.5,
        "test_specificity": 0.8,
        "test_auc_both_releases": 0.99,
        "test_auc": 0.95,
    }
    models = {"residual_cnn": {name: {"value": scores[name]} for name in scores}}
    kaggle_only = np.array([True, True, False, False, False])
    text = describe_releases(models, kaggle_only)
    assert text.startswith("2 of the 5 test images")
    assert "recognizes 50% of them as NORMAL, and 80% of all" in text
    assert "Without them its AUC is 0.990, with them 0.950." in text
    nothing = describe_releases(models, np.zeros(5, bool))
    assert nothing == "No test image is known to be in Kaggle's release only."


def test_the_residual_cnn_is_compared_with_the_best_simpler_model():
    """On bias-conflicting images its AUC is 1, that of the best simpler one 0.75.

    On the other images, which do not count here, it is always wrong.
    """
    labels = np.tile([0, 0, 1, 1], 40)
    conflicting = np.arange(160) < 120
    perfect = np.where(conflicting, labels, 1 - labels).astype(float)
    predictions = {
        "linear_border": np.full(160, 0.5),
        "baseline_cnn": np.tile([0.1, 0.7, 0.6, 0.8], 40),
        "residual_cnn": perfect,
    }
    settings = SimpleNamespace(BOOTSTRAP_SAMPLES=200, SEED=0)
    choice = compare_on_conflicting(
        labels, predictions, np.arange(160), conflicting, settings
    )
    difference = choice["difference"]
    assert choice["simpler_model"] == "baseline_cnn"
    aucs = {"linear_border": 0.5, "baseline_cnn": 0.75, "residual_cnn": 1.0}
    assert choice["aucs"] == pytest.approx(aucs)
    assert difference["value"] == pytest.approx(0.25)
    assert 0.1 < difference["low"] < 0.25 < difference["high"] < 0.4


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.05, "significantly better, so the residual CNN is kept"),
        (-0.05, -0.01, "significantly worse, so the baseline CNN is to be preferred"),
        (-0.02, 0.04, "the simpler model, would do"),
        (np.nan, np.nan, "cannot be compared"),
    ],
)
def test_the_choice_of_a_model_follows_from_the_interval(low, high, verdict):
    difference = {"value": (low + high) / 2, "low": low, "high": high}
    aucs = {"linear_border": 0.6, "baseline_cnn": 0.7654, "residual_cnn": 0.8766}
    text = describe_choice("baseline_cnn", aucs, difference)
    assert verdict in text
    if np.isfinite(low):
        assert "the residual CNN is 0.877" in text
        assert "the baseline CNN, 0.765" in text
