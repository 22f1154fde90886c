"""Classifiers side by side, on films that agree with the clues and on those that contradict them."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cxr.model_comparison import (
    bias_conflicting_mask,
    bias_subgroups,
    compare_models,
    describe_bias_gap,
    describe_order_agreement,
    predict_all,
    release_subgroups,
)
from cxr.plots import plot_hundred_children, plot_model_comparison

SETTINGS = SimpleNamespace(BOOTSTRAP_SAMPLES=50, SEED=0)


def test_conflicting_are_those_of_each_class_that_look_most_like_the_other():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    answers = np.array([0.1, 0.9, 0.2, 0.6, 0.8, 0.3, 0.95, 0.7])
    assert np.flatnonzero(bias_conflicting_mask(labels, answers)).tolist() == [1, 5]
    assert np.flatnonzero(bias_conflicting_mask(labels, answers, 0.5)).tolist() == [
        1,
        3,
        5,
        7,
    ]
    assert bias_conflicting_mask(labels[:5], answers[:5])[4]  # one at least


def test_who_goes_by_the_clues_falls_on_conflicting_films_and_who_does_not_stays():
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    clue = np.clip(labels + generator.normal(0, 0.6, 400), -1, 2)
    said = {
        "by clues": clue,
        "by lungs": np.where(generator.random(400) < 0.9, labels, 1 - labels)
        + generator.normal(0, 0.01, 400),
    }
    columns = bias_subgroups(bias_conflicting_mask(labels, clue))
    scores = compare_models(
        labels, said, dict.fromkeys(said, 0.5), np.arange(400), columns, SETTINGS
    )
    assert (
        scores["by clues"]["AUC, conflicting"]["value"] < 0.3
        and scores["by clues"]["AUC, agreeing"]["value"] > 0.95
    )
    assert scores["by lungs"]["AUC, conflicting"]["value"] == pytest.approx(
        scores["by lungs"]["AUC, agreeing"]["value"], abs=0.08
    )
    right = np.mean((said["by lungs"] >= 0.5) == labels)
    assert scores["by lungs"]["accuracy"]["value"] == pytest.approx(right)
    assert "most is lost by: by clues (" in describe_bias_gap(
        scores
    ) and "least by: by lungs (" in describe_bias_gap(scores)
    figure = plot_model_comparison(scores, {"AUC": "black", "AUC, conflicting": "red"})
    drawn = {
        container.get_label(): list(container[0].get_xdata())
        for container in figure.axes[0].containers
    }
    assert drawn["AUC, conflicting"] == [
        scores[name]["AUC, conflicting"]["value"] for name in scores
    ]
    plt.close(figure)


def test_test_is_split_by_release_only_where_the_folder_is_kaggles():
    only, labels = (
        np.array([True, True, False, False, False, False]),
        np.array([0, 0, 0, 0, 1, 1]),
    )
    answers = np.array([0.9, 0.1, 0.2, 0.1, 0.8, 0.7])
    scores = compare_models(
        labels,
        {"one": answers},
        {"one": 0.5},
        np.arange(6),
        release_subgroups(only),
        SETTINGS,
    )["one"]
    assert scores["test specificity"]["value"] == 0.75 and scores["test AUC"][
        "value"
    ] == pytest.approx(6 / 8)
    assert (
        scores["AUC, the 4 of both releases"]["value"] == 1
        and scores["specificity, Kaggle's 2"]["value"] == 0.5
    )
    assert list(release_subgroups(~np.ones(6, bool))) == [
        "test AUC",
        "test accuracy",
        "test sensitivity",
        "test specificity",
    ]


def test_the_frame_classifier_never_sees_the_middle_and_none_sees_the_labels_of_what_it_answers():
    generator = np.random.default_rng(0)
    learned = (
        generator.random((80, 24, 24)).astype("float32"),
        np.arange(80) % 2,
        np.arange(80) < 60,
    )
    learned[0][1:60:2, 0] += (
        1  # the top row tells the class; in what is not learned from, the other way round
    )
    learned[0][60::2, 0] += 1
    films = generator.random((10, 24, 24)).astype("float32")
    films[5:, 0] += 1
    said = predict_all(learned, films, None, None, np.full(10, 0.5))
    assert list(said) == [
        "linear, only the frame",
        "linear, thumbnails",
        "residual CNN",
    ]
    frame = said["linear, only the frame"]
    assert (frame[5:] > 0.5).all() and (frame[:5] < 0.5).all()
    turned = films.copy()
    turned[:, 3:-3, 3:-3] = films[:, 3:-3, 3:-3][:, ::-1]
    again = predict_all(learned, turned, None, None, np.full(10, 0.5))
    assert np.allclose(again["linear, only the frame"], frame, atol=1e-5)
    assert not np.allclose(
        again["linear, thumbnails"], said["linear, thumbnails"], atol=1e-3
    )


def test_what_guides_is_counted_in_pairs():
    """Of the three pairs, validation has a-b wrong; the conflicting films have all right."""

    def row(*values):
        return {
            name: {"value": value}
            for name, value in zip(("AUC", "AUC, conflicting", "test AUC"), values)
        }

    text = describe_order_agreement(
        {"a": row(0.99, 0.5, 0.8), "b": row(0.98, 0.7, 0.9), "c": row(0.9, 0.4, 0.6)}
    )
    assert text.startswith(
        "Of 3 pairs of classifiers, validation puts 2 in the order"
    ) and text.endswith("films 3.")


def test_a_hundred_children_are_a_hundred_dots():
    """Of 5 sick, four fifths found are 4; of 95 healthy, a fifth alarmed are 19."""
    figure, _ = plot_hundred_children(0.8, 0.8)
    for axis, share, alarms in zip(
        figure.axes, (50, 20, 5), ((40, 10), (16, 16), (4, 19))
    ):
        dots = [
            (line.get_color(), line.get_fillstyle(), len(line.get_xdata()))
            for line in axis.lines
        ]
        assert sum(count for _, _, count in dots) == 100
        assert sum(count for color, _, count in dots if color == "#D55E00") == share
        assert tuple(count for _, style, count in dots if style == "full") == alarms
        assert f"{alarms[0]} of {sum(alarms)} alarms right" in axis.get_title()
    plt.close(figure)


def test_a_value_beyond_its_own_interval_can_be_drawn():
    """With few draws that happens; with none that can be measured, all three are NaN."""
    scores = {
        "one": {"AUC": {"value": 0.9, "low": 0.91, "high": 0.95}},
        "two": {"AUC": dict.fromkeys(("value", "low", "high"), np.nan)},
    }
    figure = plot_model_comparison(scores, {"AUC": "black"})
    figure.canvas.draw()
    plt.close(figure)
