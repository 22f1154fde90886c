"""Metrics and confidence intervals, against values worked out by hand or otherwise."""

import json
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from cxr.batches import ImageBatches
from cxr.calibration import adapt_to_prevalence
from cxr.evaluation import (
    auc_and_average_precision,
    cluster_bootstrap_weights,
    compare_datasets,
    compare_findings,
    compute_metrics,
    describe_adapted,
    describe_confusion_matrix,
    describe_findings,
    describe_mean_probability,
    describe_test_scores,
    format_metrics,
    independent_difference,
    mean_with_ci,
    metrics_by_finding,
    metrics_with_ci,
    percentile_ci,
    predict_logits,
    predict_probabilities,
    predictive_values,
)
from cxr.models import build_baseline, build_cnn
from cxr.storage import to_json


class FirstPixelModel:
    """Stands for a network that predicts the gray level of an image's first pixel."""

    @staticmethod
    def predict(batches, verbose):
        first_pixels = [batches[number][0][:, 0, 0] for number in range(len(batches))]
        return np.concatenate(first_pixels) / np.float32(255)


# Predictions


def test_probabilities_come_in_the_order_of_the_images():
    levels = np.arange(0, 250, 50, dtype=np.uint8)
    x = np.tile(levels[:, None, None, None], (1, 2, 2, 1))
    probabilities = predict_probabilities(FirstPixelModel(), x)
    assert probabilities.dtype == np.float64
    assert probabilities == pytest.approx(levels / 255)
    batches = ImageBatches([x[:2], x[2:]], np.array([4, 0, 3]), np.zeros(3, int), 2)
    probabilities = predict_probabilities(FirstPixelModel(), batches)
    assert probabilities * 255 == pytest.approx([200, 0, 150])


def test_arrays_of_any_length_are_predicted_in_batches_of_one_shape():
    """Each batch has 32 images, and none of those that pad the last batch returns."""
    shapes = []

    class RecordingModel(FirstPixelModel):
        def predict(self, batches, verbose):
            shapes.extend(batches[number][0].shape for number in range(len(batches)))
            return super().predict(batches, verbose)

    for count in (1, 32, 70):
        x = np.random.default_rng(count).integers(0, 256, (count, 1, 1, 1), np.uint8)
        probabilities = predict_probabilities(RecordingModel(), x)
        assert probabilities * 255 == pytest.approx(x.ravel())
    assert shapes == [(32, 1, 1, 1)] * 5


@pytest.mark.parametrize("build", [build_baseline, build_cnn])
def test_logits_belong_to_the_probabilities(build):
    model = build(32)
    x = np.random.default_rng(0).integers(0, 256, (35, 32, 32, 1), np.uint8)
    logits = predict_logits(model, x)
    assert logits.dtype == np.float64 and logits.shape == (35,)
    assert 1 / (1 + np.exp(-logits)) == pytest.approx(
        predict_probabilities(model, x), abs=1e-6
    )
    batches = ImageBatches([x], np.array([34, 2]), np.zeros(2, int), 32)
    assert predict_logits(model, batches) == pytest.approx(logits[[34, 2]], abs=1e-5)


def test_logits_keep_what_a_probability_rounds_off():
    inputs = keras.Input((1, 1, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Rescaling(1.0, name="logit")(x)
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(x))
    x = np.array([100, 200], np.uint8)[:, None, None, None]
    assert predict_probabilities(model, x).tolist() == [1, 1]
    assert predict_logits(model, x).tolist() == [100, 200]


def test_logits_follow_weights_that_are_changed_later():
    model = build_baseline(32)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    before = predict_logits(model, x)
    kernel, bias = model.get_layer("logit").get_weights()
    model.get_layer("logit").set_weights([kernel, bias + 1])
    assert predict_logits(model, x) == pytest.approx(before + 1, abs=1e-5)


# Metrics


def test_metrics_of_five_images_worked_out_by_hand():
    labels = np.array([1, 1, 1, 0, 0])
    probabilities = np.array([0.9, 0.8, 0.3, 0.4, 0.1])
    expected = {
        "accuracy": 4 / 5,
        "sensitivity": 2 / 3,
        "specificity": 1,
        "precision": 1,
        "f1": 4 / 5,
        "auc": 5 / 6,
        "average_precision": (1 + 1 + 3 / 4) / 3,
    }
    weighted = compute_metrics(labels, probabilities, 0.5, np.ones(5))
    assert weighted == pytest.approx(expected)
    assert compute_metrics(labels, probabilities, 0.5) == pytest.approx(expected)


def test_an_image_of_weight_two_counts_like_two_images():
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=40)
    probabilities = generator.random(40).round(1)
    weights = generator.integers(0, 4, size=40)
    repeated = np.repeat(np.arange(40), weights)
    weighted = compute_metrics(labels, probabilities, 0.5, weights.astype(float))
    expected = compute_metrics(labels[repeated], probabilities[repeated], 0.5)
    assert weighted == pytest.approx(expected)


def test_a_probability_at_the_threshold_is_positive():
    values = compute_metrics(np.array([1, 0]), np.array([0.5, 0.4]), 0.5)
    assert values["sensitivity"] == 1


def test_auc_and_average_precision_agree_with_scikit_learn():
    """With ties, and with patients who were drawn several times or never."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300)
    probabilities = np.round(generator.random(300), 1)
    for weights in (np.ones(300), generator.integers(0, 3, 300).astype(float)):
        expected = (
            metrics.roc_auc_score(labels, probabilities, sample_weight=weights),
            metrics.average_precision_score(
                labels, probabilities, sample_weight=weights
            ),
        )
        computed = auc_and_average_precision(labels, probabilities, weights)
        assert computed == pytest.approx(expected)
    one_class = auc_and_average_precision(np.ones(3), probabilities[:3], np.ones(3))
    assert np.isnan(one_class).all()


def test_predictive_values_worked_out_by_hand():
    """Of 1,000 children, 100 have pneumonia: 90 true and 90 false positives."""
    assert predictive_values(0.9, 0.9, 0.1) == pytest.approx((0.5, 810 / 820))


def test_a_predictive_value_without_predictions_is_nan():
    ppv, npv = predictive_values(0, 1, 0.1)
    assert np.isnan(ppv) and npv == pytest.approx(0.9)
    assert np.isnan(predictive_values(1, 0, 0.1)[1])


# Confidence intervals


def test_intervals_are_as_wide_as_the_number_of_patients_demands():
    """40 patients with 10 equal images each: as wide as for 40 images, not for 400."""
    is_correct = np.repeat(np.arange(40) % 5 > 0, 10)  # 80% of the patients
    labels = np.repeat(np.arange(40) % 2, 10)
    patients = np.repeat(np.arange(40), 10)
    probabilities = np.where(is_correct == (labels == 1), 0.9, 0.1)
    estimates = metrics_with_ci(labels, probabilities, patients, 0.5, 1000, 0)
    accuracy = estimates["accuracy"]
    width = 2 * 1.96 * np.sqrt(0.8 * 0.2 / 40)
    assert accuracy["value"] == pytest.approx(0.8)
    assert accuracy["high"] - accuracy["low"] == pytest.approx(width, rel=0.15)


def test_the_interval_of_a_mean_is_drawn_by_patient():
    """40 patients with 25 equal values each: the interval is that of 40 values."""
    values = np.repeat(np.arange(40) % 2, 25).astype(float)
    found = mean_with_ci(values, np.repeat(np.arange(40), 25), 2000, 0)
    mean, low, high = found["value"], found["low"], found["high"]
    width = 2 * 1.96 * 0.5 / np.sqrt(40)
    assert mean == 0.5
    assert high - low == pytest.approx(width, rel=0.12)


def test_a_bootstrap_sample_draws_whole_patients_with_replacement():
    patients = np.array(["b", "a", "b", "c", "b"])
    samples = list(cluster_bootstrap_weights(patients, 200, 0))
    for weights in samples:
        assert weights[0] == weights[2] == weights[4]
        assert weights[0] + weights[1] + weights[3] == 3
        assert (weights == weights.round()).all()
    assert np.mean(samples, axis=0) == pytest.approx(np.ones(5), abs=0.2)
    assert np.array_equal(samples, list(cluster_bootstrap_weights(patients, 200, 0)))
    other_seed = list(cluster_bootstrap_weights(patients, 200, 1))
    assert not np.array_equal(samples, other_seed)


def test_an_interval_does_not_collapse_where_there_is_no_error():
    """None of 40 normal patients is misclassified.

    At a true specificity of .025 ** (1 / 40) = .912, that happens in 2.5% of cases.
    """
    labels = np.array([0] * 40 + [1] * 100)
    patients = np.arange(140)
    perfect = metrics_with_ci(labels, labels * 0.8 + 0.1, patients, 0.5, 100, 0)
    for name in ("auc", "specificity", "accuracy"):
        assert perfect[name]["value"] == perfect[name]["high"] == 1
        assert perfect[name]["low"] == pytest.approx(0.9119, abs=1e-4)
    sensitivity = perfect["sensitivity"]  # of 100 patients: .025 ** (1 / 100)
    assert sensitivity["low"] == pytest.approx(0.9638, abs=1e-4)
    ill_only = metrics_with_ci(np.ones(40), np.ones(40), np.arange(40), 0.5, 100, 0)
    for name in ("sensitivity", "accuracy"):
        assert ill_only[name]["low"] == pytest.approx(0.9119, abs=1e-4)
    all_wrong = metrics_with_ci(labels, 0.9 - labels * 0.8, patients, 0.5, 100, 0)
    specificity = all_wrong["specificity"]
    assert specificity["value"] == specificity["low"] == 0
    assert specificity["high"] == pytest.approx(1 - 0.9119, abs=1e-4)


def test_percentiles_leave_out_samples_without_a_value():
    table = pd.DataFrame({"auc": [0.5, np.nan, *np.linspace(0, 1, 41)], "f1": np.nan})
    estimates = percentile_ci(table)
    assert estimates["auc"] == pytest.approx(
        {"value": 0.5, "low": 0.025, "high": 0.975}
    )
    assert np.isnan(list(estimates["f1"].values())).all()


# Sets in which something is missing


def test_a_metric_that_is_undefined_is_null_in_json():
    labels = np.ones(4, int)
    estimates = metrics_with_ci(labels, np.full(4, 0.9), list("abcd"), 0.5, 20, 0)
    assert estimates["accuracy"]["value"] == 1
    assert np.isnan(estimates["specificity"]["value"])
    nothing = {"value": None, "low": None, "high": None}
    assert json.loads(to_json(estimates))["auc"] == nothing


@pytest.mark.parametrize("labels", [[], [0], [1], [0, 0]], ids=str)
def test_sets_without_images_or_without_a_class_give_nan(labels):
    labels = np.array(labels, int)
    probabilities = np.full(len(labels), 0.9)
    patients = np.arange(len(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimates = metrics_with_ci(labels, probabilities, patients, 0.5, 10, 0)
        mean = mean_with_ci(probabilities, patients, 10, 0)
    for name in ("auc", "average_precision"):
        assert np.isnan(list(estimates[name].values())).all()
    assert np.isnan(estimates["sensitivity"]["value"]) == (1 not in labels)
    assert np.isnan(estimates["specificity"]["value"]) == (0 not in labels)
    assert np.isnan(list(mean.values())).all() == (len(labels) == 0)


def test_one_image_of_each_class_has_metrics():
    labels = np.array([0, 1])
    estimates = metrics_with_ci(labels, np.array([0.2, 0.8]), ["a", "b"], 0.5, 20, 0)
    for estimate in estimates.values():
        assert estimate["value"] == 1
        assert estimate["low"] == pytest.approx(0.025)  # of one patient a class


# Tables and sentences


@pytest.mark.parametrize("true_prevalence", [0.1, 0.9])
def test_a_comparison_of_data_sets_shows_what_the_prevalence_changes(true_prevalence):
    """Calibrated at a prevalence of 70%, for images that have another one."""
    generator = np.random.default_rng(0)
    labels = (generator.random(20_000) < true_prevalence).astype(int)
    odds = np.exp((generator.normal(labels, 0.7) - 0.5) / 0.49) * 0.7 / 0.3
    probabilities = odds / (1 + odds)
    adapted, _ = adapt_to_prevalence(probabilities, 0.7)
    datasets = {"before": (labels, probabilities), "adapted": (labels, adapted)}
    table = compare_datasets(datasets, 0.5)
    assert table.prevalence.tolist() == pytest.approx([labels.mean()] * 2)
    before = compute_metrics(labels, probabilities, 0.5)
    assert table.loc["before", "PPV"] == before["precision"]
    assert table.loc["before", "mean probability"] == probabilities.mean()
    assert table.loc["adapted", "calibration error"] < 0.015
    assert table.loc["before", "calibration error"] > 0.03


@pytest.mark.parametrize(("low", "is_above"), [(0.63, True), (0.62, False)])
def test_the_accuracy_is_compared_with_that_of_a_constant_prediction(low, is_above):
    """Of 624 images 390, or 62.5%, are PNEUMONIA."""
    text = describe_confusion_matrix(
        np.array([[200, 34], [12, 378]]),
        {"accuracy": {"value": 578 / 624, "low": low, "high": 0.95}},
        "phantoms",
    )
    assert "12 of 390 phantoms" in text
    assert "34 false positives among 234" in text
    assert "Accuracy 92.6%" in text and f"{low:.1%} to 95.0%" in text
    assert "significantly above the 62.5%" in text
    assert ("not significantly above" in text) != is_above


def test_metrics_become_texts_and_undefined_ones_a_dash():
    estimate = {"value": 0.9, "low": 0.85, "high": 0.95}
    undefined = dict.fromkeys(("value", "low", "high"), np.nan)
    table = format_metrics(test={"auc": estimate, "specificity": undefined})
    assert table.test.to_dict() == {"auc": "0.900 [0.850–0.950]", "specificity": "–"}


def test_each_kind_of_pneumonia_is_compared_with_all_normal_images():
    labels = np.array([0, 0, 1, 1, 1])
    probabilities = np.array([0.1, 0.6, 0.9, 0.3, 0.8])
    files = pd.DataFrame(
        {
            "finding": ["normal", "normal", "bacterial", "viral", "bacterial"],
            "patient": list("abcde"),
        }
    )
    table = metrics_by_finding(labels, probabilities, files, 0.5, 20, 0)
    assert table.images.to_dict() == {"bacterial": 2, "viral": 1}
    assert table.sensitivity["bacterial"].startswith("1.000")
    assert table.sensitivity["viral"].startswith("0.000")
    assert table["AUC against normal"]["viral"].startswith("0.500")
    bacterial = files.assign(finding=files.finding.replace("viral", "unknown"))
    table = metrics_by_finding(labels, probabilities, bacterial, 0.5, 20, 0)
    assert list(table.index) == ["bacterial"]


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_the_auc_of_the_two_forms_is_compared_by_a_paired_bootstrap():
    """Every viral image ranks below half of the normal ones: AUC 1 against 0.5."""
    labels = np.repeat([1, 1, 0, 0], 20)
    probabilities = np.repeat([0.9, 0.4, 0.3, 0.5], 20)
    findings = np.repeat(["bacterial", "viral", "normal", "normal"], 20)
    files = pd.DataFrame({"finding": findings, "patient": np.arange(80)})
    found = compare_findings(labels, probabilities, files, 200, 0)
    assert found["value"] == pytest.approx(0.5)
    assert 0.3 < found["low"] < 0.45 and 0.55 < found["high"] < 0.7
    swapped = files.replace({"bacterial": "viral", "viral": "bacterial"})
    other = compare_findings(labels, probabilities, swapped, 200, 0)
    assert other["value"] == -found["value"]
    assert other["low"] == pytest.approx(-found["high"])
    one_form = files.replace("viral", "bacterial")
    missing = compare_findings(labels, probabilities, one_form, 20, 0)
    assert np.isnan(missing["value"])
    assert "cannot be compared" in describe_findings(missing)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.05, "the bacterial form is detected more easily"),
        (-0.05, -0.01, "the viral form is detected more easily"),
        (-0.02, 0.04, "no significant difference"),
    ],
)
def test_the_form_that_is_detected_more_easily_is_named(low, high, verdict):
    text = describe_findings(estimate((low + high) / 2, low, high))
    assert verdict in text and f"{low:+.3f} to {high:+.3f}" in text


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.65, 0.84, "significantly lower"),
        (0.96, 0.99, "significantly higher"),
        (0.80, 0.88, "no significant difference"),
        (0.78, 0.86, "significantly lower"),  # although the intervals overlap
    ],
)
def test_a_difference_is_significant_where_its_interval_excludes_0(low, high, verdict):
    names = ("auc", "sensitivity", "specificity")
    validation = {name: estimate(0.9, 0.85, 0.95) for name in names}
    changed = estimate((low + high) / 2, low, high)
    test = validation | {"specificity": changed}
    lines = describe_test_scores(validation, test).splitlines()
    assert verdict in lines[2]
    assert all("no significant difference" in line for line in lines[:2])
    assert f"[{low:.3f}–{high:.3f}] on test" in lines[2]
    test["auc"] = estimate(*[float("nan")] * 3)
    lines = describe_test_scores(validation, test).splitlines()
    assert lines[0].endswith("not measurable on test: not comparable.")


def test_the_interval_of_a_difference_of_independent_estimates_by_hand():
    """Distances to the limits of 0.03 and 0.04 make one of 0.05."""
    first = estimate(0.8, 0.76, 0.83)
    second = estimate(0.9, 0.86, 0.93)
    difference = independent_difference(first, second)
    assert list(difference.values()) == pytest.approx([0.1, 0.05, 0.15])
    back = independent_difference(second, first)
    assert list(back.values()) == pytest.approx([-0.1, -0.15, -0.05])


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    """Two proportions, from 400 and 300 independent patients, 2,000 times."""
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        estimates = []
        for size, truth in ((400, 0.9), (300, 0.8)):
            found = generator.binomial(size, truth)
            interval = binomtest(found, size).proportion_ci(method="wilson")
            estimates.append(estimate(found / size, *interval))
        difference = independent_difference(*estimates)
        covered.append(difference["low"] < -0.1 < difference["high"])
    assert 0.93 < np.mean(covered) < 0.97


def test_what_an_adaptation_improves_is_named():
    before = {"sensitivity": 0.9, "specificity": 0.8, "PPV": 0.7}
    before |= {"mean probability": 0.8, "calibration error": 0.1}
    after = before | {"sensitivity": 0.8, "specificity": 0.9, "mean probability": 0.65}
    text = describe_adapted(pd.Series(before), pd.Series(after), 0.7)
    assert text == (
        "The adaptation improves specificity, mean probability; it worsens sensitivity."
    )
    invisible = before | {"PPV": 0.6996}
    same = describe_adapted(pd.Series(before), pd.Series(invisible), 0.7)
    assert same == "The adaptation improves nothing; it worsens nothing."


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.01, 0.05, "significantly too high"),
        (-0.05, -0.01, "significantly too low"),
        (-0.02, 0.04, "not significantly too high or too low"),
    ],
)
def test_probabilities_too_high_or_too_low_on_average_are_named(low, high, verdict):
    text = describe_mean_probability(estimate((low + high) / 2, low, high))
    assert text.endswith(f"{low:+.3f} to {high:+.3f}): {verdict}.")
