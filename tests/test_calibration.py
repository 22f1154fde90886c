"""Calibration: simulated logits whose true probabilities are known."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from cxr.calibration import (
    adapt_to_prevalence,
    apply_calibration,
    calibrate_model,
    chance_calibration_error,
    choose_calibration,
    describe_calibration,
    describe_calibration_error,
    describe_prevalence,
    expected_calibration_error,
    fit_platt_scaling,
    to_logits,
)
from cxr.evaluation import predict_logits, predict_probabilities
from cxr.models import build_baseline


def draw_labels(logits, generator):
    """Return labels that are 1 with the probabilities of these logits."""
    return (generator.random(len(logits)) < expit(logits)).astype(int)


def test_logits_are_finite_where_a_probability_is_rounded():
    expected = [0, np.log(3), -np.log(9)]
    assert to_logits(np.array([0.5, 0.75, 0.1])) == pytest.approx(expected)
    lowest, highest = to_logits(np.array([0.0, 1.0]))
    assert lowest == pytest.approx(-highest)
    assert 15 < highest < 20


def test_calibration_is_a_temperature_and_a_shift_of_the_logit():
    probabilities = apply_calibration(np.array([-1.0, 0.0, 2.0]), 2.0, 0.5)
    assert probabilities == pytest.approx(expit([0.0, 0.5, 1.5]))
    assert probabilities.dtype == np.float64


def test_calibration_undoes_overconfidence_and_bias():
    """True logits, tripled and shifted by 1: logit / 3 − 1 / 3 is the true one."""
    generator = np.random.default_rng(0)
    true_logits = generator.normal(0, 2, 20_000)
    labels = draw_labels(true_logits, generator)
    logits = 3 * true_logits + 1
    assert fit_platt_scaling(labels, logits) == pytest.approx((3, -1 / 3), rel=0.1)
    assert expected_calibration_error(labels, expit(logits)) > 0.05

    patients = np.arange(20_000)
    temperature, shift, probabilities = choose_calibration(labels, logits, patients)
    assert (temperature, shift) == pytest.approx((3, -1 / 3), rel=0.1)
    assert expected_calibration_error(labels, probabilities) < 0.015
    assert np.corrcoef(probabilities, expit(true_logits))[0, 1] > 0.999


def test_perfect_predictions_do_not_become_certain():
    labels = np.repeat([0, 1], 10)
    logit = np.log(0.7 / 0.3)
    temperature, shift = fit_platt_scaling(labels, np.repeat([-logit, logit], 10))
    assert shift == pytest.approx(0, abs=1e-3)
    platt_target = 11 / 12  # for ten images of a class
    assert expit(logit / temperature) == pytest.approx(platt_target, abs=0.001)


def test_nothing_changes_where_scaling_does_not_help_other_patients():
    """Confident and correct: the smoothed targets of 20 images lower the confidence."""
    labels = np.repeat([0, 1], 10)
    probabilities = np.repeat([0.01, 0.99], 10) + np.linspace(-0.005, 0.005, 20)
    logits = to_logits(probabilities)
    temperature, shift, chosen = choose_calibration(labels, logits, np.arange(20) // 2)
    assert (temperature, shift) == (1, 0)
    assert chosen == pytest.approx(probabilities)
    assert fit_platt_scaling(labels, logits)[0] > 1.5


def test_a_patient_does_not_influence_its_own_calibration():
    """Flipping one patient's labels changes the probabilities of all others only."""
    generator = np.random.default_rng(0)
    true_logits = generator.normal(0, 2, 400)
    labels = draw_labels(true_logits, generator)
    patients = np.arange(400) // 4
    is_flipped = patients == 7
    flipped_labels = np.where(is_flipped, 1 - labels, labels)
    before = choose_calibration(labels, 3 * true_logits, patients)[2]
    after = choose_calibration(flipped_labels, 3 * true_logits, patients)[2]
    assert np.allclose(before[is_flipped], after[is_flipped], atol=1e-9)
    assert np.abs(before - after).max() > 1e-4


@pytest.mark.parametrize(
    ("labels", "patients"), [([0, 1], "aa"), ([1, 1], "ab"), ([1], "a"), ([], "")]
)
def test_nothing_changes_with_one_class_or_one_patient(labels, patients):
    logits = np.linspace(-1, 2, len(labels))
    labels = np.array(labels, int)
    temperature, shift, chosen = choose_calibration(labels, logits, list(patients))
    assert (temperature, shift) == (1, 0)
    assert chosen == pytest.approx(expit(logits))


def test_two_patients_are_enough_for_cross_fitting():
    temperature, shift, probabilities = choose_calibration(
        np.array([0, 1, 0, 1]), np.array([2.0, 9.0, 3.0, 8.0]), list("aabb")
    )
    assert np.isfinite([temperature, shift, *probabilities]).all()


def test_the_calibration_error_of_four_images_worked_out_by_hand():
    """From 0.9 to 1: 1 positive, 1.9 expected; from 0.1 to 0.2: 2 positive, 0.3."""
    labels = np.array([1, 0, 1, 1])
    probabilities = np.array([0.95, 0.95, 0.15, 0.15])
    error = expected_calibration_error(labels, probabilities)
    assert error == pytest.approx((0.9 + 1.7) / 4)
    assert expected_calibration_error(np.array([1, 0]), np.array([1.0, 0.0])) == 0
    assert np.isnan(expected_calibration_error(np.array([], int), np.array([])))


def test_a_calibrated_network_predicts_calibrated_values():
    model = build_baseline(32)
    x = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8)
    logits = predict_logits(model, x)
    calibrate_model(model, 2.5, 0.3)
    expected = apply_calibration(logits, 2.5, 0.3)
    assert np.allclose(predict_probabilities(model, x), expected, atol=1e-5)
    assert np.allclose(predict_logits(model, x), logits / 2.5 + 0.3, atol=1e-5)


def test_the_sentence_on_calibration_fits_both_outcomes():
    applied = describe_calibration(1.5, -0.25)
    assert applied.startswith("The probabilities were too high (shift -0.25) and too ")
    other = describe_calibration(0.8, 0.5)
    assert "too low (shift +0.50) and too moderate (temperature 0.80)" in other
    hardly = describe_calibration(0.98, 0.01)
    assert "neither too low nor too high" in hardly
    assert "neither too extreme nor too moderate" in hardly
    assert "too extreme (temperature 1.50)" in applied
    assert "was not applied" in describe_calibration(1.0, 0.0)


def test_the_error_that_a_calibrated_model_shows_by_chance_is_that_of_its_labels():
    """One bin, all probabilities 0.5: the error is |k / n − 0.5|, with k binomial.

    95% of these errors are below the 97.5% quantile of k / n − 0.5.
    """
    n = 400
    found = chance_calibration_error(np.full(n, 0.5), 4000, seed=0)
    expected = stats.binom.ppf(0.975, n, 0.5) / n - 0.5
    assert found == pytest.approx(expected, abs=0.003)
    assert chance_calibration_error(np.zeros(5), 10, seed=0) == 0
    assert np.isnan(chance_calibration_error(np.array([]), 10, seed=0))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (0.012, "so nothing here speaks against this one."),
        (0.041, "so this one is not calibrated here."),
    ],
)
def test_whether_a_model_is_calibrated_is_said(error, verdict):
    text = describe_calibration_error("test", error, 0.02)
    assert text.startswith(f"The calibration error is {error:.4f} on test.")
    assert "up to 0.0200 by chance" in text and text.endswith(verdict)


@pytest.mark.parametrize("true_prevalence", [0.1, 0.5, 0.9])
def test_another_prevalence_is_estimated_without_labels(true_prevalence):
    """Two normal distributions; the probabilities are calibrated at 70%."""
    generator = np.random.default_rng(0)
    labels = (generator.random(20_000) < true_prevalence).astype(int)
    likelihood_ratio = np.exp((generator.normal(labels, 0.7) - 0.5) / 0.49)
    odds = likelihood_ratio * 0.7 / 0.3
    adapted, prevalence = adapt_to_prevalence(odds / (1 + odds), 0.7)
    assert prevalence == pytest.approx(true_prevalence, abs=0.02)
    true_odds = likelihood_ratio * true_prevalence / (1 - true_prevalence)
    assert np.abs(adapted - true_odds / (1 + true_odds)).mean() < 0.02
    assert expected_calibration_error(labels, adapted) < 0.015


def test_no_image_has_no_prevalence():
    adapted, prevalence = adapt_to_prevalence(np.array([]), 0.7)
    assert len(adapted) == 0 and np.isnan(prevalence)


def test_the_sentence_on_the_prevalence_fits_both_outcomes():
    closer = describe_prevalence(0.74, 0.65, 0.62)
    for part in ("74.0% in training", "62.0% in test", "65.0%"):
        assert part in closer
    assert "closer" in closer and "not closer" not in closer
    assert "not closer" in describe_prevalence(0.74, 0.9, 0.62)
