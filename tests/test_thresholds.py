"""Decision thresholds, against values worked out by hand or by an exhaustive search."""

import numpy as np
import pandas as pd
import pytest

from cxr.thresholds import (
    adapt_threshold,
    compare_thresholds,
    describe_adaptation,
    describe_threshold,
    draw_patients,
    min_cost_threshold,
    threshold_at_sensitivity,
    youden_threshold,
)


def test_the_youden_threshold_lies_in_the_middle_of_the_best_gap():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([0.1, 0.4, 0.6, 0.9])
    assert youden_threshold(labels, probabilities) == pytest.approx(0.5)


@pytest.mark.parametrize("sensitivity_weight", [2, 1])
def test_the_youden_threshold_is_the_best_of_all(sensitivity_weight):
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=300)
    probabilities = np.clip(labels * 0.3 + generator.normal(0.3, 0.2, 300), 0, 1)

    def index(threshold):
        sensitivity = (probabilities[labels == 1] >= threshold).mean()
        specificity = (probabilities[labels == 0] < threshold).mean()
        return sensitivity_weight * sensitivity + specificity

    weights = [] if sensitivity_weight == 1 else [sensitivity_weight]
    chosen = youden_threshold(labels, probabilities, *weights)
    best = max(index(probability) for probability in probabilities)
    assert index(chosen) == pytest.approx(best)


def test_misleading_probabilities_get_a_threshold_within_reach():
    """All normal above all pneumonia: with twice the weight, all are positive."""
    labels = np.array([0, 0, 1, 1])
    threshold = youden_threshold(labels, np.array([0.9, 0.8, 0.3, 0.2]), 2)
    assert 0 <= threshold <= 0.2


def test_a_sensitivity_is_reached_by_the_largest_threshold_that_can():
    labels = np.array([1] * 20 + [0] * 4)
    probabilities = np.concatenate([np.linspace(0.05, 1, 20), [0.02, 0.12, 0.33, 0.99]])
    # 19 of 20 positive images are found.
    assert threshold_at_sensitivity(labels, probabilities, 0.95) == pytest.approx(0.1)
    assert threshold_at_sensitivity(labels, probabilities, 0.9) == pytest.approx(0.15)


@pytest.mark.parametrize("sensitivity", [0, 0.5, 0.8, 0.95, 1])
@pytest.mark.parametrize("positives", [1, 7, 20, 390])
def test_no_larger_threshold_reaches_the_sensitivity(sensitivity, positives):
    probabilities = np.random.default_rng(positives).random(positives).round(2)
    labels = np.ones(positives, int)
    threshold = threshold_at_sensitivity(labels, probabilities, sensitivity)
    assert (probabilities >= threshold).mean() >= sensitivity - 1e-9
    larger = probabilities[probabilities > threshold]
    if sensitivity > 0 and len(larger):
        assert (probabilities >= larger.min()).mean() < sensitivity


def test_the_threshold_of_the_lowest_cost_is_the_best_of_all():
    labels = np.array([1] * 20 + [0] * 4)
    probabilities = np.concatenate([np.linspace(0.05, 1, 20), [0.02, 0.12, 0.33, 0.99]])
    costs = {
        threshold: 5 * np.sum(probabilities[:20] < threshold)
        + np.sum(probabilities[20:] >= threshold)
        for threshold in probabilities
    }
    assert costs[min_cost_threshold(labels, probabilities)] == min(costs.values())
    # Where a false negative costs nearly nothing, nearly nothing is positive.
    assert min_cost_threshold(labels, probabilities, 0.01) == 1.0


@pytest.mark.parametrize("labels", [[], [1], [0], [0, 0]], ids=str)
def test_a_threshold_is_nan_where_the_classes_that_it_needs_are_missing(labels):
    labels = np.array(labels, int)
    probabilities = np.linspace(0.2, 0.9, len(labels))
    assert np.isnan(youden_threshold(labels, probabilities))
    assert np.isnan(min_cost_threshold(labels, probabilities))
    chosen = threshold_at_sensitivity(labels, probabilities, 0.95)
    assert np.isnan(chosen) == (1 not in labels)


def test_thresholds_are_compared_at_other_prevalences():
    labels = np.array([1, 1, 0, 0])
    probabilities = np.array([0.9, 0.4, 0.6, 0.1])
    table = compare_thresholds(labels, probabilities, {"a": 0.5}, [0.5])
    assert table.loc["a"].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5]
    names = [name.partition(" ")[0] for name in table]
    assert names == ["threshold", "sensitivity", "specificity", "PPV", "NPV"]
    assert all("50%" in name for name in list(table)[3:])
    table = compare_thresholds(labels, probabilities, {"a": 0.5, "b": 0.05}, [0.1, 0.2])
    assert table["PPV at 20% prevalence"]["b"] == 0.2  # all images are positive
    assert np.isnan(table["NPV at 20% prevalence"]["b"])


def test_a_threshold_is_described_by_what_one_half_would_change():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([0.1, 0.6, 0.55, 0.9])
    text = describe_threshold(labels, probabilities, 0.7)
    assert "above 0.5" in text
    assert "100.0% instead of 50.0%" in text.partition("specificity")[0]
    assert "50.0% instead of 100.0%" in text.partition("specificity")[2]
    assert "below 0.5" in describe_threshold(labels, probabilities, 0.3)
    assert "equal to 0.5" in describe_threshold(labels, probabilities, 0.5)


def make_shifted_scores(images=400, shift=0.3):
    """Two separable classes whose best threshold lies at 0.5 + shift, two a patient."""
    generator = np.random.default_rng(0)
    labels = np.arange(images) % 2
    probabilities = 0.5 + shift + np.where(labels == 1, 0.05, -0.05)
    probabilities = probabilities + generator.uniform(-0.04, 0.04, images)
    return labels, probabilities, [f"p{number // 2}" for number in range(images)]


def test_labeled_images_of_a_new_place_mend_a_threshold_that_does_not_fit():
    labels, probabilities, patients = make_shifted_scores()
    table = adapt_threshold(labels, probabilities, patients, 0.5, draws=20)
    assert table.index.tolist() == [0, 10, 20, 50, 100, 200]
    assert table.value.loc[0] == 0.5  # all images are called positive
    assert (table.value.loc[10:] > 0.95).all() and table.value.loc[200] > 0.99
    assert "from 10 on at least 97.5% of the draws do" in describe_adaptation(table)


def test_a_threshold_that_fits_is_not_improved():
    labels, probabilities, patients = make_shifted_scores()
    table = adapt_threshold(labels, probabilities, patients, 0.8, draws=20)
    assert table.value.loc[0] == 1 and (table.value <= 1).all()
    assert "the threshold travels well" in describe_adaptation(table)


def test_patients_are_drawn_whole_and_the_others_are_scored():
    patients = ["a", "a", "a", "b", "c", "c"]
    for seed in range(20):
        labeled = draw_patients(patients, 2, np.random.default_rng(seed))
        assert 2 <= labeled.sum() <= 4
        for patient in "abc":
            own = [drawn for drawn, name in zip(labeled, patients) if name == patient]
            assert len(set(own)) == 1


def test_a_small_test_set_is_no_new_place():
    table = adapt_threshold(np.array([0, 1]), np.array([0.2, 0.8]), ["a", "b"], 0.5)
    assert table.index.tolist() == [0] and table.value.loc[0] == 1
    assert "too small" in describe_adaptation(table)


def test_draws_of_one_class_keep_the_old_threshold():
    labels = np.array([1] * 30 + [0] * 2)
    probabilities = np.where(labels == 1, 0.9, 0.1)
    patients = [str(number) for number in range(32)]
    table = adapt_threshold(labels, probabilities, patients, 0.5, sizes=(1,), draws=10)
    assert table.value.loc[1] == 1


def test_an_improvement_in_some_draws_only_is_said_to_be_one_on_average():
    table = pd.DataFrame(
        {"value": [0.8, 0.85], "low": [0.8, 0.7], "high": [0.8, 0.9]}, index=[0, 10]
    )
    text = describe_adaptation(table)
    assert "10 images improve it on average, but in no size" in text
