"""The linear classifier finds what was put into made-up data, and nothing where nothing was."""

import numpy as np
import pytest

from cxr.linear_baseline import make_thumbnails, predict_ridge


def test_a_linear_classifier_learns_from_the_rows_it_was_given_and_no_others():
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    values = generator.normal(0, 1, (200, 4, 4))
    values[:, 1, 2] += 5 * labels
    fit = np.arange(200) < 120
    values[~fit, 3, 3] = 100 * labels[~fit]  # a clue that only the other rows have
    before = values.copy()
    answers = predict_ridge(values, labels, fit)
    assert ((answers > 0) == labels)[fit].mean() > 0.95
    assert np.allclose(
        answers[:120], predict_ridge(values[:120], labels[:120], np.ones(120, bool))
    )
    assert np.array_equal(values, before)


def test_thumbnails_are_means_of_blocks():
    picture = np.zeros((4, 4, 1), np.uint8)
    picture[:2, :2] = [[[255], [0]], [[255], [0]]]
    thumbnails = make_thumbnails([picture], 2)
    assert (
        thumbnails[0].tolist() == pytest.approx(np.array([[0.5, 0], [0, 0]]), abs=0.01)
        and thumbnails.dtype == np.float32
    )
