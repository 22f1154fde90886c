"""Augmentation: random changes of a training image that leave its diagnosis as it is."""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np


def random_affine(
    image: np.ndarray, generator: np.random.Generator, strength: float
) -> np.ndarray:
    """Rotate (by up to 12°), zoom (0.86 to 1.42), stretch (1.35) and shift (a tenth) an image in one interpolation.

    Image: uint8 (height, width). A `strength` of 0.5 halves each of these changes.
    """
    height, width = image.shape
    angle, zoom, stretch, right, down = strength * generator.uniform(
        [-math.pi / 15, -0.15, -0.15, -0.1, -0.1], [math.pi / 15, 0.35, 0.15, 0.1, 0.1]
    )
    across, along = math.exp(stretch - zoom), math.exp(-stretch - zoom)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[across * cos, -along * sin, 0], [across * sin, along * cos, 0]])
    center = np.array([(width - 1) / 2, (height - 1) / 2, 0])
    matrix[:, 2] = center[:2] - matrix @ center + [right * width, down * height]
    return cv2.warpAffine(
        image,
        matrix,  # from a place in the result to one in the image
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )


def random_intensity(
    image: np.ndarray, generator: np.random.Generator, strength: float
) -> np.ndarray:
    """Change gamma (by a factor of up to 2), contrast (1.6) and brightness (a quarter of the range) of an image.

    Image: uint8 (height, width); the result is float32 and not clipped.
    """
    gamma, contrast, brightness = strength * generator.uniform(
        [-0.7, -0.5, -64], [0.7, 0.5, 64]
    )
    curve = 255 * np.linspace(0, 1, 256) ** math.exp(gamma)
    changed = cv2.LUT(image, curve.astype(np.float32))
    mean, factor = cv2.mean(changed)[0], math.exp(contrast)
    return changed * np.float32(factor) + np.float32(mean * (1 - factor) + brightness)


def random_blur_noise(
    image: np.ndarray, generator: np.random.Generator, strength: float
) -> np.ndarray:
    """Blur or sharpen an image with its mean over 5 × 5 pixels, and add Gaussian noise (deviation up to 15 gray levels).

    Image: float32 (height, width).
    """
    blur, deviation = strength * generator.uniform([-0.6, 0], [1, 15])
    noise = np.empty(image.shape, np.float32)
    cv2.setRNGSeed(
        int(generator.integers(2**31))
    )  # OpenCV's generator, one for each thread: three times as fast as NumPy's
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
    """Return a randomly changed copy of an image, uint8 (height, width); a strength of 0 leaves that change out."""
    if flip and generator.random() < 0.5:
        image = cv2.flip(image, 1)
    if affine:
        image = random_affine(image, generator, affine)
    if intensity:
        image = random_intensity(image, generator, intensity)
    if blur_noise:
        image = random_blur_noise(
            image.astype(np.float32, copy=False), generator, blur_noise
        )
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def make_augmentation(
    affine: float = 1.0,
    intensity: float = 1.0,
    blur_noise: float = 1.0,
    flip: bool = False,
) -> Callable:
    """Return a function (image, generator) -> image, both uint8 (height, width), with these strengths."""
    return functools.partial(
        augment_image,
        affine=affine,
        intensity=intensity,
        blur_noise=blur_noise,
        flip=flip,
    )
