"""The linear baseline finds what was put into made-up images, where it may look."""

import numpy as np
import pytest

from cxr.batches import ImageBatches, perturb_batches
from cxr.linear_baseline import LinearBaseline, border_mask


def draw_images(labels, rows, columns, seed=0):
    """Return noise, uint8 (n, 24, 24, 1), brighter at a place where the label is 1."""
    noise = np.random.default_rng(seed).integers(0, 120, (len(labels), 24, 24, 1))
    noise[np.asarray(labels) == 1, rows, columns] += 120
    return noise.astype(np.uint8)


def test_the_border_has_a_fraction_of_the_width():
    mask = border_mask(50)
    assert mask[:6].all() and mask[:, -6:].all()
    assert not mask[6:-6, 6:-6].any()


def test_only_the_rows_of_the_batches_are_learned_from():
    """In the other rows, the label is told by another place."""
    labels = np.arange(200) % 2
    is_train = np.arange(200) < 120
    images = draw_images(labels, 10, 12)
    images[~is_train] = draw_images(labels[~is_train], 20, 20, seed=1)
    before = images.copy()
    rows = np.flatnonzero(is_train)
    batches = ImageBatches([images[:70], images[70:]], rows, labels[rows], 32)
    model = LinearBaseline().fit(batches)
    predictions = model.predict(batches)
    assert predictions.dtype == np.float64 and predictions.shape == (120,)
    assert ((predictions > 0.5) == labels[rows]).mean() > 0.95
    of_arrays = LinearBaseline().fit(images[rows], labels[rows]).predict(images[rows])
    assert np.allclose(predictions, of_arrays)
    others = model.predict(images[~is_train])
    assert ((others > 0.5) == labels[~is_train]).mean() < 0.7
    assert np.array_equal(images, before)


def test_shuffling_augmentation_and_weights_do_not_matter():
    labels = np.arange(40) % 2
    images = draw_images(labels, 10, 12)
    rows = np.arange(40)
    plain = ImageBatches([images], rows, labels, 16)
    training = ImageBatches(
        [images],
        rows,
        labels,
        16,
        seed=1,
        class_weights=(1, 3),
        augmentation=lambda image, generator: 255 - image,
    )
    expected = LinearBaseline().fit(plain).predict(plain)
    assert np.array_equal(LinearBaseline().fit(training).predict(training), expected)


def test_perturbed_batches_are_predicted_as_perturbed():
    labels = np.arange(40) % 2
    images = draw_images(labels, 10, 12)
    batches = ImageBatches([images], np.arange(40)[::-1], labels[::-1], 16)
    model = LinearBaseline().fit(batches)
    mirrored = perturb_batches(batches, lambda image: image[:, ::-1])
    expected = model.predict(images[::-1, :, ::-1])
    assert np.allclose(model.predict(mirrored), expected)
    assert not np.allclose(model.predict(mirrored), model.predict(batches), atol=0.01)


def test_a_model_of_the_border_does_not_see_the_rest():
    labels = np.arange(80) % 2
    on_top = draw_images(labels, 0, slice(None))
    model = LinearBaseline(border_only=True).fit(on_top, labels)
    new_labels = np.repeat([0, 1], 5)
    images = draw_images(new_labels, 0, slice(None), seed=1)
    predictions = model.predict(images)
    assert np.array_equal(predictions > 0.5, new_labels == 1)
    flipped = images.copy()
    flipped[:, 3:-3, 3:-3] = images[:, 3:-3, 3:-3][:, ::-1]
    assert np.array_equal(model.predict(flipped), predictions)
    sees_all = LinearBaseline().fit(on_top, labels)
    assert not np.allclose(
        sees_all.predict(flipped), sees_all.predict(images), atol=1e-3
    )


def test_thumbnails_are_means_of_blocks():
    image = np.zeros((1, 4, 4, 1), np.uint8)
    image[0, :2, :2] = [[[255], [0]], [[255], [0]]]
    pixels = LinearBaseline(size=2).extract_pixels(image)
    assert pixels.dtype == np.float32
    assert pixels.tolist() == [pytest.approx([0.5, 0, 0, 0], abs=0.01)]


def test_a_prediction_is_the_sigmoid_of_the_decision_function():
    labels = np.arange(40) % 2
    images = draw_images(labels, 10, 12)
    model = LinearBaseline().fit(images, labels)
    scores = model.classifier.decision_function(model.extract_pixels(images))
    assert model.predict(images) == pytest.approx(1 / (1 + np.exp(-scores)), rel=1e-5)
