"""Augmentation changes images as documented, by random numbers that can be repeated."""

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


class FixedDraws:
    """Stands for a random generator whose next draws are known."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high):
        drawn = np.array(self.values[: len(low)])
        self.values = self.values[len(low) :]
        assert (np.array(low) <= drawn).all() and (drawn <= np.array(high)).all()
        return drawn

    def integers(self, high):
        return 0


def smooth_image(size=64, seed=0):
    """An image without an edge, because rounding at edges depends on the library."""
    thumbnail = np.random.default_rng(seed).uniform(40, 200, (6, 6)).astype(np.float32)
    image = cv2.resize(thumbnail, (size, size), interpolation=cv2.INTER_CUBIC)
    return image.clip(0, 255).astype(np.uint8)


def sample_by_hand(image, angle, log_zoom, log_stretch, shift_x, shift_y):
    """Compute an affine change pixel by pixel.

    Inverse mapping about the center, bilinear weights, mirrored beyond the edges.
    """
    height, width = image.shape
    center_x = (width - 1) / 2
    center_y = (height - 1) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    result = np.zeros(image.shape)

    def mirror(place, length):
        place = place % (2 * length)
        return place if place < length else 2 * length - 1 - place

    for row in range(height):
        for column in range(width):
            x = (column - center_x) * math.exp(log_stretch - log_zoom)
            y = (row - center_y) * math.exp(-log_stretch - log_zoom)
            source_x = x * cos - y * sin + center_x + shift_x * width
            source_y = x * sin + y * cos + center_y + shift_y * height
            left, top = math.floor(source_x), math.floor(source_y)
            for dx, dy in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight_x = 1 - abs(source_x - left - dx)
                weight_y = 1 - abs(source_y - top - dy)
                pixel = image[mirror(top + dy, height), mirror(left + dx, width)]
                result[row, column] += weight_x * weight_y * pixel
    return result


@pytest.mark.parametrize(
    "drawn",
    [(0.2, 0.3, 0.1, 0.05, -0.08), (-0.15, -0.14, -0.12, 0, 0.1), (0, 0, 0, 0.1, 0)],
)
def test_an_affine_change_is_the_bilinear_sample_at_the_mapped_places(drawn):
    image = smooth_image(40)
    changed = random_affine(image, FixedDraws(*drawn), 1.0)
    # OpenCV rounds places to 1/32 pixel.
    assert np.abs(changed - sample_by_hand(image, *drawn)).max() <= 1.5


def test_an_intensity_change_is_gamma_then_contrast_about_the_mean_then_brightness():
    image = smooth_image()
    log_gamma, log_contrast, brightness = 0.5, -0.3, 20
    curved = 255 * (image / 255) ** math.exp(log_gamma)
    contrasted = (curved - curved.mean()) * math.exp(log_contrast) + curved.mean()
    changed = random_intensity(
        image, FixedDraws(log_gamma, log_contrast, brightness), 1.0
    )
    assert changed == pytest.approx(contrasted + brightness, abs=0.01)


@pytest.mark.parametrize("blur", [-0.6, 0.4, 1])
def test_blur_moves_each_pixel_towards_the_mean_around_it_or_away(blur):
    image = smooth_image().astype(np.float32)
    changed = random_blur_noise(image, FixedDraws(blur, 0), 1.0)
    mean = image[30:35, 40:45].mean()
    expected = image[32, 42] + blur * (mean - image[32, 42])
    assert changed[32, 42] == pytest.approx(expected, abs=0.01)


def test_noise_has_the_deviation_that_was_drawn_and_no_mean():
    image = np.full((200, 200), 100, np.float32)
    noise = random_blur_noise(image, FixedDraws(0, 12), 1.0) - 100
    assert abs(noise.mean()) < 0.3 and noise.std() == pytest.approx(12, rel=0.03)
    correlation = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    assert abs(correlation) < 0.03


def test_no_intensity_change_inverts_the_gray_levels():
    ramp = np.tile(np.arange(25, 230, dtype=np.uint8), (8, 1))
    for seed in range(300):
        changed = random_intensity(ramp, np.random.default_rng(seed), 1.0)
        assert (np.diff(changed, axis=1) >= 0).all()


def test_all_strengths_0_leave_the_image_as_it_is_and_each_alone_changes_it():
    image = smooth_image()
    unchanged = make_augmentation(0, 0, 0)(image, np.random.default_rng(0))
    assert np.array_equal(unchanged, image)
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
    unchanged = sum(np.array_equal(result, image) for result in changed)
    mirrored = sum(np.array_equal(result, image[:, ::-1]) for result in changed)
    assert unchanged + mirrored == 60
    assert 15 < mirrored < 45 if flip else mirrored == 0


def collect_epoch(batches):
    """Return {row: image} of an epoch, asked for by several threads, as Keras does."""
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(batches.__getitem__, reversed(range(len(batches)))))
    images, rows, weights = (np.concatenate(values) for values in zip(*parts))
    counts = weights > 0
    return dict(zip(rows[counts].tolist(), images[counts], strict=True))


def test_the_augmentation_of_an_image_depends_on_seed_epoch_and_image_alone():
    images = np.stack([smooth_image(32, seed) for seed in range(10)])[..., None]
    before = images.copy()
    all_rows = np.arange(10)

    def augment(rows=all_rows, batch_size=4, seed=0, epoch=0):
        batches = ImageBatches(
            [images],
            rows,
            rows,  # as labels, to tell the images apart
            batch_size,
            seed,
            class_weights=np.ones(10),
            augmentation=make_augmentation(),
        )
        batches.start_epoch(epoch)
        return collect_epoch(batches)

    usual = augment()
    assert sorted(usual) == all_rows.tolist()
    for same in (
        augment(),
        augment(batch_size=3),
        augment(rows=all_rows[::-1]),
        augment(rows=all_rows[2:7]),
    ):
        for row, image in same.items():
            assert np.array_equal(usual[row], image)
    for different in (augment(epoch=1), augment(seed=1)):
        for row, image in different.items():
            assert not np.array_equal(usual[row], image)
    assert np.array_equal(images, before)
