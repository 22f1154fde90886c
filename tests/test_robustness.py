"""Changed films, and what a network answers to them."""

import keras
import numpy as np
import pandas as pd
import pytest

from cxr.batches import ImageBatches, perturb_batches
from cxr.evaluation import compute_metrics
from cxr.robustness import (
    add_perturbed_copies,
    aspect_ratio_correlation,
    evaluate_perturbations,
    keep_only_border,
    mask_border,
    perturbations,
    pool_perturbations,
    predict_perturbed,
)


def test_changed_pictures_are_what_their_names_say():
    ramp = np.tile(np.linspace(60, 190, 64, dtype=np.float32), (64, 1))
    changed = {name: change(ramp) for name, change in perturbations(64).items()}
    assert np.array_equal(changed["unchanged"], ramp) and all(
        picture.shape == ramp.shape for picture in changed.values()
    )
    assert changed["half the contrast"].std() == pytest.approx(ramp.std() / 2, rel=1e-3)
    assert changed["gamma 2"][0, 0] == pytest.approx(255 * (60 / 255) ** 2, rel=1e-3)
    assert changed["cropped to 80 %"].max() - changed[
        "cropped to 80 %"
    ].min() == pytest.approx(0.8 * 130, abs=2)
    taller = perturbations(64)["stretched by a quarter in height"](ramp.T)
    assert (
        taller.max() - taller.min() == pytest.approx(0.8 * 130, abs=3)
        and abs(taller[32, 32] - ramp.T[32, 32]) < 2
    )
    assert changed["turned by 12 degrees"][32, 32] == pytest.approx(ramp[32, 32], abs=2)
    assert (
        changed["noisy"].std() > ramp.std()
        and np.abs(changed["blurred"] - ramp).max() < 5
    )


def test_one_line_for_all_changes_costs_what_ranking_within_each_hides():
    """Each change ranks its sick child above its healthy one; of the four pairs of all together, .3 against .4 is wrong."""
    labels, changed = (
        np.array([0, 1]),
        {"unchanged": np.array([0.1, 0.3]), "brighter": np.array([0.4, 0.6])},
    )
    assert evaluate_perturbations(labels, changed, 0.5).auc.tolist() == [1, 1]
    together = compute_metrics(*pool_perturbations(labels, changed), 0.5)
    assert (together["auc"], together["sensitivity"], together["specificity"]) == (
        0.75,
        0.5,
        1,
    )


def test_shifted_batches_change_the_images_and_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 1), np.uint8)
    batches = ImageBatches([images], np.arange(10)[::-1], np.arange(10) % 2, 4)
    brighter = perturb_batches(batches, lambda picture: picture + 60)
    for number in range(3):
        assert np.array_equal(
            brighter[number][0], np.minimum(batches[number][0].astype(int) + 60, 255)
        )
        assert np.array_equal(brighter[number][1], batches[number][1])


def test_a_training_is_watched_on_films_as_they_are_and_with_every_change_equally_often():
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 1), np.uint8)
    batches = ImageBatches(
        [images], np.arange(12)[::-1], np.arange(12) % 2, 5, devices=2
    )
    varied = add_perturbed_copies(batches, 3)
    seen, labels, weights = (
        np.concatenate(parts)
        for parts in zip(*(varied[number] for number in range(len(varied))))
    )
    seen, labels = seen[weights > 0], labels[weights > 0]
    assert (
        len(varied) == 8
        and np.array_equal(seen[:12], images[::-1])
        and np.array_equal(labels[:12], batches.labels)
    )
    assert labels[12:].tolist() == np.repeat(batches.labels, 3).tolist()
    expected, counts = (
        [change for name, change in perturbations(32).items() if name != "unchanged"],
        np.zeros(18, int),
    )
    for place, picture in enumerate(seen[12:]):
        own = images[::-1][place // 3, :, :, 0].astype(np.float32)
        alike = [
            np.array_equal(np.clip(np.round(change(own)), 0, 255), picture[:, :, 0])
            for change in expected
        ]
        counts[np.flatnonzero(alike)] += 1
    assert set(counts) == {2}  # 36 pictures, 18 changes


def test_a_network_that_sees_the_mean_gray_answers_to_brightness_and_not_to_a_turn():
    """Its logit is a tenth of how far the mean gray level lies above 128."""
    inputs = keras.Input((32, 32, 1))
    x = keras.layers.GlobalAveragePooling2D()(
        keras.layers.Rescaling(0.1, offset=-12.8)(inputs)
    )
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(x))
    levels = np.array([100, 120, 140, 160], np.uint8)
    images = np.tile(levels[:, None, None, None], (1, 32, 32, 1))
    changed = predict_perturbed(
        model, ImageBatches([images], np.array([3, 0]), np.array([1, 0]), 2)
    )
    assert list(changed) == list(perturbations(32))
    for name, gray in {
        "unchanged": (160, 100),
        "brighter, clipped": (220, 160),
        "darker, clipped": (100, 40),
        "turned by 12 degrees": (160, 100),
        "half the contrast": (160, 100),
    }.items():
        assert changed[name] == pytest.approx(
            1 / (1 + np.exp(-(np.array(gray) - 128) / 10)), rel=1e-3
        ), name


def test_the_frame_is_hidden_or_kept():
    picture = np.random.default_rng(0).uniform(0, 255, (50, 50)).astype("float32")
    hidden, kept = mask_border(picture), keep_only_border(picture)
    assert np.allclose(
        hidden[6:-6, 6:-6], picture[6:-6, 6:-6], rtol=0, atol=1e-4
    ) and np.allclose(hidden[:6], picture.mean())
    assert np.array_equal(kept[:6], picture[:6]) and np.array_equal(
        kept[:, -6:], picture[:, -6:]
    )
    assert np.allclose(kept[6:-6, 6:-6], picture.mean())


def test_an_answer_that_follows_the_shape_is_noticed():
    generator = np.random.default_rng(0)
    files = pd.DataFrame(
        {
            "width": generator.uniform(100, 200, 300),
            "height": 100.0,
            "label": np.arange(300) % 2,
            "patient": np.arange(300),
        }
    )
    logits = np.where(files.label == 1, (files.width - 150) / 20, 0) + generator.normal(
        0, 0.5, 300
    )
    sick, said = files.label == 1, 1 / (1 + np.exp(-logits))
    assert aspect_ratio_correlation(files[sick], said[sick], 200, 0)[1] > 0.8
    _, low, high = aspect_ratio_correlation(files[~sick], said[~sick], 200, 0)
    assert low < 0 < high
    assert all(
        np.isnan(
            aspect_ratio_correlation(
                files[~sick].assign(width=100.0), said[~sick], 20, 0
            )
        )
    )


def test_the_correlation_with_the_shape_is_spearmans():
    """Ranks of width / height 1 2 3 4 5 and of the answer 2 1 3 5 4: 1 - 6 x 4 / (5 x 24)."""
    files = pd.DataFrame(
        {"width": [50, 60, 70, 80, 900], "height": 50, "patient": list("abcde")}
    )
    value, low, high = aspect_ratio_correlation(
        files, np.array([0.2, 0.1, 0.3, 0.99, 0.4]), 50, 0
    )
    assert value == pytest.approx(0.8) and low <= value <= high
