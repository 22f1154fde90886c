"""The short experiments of sections 4, 7 and 8: each finds what was put into made-up data, and nothing where nothing was."""

import keras
import numpy as np
import pandas as pd
import pytest


def test_a_linear_classifier_learns_from_the_rows_it_was_given_and_no_others(notebook):
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    values = generator.normal(0, 1, (200, 4, 4))
    values[:, 1, 2] += 5 * labels
    fit = np.arange(200) < 120
    values[~fit, 3, 3] = 100 * labels[~fit]  # a clue that only the other rows have
    answers = notebook.answer_linearly(values, labels, fit)
    assert ((answers > 0) == labels)[fit].mean() > 0.95
    assert np.allclose(answers[:120], notebook.answer_linearly(values[:120], labels[:120], np.ones(120, bool)))


def test_thumbnails_are_means_of_blocks(notebook):
    picture = np.zeros((4, 4, 1), np.uint8)
    picture[:2, :2] = [[[255], [0]], [[255], [0]]]
    assert notebook.make_thumbnails([picture], 2)[0].tolist() == pytest.approx(np.array([[0.5, 0], [0, 0]]), abs=0.01)


def test_small_sets_mislead_and_large_ones_do_not(notebook):
    """A lead of one answer in ten: a set of one shows it in a tenth of the draws, a set of 2,000 always."""
    one, other = np.ones(1000, bool), np.arange(1000) % 10 > 0
    assert notebook.share_misled(one, other, 1, 0) == pytest.approx(0.9, abs=0.03)
    assert notebook.share_misled(other, one, 1, 0) == pytest.approx(0.9, abs=0.03)
    assert notebook.share_misled(one, other, 2000, 0) == 0


def test_the_interval_of_a_mean_is_drawn_by_patient(notebook):
    """Forty patients with 25 equal values each: the interval is that of 40 values."""
    values = np.repeat(np.arange(40) % 2, 25).astype(float)
    mean, low, high = notebook.mean_by_patient(values, np.repeat(np.arange(40), 25), 2000, 0)
    assert mean == 0.5 and high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(40), rel=0.12)


def test_siblings_are_found_where_they_look_alike(notebook):
    """Two patients with two nearly equal images each, two strangers with one each; brightness must not matter."""
    generator = np.random.default_rng(0)
    first, second, third, fourth = generator.uniform(0, 0.5, (4, 8, 8))
    thumbnails = np.stack([first, second, first + 0.3, 2 * second, third, fourth]).astype("float32")
    groups = np.array([7, 8, 7, 8, 9, 10])
    rows, lookalike, stranger = notebook.find_lookalikes(thumbnails, groups)
    assert rows.tolist() == [0, 1, 2, 3] and lookalike.tolist() == [2, 3, 0, 1]
    assert (groups[stranger] != groups[rows]).all()
    assert [len(one) for one in notebook.find_lookalikes(thumbnails, np.arange(6))] == [0, 0, 0]


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_another_share_of_the_sick_is_found_without_labels(notebook, truth):
    """Evidence of two normal distributions, calibrated where 70 % are sick; a set with another share is drawn from the same two."""
    generator = np.random.default_rng(0)
    labels = (generator.random(20_000) < truth).astype(int)
    evidence = generator.normal(labels, 0.7)
    odds = np.exp((evidence - 0.5) / 0.49) * 0.7 / 0.3
    adapted, share = notebook.adapt_to_prevalence(odds / (1 + odds), 0.7)
    assert share == pytest.approx(truth, abs=0.02)
    right = np.exp((evidence - 0.5) / 0.49) * truth / (1 - truth)
    assert np.abs(adapted - right / (1 + right)).mean() < 0.02
    table = notebook.compare_sets({"as it was": (labels, odds / (1 + odds)), "adapted": (labels, adapted)}, 0.5)
    assert table["sick, truly"].tolist() == pytest.approx([labels.mean()] * 2)
    assert table.loc["adapted", "calibration error"] < 0.015 and table.loc["as it was", "calibration error"] > 0.03


def test_the_frame_is_hidden_or_kept(notebook):
    picture = np.random.default_rng(0).uniform(0, 255, (50, 50)).astype("float32")
    hidden, kept = notebook.hide_border(picture), notebook.keep_border(picture)
    assert np.array_equal(hidden[6:-6, 6:-6], picture[6:-6, 6:-6]) and np.allclose(hidden[:6], picture.mean())
    assert np.array_equal(kept[:6], picture[:6]) and np.array_equal(kept[:, -6:], picture[:, -6:])
    assert np.allclose(kept[6:-6, 6:-6], picture.mean())


def test_an_answer_that_follows_the_shape_is_noticed(notebook):
    generator = np.random.default_rng(0)
    files = pd.DataFrame({"width": generator.uniform(100, 200, 300), "height": 100.0, "label": np.arange(300) % 2,
                          "patient": np.arange(300)})
    logits = np.where(files.label == 1, (files.width - 150) / 20, 0) + generator.normal(0, 0.5, 300)
    found = notebook.follow_shape(files, 1 / (1 + np.exp(-logits)), 200, 0)
    assert found["PNEUMONIA"][1] > 0.8 and found["NORMAL"][1] < 0 < found["NORMAL"][2]
    assert all(np.isnan(notebook.follow_shape(files.assign(width=100.0), 1 / (1 + np.exp(-logits)), 20, 0)["NORMAL"]))


def test_the_checks_of_grad_cam_tell_a_map_that_means_something(notebook):
    """A network that sees one bright spot, wherever it is: its map lies there, and covering the spot takes the score away."""
    inputs = keras.Input((32, 32, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(2, 4, strides=4, activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    x = keras.layers.Dense(1, name="logit")(x)
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(x))
    kernel = np.stack([np.full((4, 4, 1), 0.2), np.full((4, 4, 1), -0.2)], -1)
    model.get_layer("features").set_weights([kernel, np.array([-1.0, 0.0])])
    model.get_layer("logit").set_weights([np.array([[30.0], [-1.0]]), np.array([0.0])])
    generator = np.random.default_rng(0)
    images = generator.integers(40, 60, (20, 32, 32, 1), np.uint8)
    places = generator.integers(0, 6, (20, 2)) * 4
    for image, (row, column) in zip(images, places):
        image[row: row + 8, column: column + 8] = 250
    checks = notebook.check_grad_cam(model, images, np.ones(20, bool), np.arange(20), 100, 0)
    assert checks["hottest"][1] > 2 * checks["random"][2] > 0
    covered = notebook.cover(images, [(row + 4, column + 4) for row, column in places], 8)
    assert covered.max() < 80 and images.max() == 250
