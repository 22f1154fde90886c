"""Augmentation changes images as it says, never their meaning, and by random numbers that can be repeated."""

import math
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from cxr.augmentation import (
    make_augmentation,
    random_affine,
    random_blur_noise,
    random_intensity,
)
from cxr.batches import ImageBatches


class Drawn:
    """Stands for a random generator whose next draws are known."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high):
        drawn, self.values = np.array(self.values[: len(low)]), self.values[len(low) :]
        assert all(
            least <= one <= most
            for least, one, most in zip(low, drawn, high, strict=True)
        )
        return drawn

    def integers(self, high):
        return 0


def smooth_image(size=64, seed=0):
    """An image without an edge, as interpolation rounds those in its own way."""
    small = np.random.default_rng(seed).uniform(40, 200, (6, 6)).astype(np.float32)
    return (
        cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
        .clip(0, 255)
        .astype(np.uint8)
    )


def sample_by_hand(image, angle, zoom, stretch, right, down):
    """Each pixel of the result, by inverse mapping about the center and bilinear weights; mirrored beyond the edge."""
    height, width = image.shape
    result = np.zeros(image.shape)

    def mirror(place, length):
        place = place % (2 * length)
        return place if place < length else 2 * length - 1 - place

    for row in range(height):
        for column in range(width):
            x = (column - (width - 1) / 2) * math.exp(stretch - zoom)
            y = (row - (height - 1) / 2) * math.exp(-stretch - zoom)
            source_x = (
                x * math.cos(angle)
                - y * math.sin(angle)
                + (width - 1) / 2
                + right * width
            )
            source_y = (
                x * math.sin(angle)
                + y * math.cos(angle)
                + (height - 1) / 2
                + down * height
            )
            left, top = math.floor(source_x), math.floor(source_y)
            for dx, dy in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(source_x - left - dx)) * (
                    1 - abs(source_y - top - dy)
                )
                result[row, column] += (
                    weight * image[mirror(top + dy, height), mirror(left + dx, width)]
                )
    return result


@pytest.mark.parametrize(
    "drawn",
    [(0.2, 0.3, 0.1, 0.05, -0.08), (-0.15, -0.14, -0.12, 0, 0.1), (0, 0, 0, 0.1, 0)],
)
def test_an_affine_change_is_the_bilinear_sample_at_the_mapped_places(drawn):
    image = smooth_image(40)
    changed = random_affine(image, Drawn(*drawn), 1.0)
    assert (
        np.abs(changed - sample_by_hand(image, *drawn)).max() <= 1.5
    )  # OpenCV keeps 32nds of a pixel


def test_an_intensity_change_is_gamma_then_contrast_about_the_mean_then_brightness():
    image = smooth_image()
    gamma, contrast, brightness = 0.5, -0.3, 20
    bent = 255 * (image / 255) ** math.exp(gamma)
    expected = (bent - bent.mean()) * math.exp(contrast) + bent.mean() + brightness
    assert random_intensity(
        image, Drawn(gamma, contrast, brightness), 1.0
    ) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("amount", [-0.6, 0.4, 1])
def test_blur_moves_each_pixel_towards_the_mean_around_it_or_away(amount):
    image = smooth_image().astype(np.float32)
    changed = random_blur_noise(image, Drawn(amount, 0), 1.0)
    mean = image[30:35, 40:45].mean()
    assert changed[32, 42] == pytest.approx(
        image[32, 42] + amount * (mean - image[32, 42]), abs=0.01
    )


def test_noise_has_the_deviation_that_was_drawn_and_no_mean():
    image = np.full((200, 200), 100, np.float32)
    noise = random_blur_noise(image, Drawn(0, 12), 1.0) - 100
    assert abs(noise.mean()) < 0.3 and noise.std() == pytest.approx(12, rel=0.03)
    correlation = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    assert abs(correlation) < 0.03


def test_no_intensity_inverts_the_gray_levels():
    ramp = np.tile(np.arange(25, 230, dtype=np.uint8), (8, 1))
    for seed in range(300):
        changed = random_intensity(ramp, np.random.default_rng(seed), 1.0)
        assert (np.diff(changed, axis=1) >= 0).all()


def test_all_strengths_0_leave_the_image_as_it_is_and_each_alone_changes_it():
    image = smooth_image()
    assert np.array_equal(
        make_augmentation(0, 0, 0)(image, np.random.default_rng(0)), image
    )
    for strengths in np.eye(3):
        changed = make_augmentation(*strengths)(image, np.random.default_rng(0))
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert np.abs(changed.astype(int) - image).mean() > 1


@pytest.mark.parametrize("flip", [False, True])
def test_left_becomes_right_only_where_that_is_asked_for(flip):
    image = np.zeros((8, 8), np.uint8)
    image[:, :2] = 200
    augmentation = make_augmentation(0, 0, 0, flip)
    changed = [augmentation(image, np.random.default_rng(seed)) for seed in range(60)]
    mirrored = [np.array_equal(one, image[:, ::-1]) for one in changed]
    assert 15 < sum(mirrored) < 45 if flip else not any(mirrored)
    assert all(
        turned or np.array_equal(one, image) for one, turned in zip(changed, mirrored)
    )


def collect(batches):
    """{row: image} of an epoch, asked for by several threads, as Keras does."""
    found = {}
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(batches.__getitem__, reversed(range(len(batches)))))
    for images, labels, weights in parts:
        found |= {
            int(label): image
            for image, label, weight in zip(images, labels, weights)
            if weight
        }
    return found


def test_the_augmentation_of_an_image_follows_from_seed_epoch_and_image_alone():
    images = np.stack([smooth_image(32, seed) for seed in range(10)])[..., None]
    before = images.copy()
    rows = np.arange(10)

    def batches(rows=rows, size=4, seed=0, epoch=0):
        made = ImageBatches(
            [images],
            rows,
            rows,
            size,
            seed,
            class_weights=np.ones(10),
            augmentation=make_augmentation(),
        )
        made.start_epoch(epoch)
        return collect(made)

    usual = batches()
    for other in (
        batches(),
        batches(size=3),
        batches(rows=rows[::-1]),
        batches(rows=rows[2:7]),
    ):
        assert all(np.array_equal(usual[row], image) for row, image in other.items())
    for other in (batches(epoch=1), batches(seed=1)):
        assert not any(
            np.array_equal(usual[row], image) for row, image in other.items()
        )
    assert np.array_equal(images, before)
