"""Scores, intervals, calibration and thresholds, against values worked out by hand or by another way."""

import json

import numpy as np
import pytest
from sklearn import metrics

from cxr.batches import ImageBatches
from cxr.calibration import (
    adapt_to_prevalence,
    calibrate_model,
    choose_calibration,
    describe_calibration,
    describe_prevalence,
    expected_calibration_error,
    fit_platt_scaling,
    to_logits,
)
from cxr.evaluation import (
    auc_and_average_precision,
    cluster_bootstrap_weights,
    compare_datasets,
    compute_metrics,
    describe_confusion_matrix,
    mean_with_ci,
    metrics_with_ci,
    predict_probabilities,
    predictive_values,
)
from cxr.models import build_cnn
from cxr.storage import to_json
from cxr.thresholds import (
    choose_threshold,
    compare_thresholds,
    describe_rule,
    describe_threshold,
    min_cost_threshold,
    threshold_at_sensitivity,
)


def test_scores_of_five_images_worked_out_by_hand():
    labels, probabilities = (
        np.array([1, 1, 1, 0, 0]),
        np.array([0.9, 0.8, 0.3, 0.4, 0.1]),
    )
    expected = {
        "accuracy": 4 / 5,
        "sensitivity": 2 / 3,
        "specificity": 1,
        "precision": 1,
        "f1": 4 / 5,
        "auc": 5 / 6,
        "average_precision": (1 + 1 + 3 / 4) / 3,
    }
    assert compute_metrics(labels, probabilities, 0.5, np.ones(5)) == pytest.approx(
        expected
    )
    assert compute_metrics(labels, probabilities, 0.5) == pytest.approx(expected)


def test_a_weight_of_two_counts_like_the_image_twice():
    generator = np.random.default_rng(0)
    labels, probabilities = (
        generator.integers(2, size=40),
        generator.random(40).round(1),
    )
    weights = generator.integers(0, 4, size=40)
    repeated = np.repeat(np.arange(40), weights)
    assert compute_metrics(
        labels, probabilities, 0.5, weights.astype(float)
    ) == pytest.approx(
        compute_metrics(
            labels[repeated], probabilities[repeated], 0.5, np.ones(len(repeated))
        )
    )


def test_a_probability_at_the_threshold_is_pneumonia():
    assert (
        compute_metrics(np.array([1, 0]), np.array([0.5, 0.4]), 0.5, np.ones(2))[
            "sensitivity"
        ]
        == 1
    )


def test_a_score_with_nothing_to_measure_is_null_in_json():
    scores = metrics_with_ci(np.ones(4, int), np.full(4, 0.9), list("abcd"), 0.5, 20, 0)
    assert scores["accuracy"]["value"] == 1 and np.isnan(scores["specificity"]["value"])
    assert json.loads(to_json(scores))["auc"] == {
        "value": None,
        "low": None,
        "high": None,
    }


def test_the_evidence_is_finite_where_a_probability_is_rounded():
    assert to_logits(np.array([0.5, 0.75, 0.1])) == pytest.approx(
        [0, np.log(3), -np.log(9)]
    )
    never, surely = to_logits(np.array([0.0, 1.0]))
    assert never == pytest.approx(-surely) and 15 < surely < 20


def test_the_threshold_lies_in_the_middle_of_the_best_gap():
    assert choose_threshold(
        np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.6, 0.9])
    ) == pytest.approx(0.5)


@pytest.mark.parametrize("miss", [2, 1])
def test_the_threshold_is_the_best_of_all(miss):
    """Sensitivity counts twice, unless the reader says otherwise."""
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=300)
    probabilities = np.clip(labels * 0.3 + generator.normal(0.3, 0.2, 300), 0, 1)

    def worth(threshold):
        return (
            miss * (probabilities[labels == 1] >= threshold).mean()
            + (probabilities[labels == 0] < threshold).mean()
        )

    chosen = choose_threshold(labels, probabilities, *([] if miss == 2 else [miss]))
    assert worth(chosen) == pytest.approx(max(worth(one) for one in probabilities))


def test_answers_that_tell_nothing_get_a_threshold_within_reach():
    """All healthy above all sick: the best is to call everybody sick."""
    threshold = choose_threshold(np.array([0, 0, 1, 1]), np.array([0.9, 0.8, 0.3, 0.2]))
    assert 0 <= threshold <= 0.2


def test_the_rule_is_told_as_the_reader_sets_it(monkeypatch):
    """Whoever changes the default in the cell of choose_threshold reads so in the report."""
    assert describe_rule() == "2 x sensitivity + specificity"
    monkeypatch.setattr(
        "cxr.evaluation.choose_threshold", lambda labels, probabilities, miss=3.5: 0.5
    )
    assert describe_rule() == "3.5 x sensitivity + specificity"


def test_intervals_are_as_wide_as_the_number_of_patients_demands():
    """40 patients with 10 equal images each: the accuracy varies like that of 40 images, not like that of 400."""
    right = np.repeat(np.arange(40) % 5 > 0, 10)  # 80 % of the patients
    labels = np.repeat(np.arange(40) % 2, 10)
    probabilities = np.where(right == (labels == 1), 0.9, 0.1)
    interval = metrics_with_ci(
        labels, probabilities, np.repeat(np.arange(40), 10), 0.5, 1000, 0
    )["accuracy"]
    width = 2 * 1.96 * np.sqrt(0.8 * 0.2 / 40)
    assert interval["value"] == pytest.approx(0.8)
    assert interval["high"] - interval["low"] == pytest.approx(width, rel=0.15)


def test_the_interval_of_a_mean_is_drawn_by_patient():
    """Forty patients with 25 equal values each: the interval is that of 40 values."""
    values = np.repeat(np.arange(40) % 2, 25).astype(float)
    mean, low, high = mean_with_ci(values, np.repeat(np.arange(40), 25), 2000, 0)
    assert mean == 0.5 and high - low == pytest.approx(
        2 * 1.96 * 0.5 / np.sqrt(40), rel=0.12
    )


def test_a_draw_takes_as_many_patients_as_there_are_each_with_all_its_images():
    patients = np.array(["b", "a", "b", "c", "b"])
    draws = list(cluster_bootstrap_weights(patients, 200, 0))
    for weights in draws:
        assert weights[0] == weights[2] == weights[4]
        assert (
            weights[0] + weights[1] + weights[3] == 3
            and (weights == weights.round()).all()
        )
    assert np.mean(draws, axis=0) == pytest.approx(np.ones(5), abs=0.2)
    assert np.array_equal(
        draws, list(cluster_bootstrap_weights(patients, 200, 0))
    ) and not np.array_equal(draws, list(cluster_bootstrap_weights(patients, 200, 1)))


def test_calibration_undoes_what_made_a_network_too_sure_and_biased():
    """True logits, tripled and shifted by 1: sigmoid(z / 3 − 1 / 3) gives the true ones back."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, 20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-logits))).astype(int)
    too_sure = 1 / (1 + np.exp(-3 * logits - 1))
    assert fit_platt_scaling(labels, too_sure) == pytest.approx((3, -1 / 3), rel=0.1)
    assert expected_calibration_error(labels, too_sure) > 0.05
    temperature, shift, crossed = choose_calibration(
        labels, too_sure, np.arange(20_000)
    )
    assert (temperature, shift) == pytest.approx((3, -1 / 3), rel=0.1)
    assert (
        expected_calibration_error(labels, crossed) < 0.015
        and np.corrcoef(crossed, 1 / (1 + np.exp(-logits)))[0, 1] > 0.999
    )


def test_answers_without_a_mistake_do_not_become_certain():
    labels, said = np.repeat([0, 1], 10), np.repeat([0.3, 0.7], 10)
    temperature, shift = fit_platt_scaling(labels, said)
    assert shift == pytest.approx(0, abs=1e-3)
    assert 1 / (1 + np.exp(-np.log(0.7 / 0.3) / temperature)) == pytest.approx(
        11 / 12, abs=0.001
    )  # Platt's target for 10 images


def test_nothing_is_changed_where_other_patients_gain_nothing():
    """Sure and right: smoothed targets of 20 images would take certainty away, which no patient gains from."""
    labels, said = (
        np.repeat([0, 1], 10),
        np.repeat([0.01, 0.99], 10) + np.linspace(-0.005, 0.005, 20),
    )
    temperature, shift, crossed = choose_calibration(labels, said, np.arange(20) // 2)
    assert (temperature, shift) == (1, 0) and np.array_equal(crossed, said)
    assert fit_platt_scaling(labels, said)[0] > 1.5


def test_a_patient_has_no_say_in_its_own_calibration():
    """One patient's labels turned round change the answers of all others after calibration, but not its own."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, 400)
    labels, patients = (
        (generator.random(400) < 1 / (1 + np.exp(-logits))).astype(int),
        np.arange(400) // 4,
    )
    said = 1 / (1 + np.exp(-3 * logits))
    turned = np.where(patients == 7, 1 - labels, labels)
    one, other = (
        choose_calibration(truth, said, patients)[2] for truth in (labels, turned)
    )
    assert (
        np.allclose(one[patients == 7], other[patients == 7], atol=1e-9)
        and np.abs(one - other).max() > 1e-4
    )


def test_the_words_on_calibration_fit_both_outcomes():
    errors = {"expected_calibration_error": {"before": 0.0312, "after": 0.0123}}
    gained = describe_calibration(
        {"temperature": 1.5, "shift": -0.25, **errors}, "9 films"
    )
    assert (
        gained
        == "Calibration error 0.031 before, 0.012 after: temperature 1.50, shift -0.25 (9 films)"
    )
    told = describe_calibration({"temperature": 1.0, "shift": 0.0, **errors}, "9 films")
    assert (
        told.startswith("Calibration error 0.031: ")
        and "nothing is changed" in told
        and "after" not in told
    )


def test_the_calibration_error_of_four_images_worked_out_by_hand():
    """Between 0.9 and 1: 1 ill of 1.9 announced; between 0.1 and 0.2: 2 of 0.3."""
    assert expected_calibration_error(
        np.array([1, 0, 1, 1]), np.array([0.95, 0.95, 0.15, 0.15])
    ) == pytest.approx((0.9 + 1.7) / 4)
    assert expected_calibration_error(np.array([1, 0]), np.array([1.0, 0.0])) == 0


def test_a_calibrated_network_says_calibrated_probabilities():
    model, x = (
        build_cnn(32),
        np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8),
    )
    before = predict_probabilities(model, x)
    calibrate_model(model, 2.5, 0.3)
    odds = (before / (1 - before)) ** 0.4 * np.exp(0.3)
    assert np.allclose(predict_probabilities(model, x), odds / (1 + odds), atol=1e-5)


class Echo:
    """Stands for a network that answers with the gray level of an image's first pixel."""

    @staticmethod
    def predict(batches, verbose):
        return np.concatenate(
            [batches[number][0][:, 0, 0] for number in range(len(batches))]
        ) / np.float32(255)


def test_probabilities_come_in_the_order_of_the_images():
    x = np.tile(
        np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 1)
    )
    said = predict_probabilities(Echo(), x)
    assert said.dtype == np.float64 and said == pytest.approx(
        np.arange(0, 250, 50) / 255
    )
    batches = ImageBatches([x[:2], x[2:]], np.array([4, 0, 3]), np.zeros(3, int), 2)
    assert predict_probabilities(Echo(), batches) * 255 == pytest.approx([200, 0, 150])


def test_batches_of_any_size_are_answered_by_one_shape(monkeypatch):
    """More images than a batch has, and fewer: each batch has 32, and nothing of what fills one up comes back."""
    shapes = []

    class Noting(Echo):
        def predict(self, batches, verbose):
            shapes.extend(batches[number][0].shape for number in range(len(batches)))
            return super().predict(batches, verbose)

    for count in (1, 32, 70):
        x = np.random.default_rng(count).integers(0, 256, (count, 1, 1, 1), np.uint8)
        assert predict_probabilities(Noting(), x) * 255 == pytest.approx(x.ravel())
    assert shapes == [(32, 1, 1, 1)] * 5


def test_other_thresholds_worked_out_by_hand():
    labels = np.array([1] * 20 + [0] * 4)
    said = np.concatenate([np.linspace(0.05, 1, 20), [0.02, 0.12, 0.33, 0.99]])
    assert threshold_at_sensitivity(labels, said) == pytest.approx(
        0.1
    )  # 19 of 20 are found
    assert threshold_at_sensitivity(labels, said, 0.9) == pytest.approx(0.15)
    costs = {
        step: miss * np.sum(said[:20] < step) + np.sum(said[20:] >= step)
        for miss in (5,)
        for step in said
    }
    assert costs[min_cost_threshold(labels, said)] == min(costs.values())
    assert (
        min_cost_threshold(labels, said, 0.01) == 1.0
    )  # a miss costs nothing: no alarm but the surest


def test_predictive_values_worked_out_by_hand():
    """1,000 children, 100 ill: 90 alarms are right and 90 wrong; 810 of 820 all-clears are right."""
    assert predictive_values(0.9, 0.9, 0.1) == pytest.approx((0.5, 810 / 820))
    table = compare_thresholds(
        np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.6, 0.1]), {"a": 0.5}, [0.5]
    )
    assert table.loc["a"].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5]
    assert list(table) == [
        "threshold",
        "sensitivity",
        "specificity",
        "PPV at 50% sick",
        "NPV at 50% sick",
    ]


def test_a_share_of_no_alarms_is_no_number():
    assert np.isnan(predictive_values(0, 1, 0.1)[0]) and predictive_values(0, 1, 0.1)[
        1
    ] == pytest.approx(0.9)
    assert np.isnan(predictive_values(1, 0, 0.1)[1])


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_another_share_of_the_sick_is_found_without_labels(truth):
    """Evidence of two normal distributions, calibrated where 70 % are sick; a set with another share is drawn from the same two."""
    generator = np.random.default_rng(0)
    labels = (generator.random(20_000) < truth).astype(int)
    evidence = generator.normal(labels, 0.7)
    odds = np.exp((evidence - 0.5) / 0.49) * 0.7 / 0.3
    adapted, share = adapt_to_prevalence(odds / (1 + odds), 0.7)
    assert share == pytest.approx(truth, abs=0.02)
    right = np.exp((evidence - 0.5) / 0.49) * truth / (1 - truth)
    assert np.abs(adapted - right / (1 + right)).mean() < 0.02
    table = compare_datasets(
        {"as it was": (labels, odds / (1 + odds)), "adapted": (labels, adapted)}, 0.5
    )
    assert table["sick, truly"].tolist() == pytest.approx([labels.mean()] * 2)
    assert (
        table.loc["adapted", "calibration error"] < 0.015
        and table.loc["as it was", "calibration error"] > 0.03
    )


@pytest.mark.parametrize(
    ("low", "verdict"),
    [(0.63, ": above the 62.5% of"), (0.62, ": not surely above the 62.5% of")],
)
def test_the_errors_are_told_with_the_floor_that_any_answer_reaches(low, verdict):
    """234 healthy and 390 sick: always answering PNEUMONIA is right for 390 of 624, 62.5 %."""
    told = describe_confusion_matrix(
        np.array([[200, 34], [12, 378]]),
        {"accuracy": {"value": 578 / 624, "low": low, "high": 0.95}},
        "phantoms",
    )
    assert (
        "Missed 12 of 390 phantoms with pneumonia, 34 false alarms for 234 normal ones."
        in told
    )
    assert (
        "Accuracy 92.6%, 95 % interval" in told
        and f"{low:.1%} to 95.0%{verdict} always answering PNEUMONIA." in told
    )


def test_rank_is_what_scikit_learn_says_with_ties_and_with_patients_drawn_several_times_or_never():
    generator = np.random.default_rng(0)
    labels, answers = generator.integers(0, 2, 300), np.round(generator.random(300), 1)
    for weights in (np.ones(300), generator.integers(0, 3, 300).astype(float)):
        assert auc_and_average_precision(labels, answers, weights) == pytest.approx(
            (
                metrics.roc_auc_score(labels, answers, sample_weight=weights),
                metrics.average_precision_score(labels, answers, sample_weight=weights),
            )
        )
    assert np.isnan(
        auc_and_average_precision(np.ones(3), answers[:3], np.ones(3))
    ).all()


def test_an_interval_does_not_collapse_where_there_is_no_mistake():
    """Of 40 healthy patients none is wrong; that would happen in 2.5 % of cases at a true share of .025 ** (1 / 40) = .912."""
    labels, patients = np.array([0] * 40 + [1] * 100), np.arange(140)
    scores = metrics_with_ci(labels, labels * 0.8 + 0.1, patients, 0.5, 100, 0)
    for name in ("auc", "specificity", "accuracy"):
        assert (scores[name]["value"], scores[name]["high"]) == (1, 1) and scores[name][
            "low"
        ] == pytest.approx(0.9119, abs=1e-4)
    never = metrics_with_ci(labels, 0.9 - labels * 0.8, patients, 0.5, 100, 0)[
        "specificity"
    ]
    assert (never["value"], never["low"]) == (0, 0) and never["high"] == pytest.approx(
        1 - 0.9119, abs=1e-4
    )


def test_sentences_about_the_line_and_the_share_fit_what_came_out():
    labels, answers = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.55, 0.9])
    assert (
        "above 0.5, where sensitivity on them is 100.0% in place of 50.0%, specificity 50.0% in place of 100.0%"
        in describe_threshold(labels, answers, 0.7)
    )
    assert "below 0.5" in describe_threshold(
        labels, answers, 0.3
    ) and "at 0.5" in describe_threshold(labels, answers, 0.5)
    assert describe_prevalence(0.74, 0.65, 0.62).endswith(
        "has 62.0%: nearer than what was learned from."
    )
    assert "no nearer" in describe_prevalence(0.74, 0.9, 0.62)
