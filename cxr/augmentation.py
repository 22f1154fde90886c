"""Augmentation: random changes of a training image that keep its label."""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np


def random_affine(
    image: np.ndarray, generator: np.random.Generator, strength: float
) -> np.ndarray:
    """Rotate, zoom, stretch and shift an image in a single bilinear interpolation.

    Parameters
    ----------
    image : uint8 array (height, width)
    generator : numpy.random.Generator
    strength : float
        1 draws a rotation of up to 12°, a zoom by a factor from 0.86 to 1.42, an aspect
        ratio changed by a factor of up to 1.35, and shifts of up to a tenth of the
        image. Smaller values narrow these ranges (the factors on a log scale).

    Returns
    -------
    uint8 array (height, width)
        Pixels from outside the image are its mirror image.
    """
    lowest = [-math.pi / 15, -0.15, -0.15, -0.1, -0.1]
    highest = [math.pi / 15, 0.35, 0.15, 0.1, 0.1]
    drawn = strength * generator.uniform(lowest, highest)
    angle, log_zoom, log_stretch, shift_x, shift_y = drawn
    # The matrix maps a position in the result to one in the image: a zoom shrinks it.
    scale_x = math.exp(log_stretch - log_zoom)
    scale_y = math.exp(-log_stretch - log_zoom)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array(
        [[scale_x * cos, -scale_y * sin, 0], [scale_x * sin, scale_y * cos, 0]]
    )
    height, width = image.shape
    center = np.array([(width - 1) / 2, (height - 1) / 2, 0])
    shift = np.array([shift_x * width, shift_y * height])
    matrix[:, 2] = center[:2] - matrix @ center + shift
    return cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )


def random_intensity(
    image: np.ndarray, generator: np.random.Generator, strength: float
) -> np.ndarray:
    """Change the gamma, the contrast and the brightness of an image.

    Parameters
    ----------
    image : uint8 array (height, width)
    generator : numpy.random.Generator
    strength : float
        1 draws a gamma from 1/2 to 2, a contrast factor from 0.6 to 1.65, and a
        brightness offset of up to 64 gray levels. Smaller values narrow these ranges.

    Returns
    -------
    float32 array (height, width), not clipped to 0–255
    """
    lowest = [-0.7, -0.5, -64]
    highest = [0.7, 0.5, 64]
    log_gamma, log_contrast, brightness = strength * generator.uniform(lowest, highest)
    curve = 255 * np.linspace(0, 1, 256) ** math.exp(log_gamma)
    image = cv2.LUT(image, curve.astype(np.float32))
    contrast = math.exp(log_contrast)
    offset = cv2.mean(image)[0] * (1 - contrast) + brightness  # keeps the mean
    return image * np.float32(contrast) + np.float32(offset)


def random_blur_noise(
    image: np.ndarray, generator: np.random.Generator, strength: float
) -> np.ndarray:
    """Blur or sharpen an image, and add Gaussian noise.

    Parameters
    ----------
    image : float32 array (height, width)
    generator : numpy.random.Generator
    strength : float
        1 draws a blur from -0.6 (sharpened) to 1 (each pixel is the mean of 5 × 5), and
        a standard deviation of the noise of up to 15 gray levels. Smaller values narrow
        these ranges.

    Returns
    -------
    float32 array (height, width), not clipped to 0–255
    """
    blur, deviation = strength * generator.uniform([-0.6, 0], [1, 15])
    noise = np.empty(image.shape, np.float32)
    # OpenCV keeps one random generator per thread, three times as fast as NumPy's.
    cv2.setRNGSeed(int(generator.integers(2**31)))
    cv2.randn(noise, np.zeros(1), np.array([deviation]))
    return image + np.float32(blur) * (cv2.blur(image, (5, 5)) - image) + noise


def augment_image(
    image: np.ndarray,
    generator: np.random.Generator,
    affine: float,
    intensity: float,
    blur_noise: float,
    flip: bool,
) -> np.ndarray:
    """Return a randomly changed copy of an image.

    Parameters
    ----------
    image : uint8 array (height, width)
    generator : numpy.random.Generator
    affine, intensity, blur_noise : float
        Strengths of the three random changes; 0 skips a change.
    flip : bool
        Whether to mirror every second image, which puts the heart on the other side.

    Returns
    -------
    uint8 array (height, width)
    """
    if flip and generator.random() < 0.5:
        image = cv2.flip(image, 1)
    if affine:
        image = random_affine(image, generator, affine)
    if intensity:
        image = random_intensity(image, generator, intensity)
    if blur_noise:
        image = image.astype(np.float32, copy=False)
        image = random_blur_noise(image, generator, blur_noise)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def make_augmentation(
    affine: float = 1.0,
    intensity: float = 1.0,
    blur_noise: float = 1.0,
    flip: bool = False,
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Return `augment_image` with these strengths: a function (image, generator)."""
    return functools.partial(
        augment_image,
        affine=affine,
        intensity=intensity,
        blur_noise=blur_noise,
        flip=flip,
    )
