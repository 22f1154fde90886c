"""Perturbed images, and what models predict for them."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxr.batches import ImageBatches
from cxr.evaluation import compute_metrics
from cxr.robustness import (
    add_perturbed_copies,
    aspect_ratio_correlation,
    describe_aspect_ratio_use,
    describe_border_use,
    describe_robustness,
    evaluate_perturbations,
    keep_only_border,
    mask_border,
    perturbations,
    pool_perturbations,
    predict_perturbed,
)


def test_perturbed_images_are_what_their_names_say():
    ramp = np.tile(np.linspace(60, 190, 64, dtype=np.float32), (64, 1))
    perturbed = {name: perturb(ramp) for name, perturb in perturbations(64).items()}
    assert next(iter(perturbed)) == "unchanged"
    assert np.array_equal(perturbed["unchanged"], ramp)
    assert all(image.shape == ramp.shape for image in perturbed.values())
    assert perturbed["half_contrast"].std() == pytest.approx(ramp.std() / 2, rel=1e-3)
    assert perturbed["half_contrast"].mean() == pytest.approx(ramp.mean(), rel=1e-3)
    assert perturbed["more_contrast"].std() > 1.5 * ramp.std()
    assert perturbed["darker"].mean() < ramp.mean() < perturbed["brighter"].mean()
    assert (perturbed["gamma_one_half"] > ramp).all()
    dark = 255 * (60 / 255) ** 2
    assert perturbed["gamma_two"][0, 0] == pytest.approx(dark, rel=1e-3)
    assert np.ptp(perturbed["cropped_to_80_percent"]) == pytest.approx(104, abs=2)
    assert np.ptp(perturbed["stretched_horizontally"]) == pytest.approx(104, abs=3)
    assert perturbed["rotated_by_12_degrees"][32, 32] == pytest.approx(
        ramp[32, 32], abs=2
    )
    assert perturbed["noisy"].std() > ramp.std()
    assert np.abs(perturbed["blurred"] - ramp).max() < 5
    assert perturbed["border_masked"][0] == pytest.approx(ramp.mean(), rel=1e-5)


def test_a_vertical_stretch_keeps_the_center():
    ramp = np.tile(np.linspace(60, 190, 64, dtype=np.float32)[:, None], (1, 64))
    stretched = perturbations(64)["stretched_vertically"](ramp)
    assert np.ptp(stretched) == pytest.approx(0.8 * 130, abs=3)
    assert abs(stretched[32, 32] - ramp[32, 32]) < 2


def test_a_marker_is_added_at_the_upper_left_and_can_be_removed():
    functions = perturbations(96)
    plain = np.full((96, 96), 30, np.float32)
    marked = functions["marker_added"](plain)
    assert marked[:20, :20].max() > 200
    assert (marked[30:] == 30).all() and (marked[:, 30:] == 30).all()
    spot = plain.copy()
    spot[40:45, 4:9] = 220
    assert functions["markers_removed"](spot).max() < 40
    assert functions["sharpened"](spot).max() > 220


def test_pooling_shows_the_cost_of_one_threshold_for_all_perturbations():
    """Each perturbation alone is ranked perfectly; of all four pairs, one is not."""
    labels = np.array([0, 1])
    predictions = {"darker": np.array([0.1, 0.3]), "brighter": np.array([0.4, 0.6])}
    assert evaluate_perturbations(labels, predictions, 0.5).auc.tolist() == [1, 1]
    pooled = compute_metrics(*pool_perturbations(labels, predictions), 0.5)
    assert pooled["auc"] == 0.75
    assert pooled["sensitivity"] == 0.5
    assert pooled["specificity"] == 1


def test_copies_go_through_every_perturbation_equally_often():
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 1), np.uint8)
    rows = np.arange(12)[::-1]
    batches = ImageBatches([images], rows, np.arange(12) % 2, 5, devices=2)
    extended = add_perturbed_copies(batches, 3)
    parts = [extended[number] for number in range(len(extended))]
    assert {len(part[0]) for part in parts} == {6}
    weights = np.concatenate([part[2] for part in parts])
    seen = np.concatenate([part[0] for part in parts])[weights > 0]
    labels = np.concatenate([part[1] for part in parts])[weights > 0]
    assert len(seen) == 12 + 36
    assert np.array_equal(seen[:12], images[::-1])
    assert np.array_equal(labels[:12], batches.labels)
    assert np.array_equal(labels[12:], np.repeat(batches.labels, 3))

    functions = list(perturbations(32).values())[1:]
    counts = np.zeros(len(functions), int)
    for place, copy in enumerate(seen[12:]):
        original = images[rows[place // 3], :, :, 0].astype(np.float32)
        for number, perturb in enumerate(functions):
            expected = np.clip(np.round(perturb(original)), 0, 255)
            counts[number] += np.array_equal(expected, copy[:, :, 0])
    assert len(functions) == 18
    assert set(counts) == {2}


def predict_mean(batches):
    """Return the mean gray level of each image of ImageBatches."""
    images = [batches[number][0] for number in range(len(batches))]
    return np.concatenate(images).mean(axis=(1, 2, 3))[: len(batches.rows)]


def test_every_perturbation_is_predicted():
    """A model of the mean gray level follows brightness, and ignores a rotation."""
    levels = np.array([100, 120, 140, 160], np.uint8)
    images = np.tile(levels[:, None, None, None], (1, 32, 32, 1))
    batches = ImageBatches([images], np.array([3, 0]), np.array([1, 0]), 2)
    predictions = predict_perturbed(predict_mean, batches)
    assert list(predictions) == list(perturbations(32))[1:]
    assert predictions["brighter"].tolist() == [220, 160]
    assert predictions["darker"].tolist() == [100, 40]
    assert predictions["rotated_by_12_degrees"].tolist() == [160, 100]
    assert predictions["half_contrast"].tolist() == [160, 100]


def test_the_border_is_masked_or_kept():
    image = np.random.default_rng(0).uniform(0, 255, (50, 50)).astype("float32")
    masked = mask_border(image)
    kept = keep_only_border(image)
    assert np.array_equal(masked[6:-6, 6:-6], image[6:-6, 6:-6])
    assert np.allclose(masked[:6], image.mean())
    assert np.array_equal(kept[:6], image[:6])
    assert np.array_equal(kept[:, -6:], image[:, -6:])
    assert np.allclose(kept[6:-6, 6:-6], image.mean())


@pytest.fixture
def files():
    """150 images a class, of many aspect ratios."""
    return pd.DataFrame(
        {
            "width": np.random.default_rng(0).uniform(100, 200, 300),
            "height": 100.0,
            "label": np.arange(300) % 2,
            "patient": np.arange(300),
        }
    )


@pytest.fixture
def probabilities(files):
    """Probabilities that follow the aspect ratio among PNEUMONIA only."""
    noise = np.random.default_rng(1).normal(0, 0.5, 300)
    logits = np.where(files.label == 1, (files.width - 150) / 20, 0) + noise
    return 1 / (1 + np.exp(-logits))


def test_predictions_that_follow_the_aspect_ratio_are_noticed(files, probabilities):
    pneumonia = files.label == 1
    follows = aspect_ratio_correlation(
        files[pneumonia], probabilities[pneumonia], 200, 0
    )
    assert follows["low"] > 0.8
    normal = aspect_ratio_correlation(
        files[~pneumonia], probabilities[~pneumonia], 200, 0
    )
    assert normal["low"] < 0 < normal["high"]

    settings = SimpleNamespace(BOOTSTRAP_SAMPLES=200, SEED=0)
    text = describe_aspect_ratio_use(files, probabilities, settings)
    normal_text, pneumonia_text = text.split("\n")
    assert normal_text.startswith("NORMAL") and "not significant" in normal_text
    assert pneumonia_text.startswith("PNEUMONIA")
    assert "not significant" not in pneumonia_text
    assert f"{follows['value']:.2f}" in pneumonia_text


def test_the_correlation_with_the_aspect_ratio_is_spearmans():
    """Ranks 1 2 3 4 5 and 2 1 3 5 4: 1 − 6 × 4 / (5 × 24)."""
    files = pd.DataFrame(
        {"width": [50, 60, 70, 80, 900], "height": 50, "patient": list("abcde")}
    )
    probabilities = np.array([0.2, 0.1, 0.3, 0.99, 0.4])
    estimate = aspect_ratio_correlation(files, probabilities, 50, 0)
    assert estimate["value"] == pytest.approx(0.8)
    assert estimate["low"] <= estimate["value"] <= estimate["high"]


@pytest.mark.parametrize("count", [0, 1, 2, 150])
def test_images_of_one_aspect_ratio_have_no_correlation(files, probabilities, count):
    """Nor have no images, or one."""
    squares = files[files.label == 0].assign(width=100.0)[:count]
    settings = SimpleNamespace(BOOTSTRAP_SAMPLES=20, SEED=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = aspect_ratio_correlation(squares, probabilities[:count], 20, 0)
        text = describe_aspect_ratio_use(squares, probabilities[:count], settings)
    assert np.isnan(list(estimate.values())).all()
    for sentence in text.split("\n"):
        assert "no correlation" in sentence


def test_two_images_have_a_correlation():
    """In half of the bootstrap samples, one of them is drawn twice."""
    files = pd.DataFrame({"width": [50, 60], "height": 50, "patient": ["a", "b"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = aspect_ratio_correlation(files, np.array([0.2, 0.1]), 20, 0)
    assert list(estimate.values()) == pytest.approx([-1, -1, -1])


def test_the_perturbations_that_cost_most_are_named():
    table = pd.DataFrame(
        {
            "auc": [0.9, 0.8, 0.95],
            "sensitivity": [0.9, 0.95, 0.9],
            "specificity": [np.nan, np.nan, np.nan],
        },
        index=["unchanged", "half_contrast", "blurred"],
    )
    lines = describe_robustness(table).split("\n")
    assert lines[0] == "Largest drop in AUC: 0.100, half contrast."
    assert lines[1] == "No perturbation lowers the sensitivity."
    assert lines[2] == "The specificity could not be measured."
    assert lines[3].endswith("in 0 of 2 perturbations.")


def test_the_perturbations_that_the_threshold_does_not_fit_are_named():
    table = pd.DataFrame(
        {
            "auc": 0.9,
            "sensitivity": [0.9, 0.79, 1.0, 0.85],
            "specificity": [0.9, 0.95, 0.7, 0.85],
        },
        index=["unchanged", "half_contrast", "blurred", "noisy"],
    )
    line = describe_robustness(table).split("\n")[3]
    assert line.endswith("in 2 of 3 perturbations: half contrast, blurred.")


@pytest.mark.parametrize(
    ("low", "border_low", "verdicts"),
    [
        (-0.01, 0.55, ("no sign that the network needs", "the network can")),
        (-0.01, 0.45, ("no sign that the network needs", "no sign that the")),
        (0.02, 0.55, ("the network uses", "the network can")),
    ],
)
def test_whether_the_border_is_needed_or_usable_is_said(low, border_low, verdicts):
    masked = {"value": 0.88, "low": 0.8, "high": 0.9}
    border = {"value": 0.6, "low": border_low, "high": 0.7}
    difference = {"value": 0.09, "low": low, "high": 0.15}
    text = describe_border_use(masked, border, difference)
    assert f"to 0.880, by 0.090 (95% CI {low:.3f} to 0.150): {verdicts[0]}" in text
    assert f"to 0.700): {verdicts[1]}" in text
