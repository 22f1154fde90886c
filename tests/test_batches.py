"""Batches: the right images in the right order.

They are weighed so that a mean over them is the mean of the images that count.
"""

import numpy as np
import pandas as pd
import pytest

from cxr.batches import (
    ImageBatches,
    data_fingerprint,
    gather_images,
    make_batches,
    perturb_batches,
)


def levels(first, count):
    """Images of one pixel, with the gray levels that follow on the first."""
    return np.arange(first, first + count, dtype=np.uint8).reshape(count, 1, 1, 1)


def collect_epoch(batches):
    """Return the images, one pixel each, and labels of an epoch, without padding."""
    parts = [batches[number] for number in range(len(batches))]
    images, labels, weights = (np.concatenate(values) for values in zip(*parts))
    counts = weights > 0
    return images.ravel()[counts].tolist(), labels[counts].tolist()


def test_batches_show_each_image_once_an_epoch_in_an_order_that_the_seed_decides():
    arrays = [levels(0, 50), levels(50, 10)]
    rows = np.arange(1, 60, 2)

    def batches(seed):
        return ImageBatches(arrays, rows, np.zeros(30, int), 8, seed)

    first = batches(3)
    assert len(first) == 4
    orders = []
    for epoch in range(3):
        for number in range(4):
            assert {len(part) for part in first[number]} == {8}
        orders.append(collect_epoch(first)[0])
        assert sorted(orders[-1]) == rows.tolist()
        first.start_epoch(epoch + 1)
    assert len({tuple(order) for order in orders}) == 3
    again = batches(3)
    assert collect_epoch(again)[0] == orders[0]
    again.start_epoch(2)
    assert collect_epoch(again)[0] == orders[2], "it does not depend on earlier epochs"
    assert collect_epoch(batches(4))[0] != orders[0]


def test_without_a_seed_the_order_is_that_of_the_rows():
    rows = np.arange(1, 60, 2)[::-1]
    labels = np.arange(30) % 2
    batches = ImageBatches([levels(0, 50), levels(50, 10)], rows, labels, 8)
    batches.start_epoch(1)
    assert collect_epoch(batches) == (rows.tolist(), labels.tolist())


def test_the_rows_of_arrays_are_numbered_as_if_they_were_one():
    arrays = [levels(0, 3), levels(0, 0), levels(100, 2), levels(200, 4)]
    images = gather_images(arrays, np.array([8, 2, 3, 0, 5, 4, 3]))
    assert images.ravel().tolist() == [203, 2, 100, 0, 200, 101, 100]


def test_a_perturbation_sees_one_image_and_its_result_is_rounded_and_clipped():
    seen = []

    def perturb(image):
        seen.append((image.shape, image.dtype))
        return image * 2 - 20.4

    images = np.array(
        [[[0, 10], [11, 50]], [[100, 137], [138, 255]]],
        np.uint8,
    )[..., None]
    before = images.copy()
    perturbed = gather_images([images], np.array([1, 0]), [perturb] * 2)
    assert perturbed.dtype == np.uint8
    assert perturbed[0, ..., 0].tolist() == [[180, 254], [255, 255]]
    assert perturbed[1, ..., 0].tolist() == [[0, 0], [2, 80]]
    assert seen == [((2, 2), np.float32)] * 2
    assert np.array_equal(images, before)


def test_perturbed_batches_have_the_same_labels_and_no_order_of_their_own():
    rows = np.arange(10)[::-1]
    batches = ImageBatches([levels(0, 10)], rows, np.arange(10) % 2, 4)
    perturbed = perturb_batches(batches, lambda image: image + 60)
    images, labels = collect_epoch(perturbed)
    assert images == list(range(69, 59, -1))
    assert labels == collect_epoch(batches)[1]


def test_each_row_has_a_perturbation_of_its_own_in_whatever_order_it_comes():
    perturbations = [lambda image, more=more: image + more for more in (0, 20, 40)]
    batches = ImageBatches(
        [levels(100, 3)],
        np.array([2, 0, 2]),
        np.zeros(3, int),
        2,
        seed=0,
        perturbations=perturbations,
    )
    assert sorted(collect_epoch(batches)[0]) == [102, 120, 142]


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("count", "size"), [(1, 4), (7, 4), (8, 4), (25, 16), (64, 16), (30, 5)]
)
@pytest.mark.parametrize("class_weights", [None, [0.25, 3]])
def test_the_mean_over_an_epoch_is_the_mean_of_the_images_that_count(
    devices, count, size, class_weights
):
    """As Keras computes it: the weighted sum, divided by the number of all images."""
    generator = np.random.default_rng(count)
    images = generator.integers(0, 256, (count, 1, 1, 1), np.uint8)
    labels = generator.integers(2, size=count)
    batches = ImageBatches(
        [images], np.arange(count), labels, size, 0, devices, class_weights
    )
    parts = [batches[number] for number in range(len(batches))]
    lengths = {len(values) for part in parts for values in part}
    assert lengths == {batches.batch_size}, "all have one shape"
    assert batches.batch_size >= size and batches.batch_size % devices == 0
    images_seen, _, weights = (np.concatenate(values) for values in zip(*parts))
    expected = np.mean(np.array(class_weights or [1, 1])[labels] * images.ravel())
    mean = (weights * images_seen.ravel()).sum() / len(images_seen)
    assert mean == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(weights).all() and weights.dtype == np.float32


FILES = pd.DataFrame(
    {
        "split": ["train", "val", "train", "train", "train", "val", "test"],
        "label": [1, 0, 1, 0, 1, 1, 0],
    }
)


def test_a_split_gives_its_images_with_their_labels():
    arrays = [levels(10, 4), levels(20, 2), levels(30, 1)]
    assert collect_epoch(make_batches("val", FILES, arrays, 8)) == ([11, 21], [0, 1])
    assert collect_epoch(make_batches("test", FILES, arrays, 8)) == ([30], [0])
    images, labels = collect_epoch(make_batches("train", FILES, arrays, 8, seed=1))
    assert dict(zip(images, labels)) == {10: 1, 12: 1, 13: 0, 20: 1}


def test_balanced_classes_weigh_the_same_and_an_image_one_on_average():
    arrays = [levels(0, 7)]
    batches = make_batches("train", FILES, arrays, 4, balance_classes=True)
    _, labels, weights = batches[0]
    assert weights[labels == 0].sum() == pytest.approx(2)
    assert weights[labels == 1].sum() == pytest.approx(2)
    assert weights[labels == 1] == pytest.approx([2 / 3] * 3)


def test_the_fingerprint_tells_other_images_and_labels_and_nothing_else():
    def fingerprint(*arrays, rows=(0, 2, 4), labels=(1, 0, 1), size=2, seed=None):
        arrays = arrays or [levels(0, 6)]
        labels = np.array(labels, np.uint8)
        return data_fingerprint(
            ImageBatches(arrays, np.array(rows), labels, size, seed)
        )

    usual = fingerprint()
    assert len(usual) == 8
    assert usual == fingerprint() == fingerprint(size=3) == fingerprint(seed=5)
    others = [
        fingerprint(rows=(0, 2, 5)),
        fingerprint(labels=(0, 0, 1)),
        fingerprint(levels(0, 7)),
        fingerprint(levels(0, 3), levels(3, 3)),
        fingerprint(rows=(0, 2), labels=(1, 0)),
    ]
    assert len({usual, *others}) == 6


def test_the_fingerprint_sees_every_pixel_of_the_chosen_images_and_no_other():
    pixels = np.random.default_rng(0).integers(0, 256, (700, 3, 3, 1), np.uint8)
    rows = np.arange(0, 700, 2)  # more than are gathered at a time

    def fingerprint(changed=None, rows=rows):
        images = pixels.copy()
        if changed is not None:
            images[changed] ^= 1
        arrays = [images[:99], images[99:]]
        return data_fingerprint(ImageBatches(arrays, rows, rows % 3 % 2, 8))

    usual = fingerprint()
    assert usual == fingerprint() == fingerprint((1, 0, 0)) == fingerprint((699, 2, 2))
    places = [(0, 0, 0), (98, 1, 2), (512, 0, 1), (698, 2, 2)]
    assert len({usual, *(fingerprint(place) for place in places)}) == 5
    swapped = rows.copy()
    swapped[[3, 5]] = rows[[5, 3]]
    assert fingerprint(rows=swapped) != usual
