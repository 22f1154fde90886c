"""Batches: the right images in the right order, weighed so that a mean over them is the mean of the images that count."""

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


def seen(batches):
    """The images, one pixel each, and labels of an epoch, without those that only fill up a batch."""
    images, labels, weights = (
        np.concatenate(parts)
        for parts in zip(*(batches[number] for number in range(len(batches))))
    )
    return images.ravel()[weights > 0].tolist(), labels[weights > 0].tolist()


def test_batches_show_each_image_once_an_epoch_in_an_order_that_the_seed_decides():
    arrays = [levels(0, 50), levels(50, 10)]
    rows = np.arange(1, 60, 2)

    def batches(seed, rows=rows, labels=rows * 0):
        return ImageBatches(arrays, rows, labels, 8, seed)

    first, epochs = batches(3), []
    for epoch in range(3):
        assert {
            part.shape[0] for number in range(len(first)) for part in first[number]
        } == {8} and len(first) == 4
        assert sorted(seen(first)[0]) == rows.tolist()
        epochs.append(seen(first)[0])
        first.start_epoch(epoch + 1)
    assert len({tuple(order) for order in epochs}) == 3
    again = batches(3)
    assert seen(again)[0] == epochs[0]
    again.start_epoch(2)
    assert seen(again)[0] == epochs[2], (
        "an epoch's order does not depend on those before"
    )
    assert seen(batches(4))[0] != epochs[0]
    plain = batches(None, rows[::-1], np.arange(30) % 2)
    plain.start_epoch(1)
    assert seen(plain) == (rows[::-1].tolist(), [0, 1] * 15)


def test_arrays_are_counted_through_as_one():
    arrays = [levels(0, 3), levels(0, 0), levels(100, 2), levels(200, 4)]
    assert gather_images(arrays, np.array([8, 2, 3, 0, 5, 4, 3])).ravel().tolist() == [
        203,
        2,
        100,
        0,
        200,
        101,
        100,
    ]


def test_a_change_sees_one_picture_and_what_it_gives_is_rounded_and_kept_within_the_grays():
    seen = []

    def change(picture):
        seen.append((picture.shape, picture.dtype))
        return picture * 2 - 20.4

    images = np.array([[[0, 10], [11, 50]], [[100, 137], [138, 255]]], np.uint8)[
        ..., None
    ]
    before = images.copy()
    changed = gather_images([images], np.array([1, 0]), [change] * 2)
    assert changed.dtype == np.uint8 and changed[..., 0].tolist() == [
        [[180, 254], [255, 255]],
        [[0, 0], [2, 80]],
    ]
    assert seen == [((2, 2), np.float32)] * 2 and np.array_equal(images, before)


def test_changed_batches_have_the_same_labels_and_no_order_of_their_own():
    batches = ImageBatches([levels(0, 10)], np.arange(10)[::-1], np.arange(10) % 2, 4)
    images, labels = seen(perturb_batches(batches, lambda picture: picture + 60))
    assert images == list(range(69, 59, -1)) and labels == seen(batches)[1]


def test_each_row_has_a_change_of_its_own_in_whatever_order_it_comes():
    changes = [lambda picture, more=more: picture + more for more in (0, 20, 40)]
    batches = ImageBatches(
        [levels(100, 3)],
        np.array([2, 0, 2]),
        np.zeros(3, int),
        2,
        seed=0,
        changes=changes,
    )
    assert sorted(seen(batches)[0]) == [102, 120, 142]


def test_images_that_fill_up_a_batch_do_not_count():
    """Five images in batches of 4 (3, rounded up for two devices) become eight, so that a mean over eight has to be that over five."""
    batches = ImageBatches(
        [levels(0, 5)],
        np.arange(5),
        np.array([0, 0, 0, 1, 1]),
        3,
        devices=2,
        class_weights=[0.5, 2],
    )
    first, second = batches[0], batches[1]
    assert first[0].ravel().tolist() == [0, 1, 2, 3] and second[0].ravel().tolist() == [
        4,
        0,
        1,
        2,
    ]
    assert first[2].tolist() == pytest.approx([0.8, 0.8, 0.8, 3.2]) and second[
        2
    ].tolist() == pytest.approx([3.2, 0, 0, 0])


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("count", "size"), [(1, 4), (7, 4), (8, 4), (25, 16), (64, 16), (30, 5)]
)
@pytest.mark.parametrize("class_weights", [None, [0.25, 3]])
def test_the_mean_over_an_epoch_is_the_mean_of_the_images_that_count(
    devices, count, size, class_weights
):
    """As Keras works it out: the sum of weight times value, by the number of images, those of weight 0 included."""
    generator = np.random.default_rng(count)
    images, labels = (
        generator.integers(0, 256, (count, 1, 1, 1), np.uint8),
        generator.integers(2, size=count),
    )
    batches = ImageBatches(
        [images], np.arange(count), labels, size, 0, devices, class_weights
    )
    parts = [batches[number] for number in range(len(batches))]
    assert (
        len({len(one) for part in parts for one in part}) == 1
        and len(parts[0][0]) % devices == 0
    ), "one shape, which devices can share"
    values, _, weights = (np.concatenate(some) for some in zip(*parts))
    expected = np.mean(np.array(class_weights or [1, 1])[labels] * images.ravel())
    assert (weights * values.ravel()).sum() / len(values) == pytest.approx(
        expected, rel=1e-5
    )
    assert np.isfinite(weights).all() and weights.dtype == np.float32


POOL = pd.DataFrame(
    {
        "part": ["train", "val", "train", "train", "train", "val"],
        "label": [1, 0, 1, 0, 1, 1],
    }
)


def test_a_part_of_the_pool_gives_its_images_with_their_labels():
    arrays = [levels(10, 4), levels(20, 2)]
    assert seen(make_batches("val", POOL, arrays, 8)) == ([11, 21], [0, 1])
    assert dict(zip(*seen(make_batches("train", POOL, arrays, 8, seed=1)))) == {
        10: 1,
        12: 1,
        13: 0,
        20: 1,
    }


def test_with_balance_both_classes_weigh_the_same_and_an_image_one_on_average():
    _, labels, weights = make_batches("train", POOL, [levels(0, 6)], 4, balance=True)[0]
    assert weights[labels == 0].sum() == pytest.approx(2) and weights[
        labels == 1
    ].sum() == pytest.approx(2)
    assert weights[labels == 1] == pytest.approx([2 / 3] * 3)


def test_the_fingerprint_tells_other_images_and_labels_and_nothing_else():
    def of(*arrays, rows=(0, 2, 4), labels=(1, 0, 1), size=2, seed=None):
        return data_fingerprint(
            ImageBatches(
                arrays or [levels(0, 6)],
                np.array(rows),
                np.array(labels, np.uint8),
                size,
                seed,
            )
        )

    usual = of()
    assert len(usual) == 8 and usual == of() == of(size=3) == of(seed=5)
    others = [
        of(rows=(0, 2, 5)),
        of(labels=(0, 0, 1)),
        of(levels(0, 7)),
        of(levels(0, 3), levels(3, 3)),
        of(rows=(0, 2), labels=(1, 0)),
    ]
    assert len({usual, *others}) == 6


def test_the_fingerprint_sees_every_pixel_of_the_images_that_count_and_of_no_other():
    pictures = np.random.default_rng(0).integers(0, 256, (700, 3, 3, 1), np.uint8)
    rows = np.arange(0, 700, 2)  # more than are gathered at a time

    def of(changed=None, places=rows):
        images = pictures.copy()
        if changed is not None:
            images[changed] ^= 1
        return data_fingerprint(
            ImageBatches([images[:99], images[99:]], places, rows % 3 % 2, 8)
        )

    assert of() == of() == of((1, 0, 0)) == of((699, 2, 2))
    assert (
        len(
            {
                of(),
                *(
                    of(place)
                    for place in ((0, 0, 0), (98, 1, 2), (512, 0, 1), (698, 2, 2))
                ),
            }
        )
        == 5
    )
    swapped = rows.copy()
    swapped[[3, 5]] = rows[[5, 3]]
    assert of(places=swapped) != of()
