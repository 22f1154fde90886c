"""A linear baseline: ridge regression on thumbnails, or on their border only."""

from collections.abc import Iterator

import cv2
import numpy as np
from scipy import special
from sklearn.linear_model import RidgeClassifier

from cxr.batches import ImageBatches, gather_images


def border_mask(size: int, fraction: float = 0.12) -> np.ndarray:
    """Return bool (size, size), True in a border of this fraction of the width."""
    width = round(fraction * size)
    mask = np.ones((size, size), bool)
    mask[width : size - width, width : size - width] = False
    return mask


class LinearBaseline:
    """A linear classifier of thumbnails, without convolutions.

    Parameters
    ----------
    size : int
        The side of the thumbnails in pixels.
    border_only : bool
        If True, the classifier sees only a border of 12% of the width: it cannot use
        the lungs.

    References
    ----------
    Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal
    problems", Technometrics, 1970.
    """

    def __init__(self, size: int = 24, border_only: bool = False) -> None:
        self.size = size
        self.visible = np.ones((size, size), bool)
        if border_only:
            self.visible = border_mask(size)
        self.classifier = RidgeClassifier(alpha=10.0)

    def fit(
        self, images: ImageBatches | np.ndarray, labels: np.ndarray | None = None
    ) -> "LinearBaseline":
        """Train on ImageBatches, or on a uint8 array (n, height, width, 1) and labels.

        Class weights and augmentation of ImageBatches are not used.
        """
        if isinstance(images, ImageBatches):
            labels = images.labels
        self.classifier.fit(self.extract_pixels(images), labels)
        return self

    def predict(self, images: ImageBatches | np.ndarray) -> np.ndarray:
        """Return a probability of PNEUMONIA for each of n images: float64 (n,).

        It is the sigmoid of the decision function, so it is not calibrated. Images of
        ImageBatches are predicted in the order of their rows, with their perturbations.
        """
        scores = self.classifier.decision_function(self.extract_pixels(images))
        return special.expit(scores.astype(np.float64))

    def extract_pixels(self, images: ImageBatches | np.ndarray) -> np.ndarray:
        """Return the visible pixels of all thumbnails: float32 (n, pixels), 0 to 1."""
        shape = (self.size, self.size)
        thumbnails = [
            cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
            for image in iterate_images(images)
        ]
        return np.stack(thumbnails)[:, self.visible].astype(np.float32) / 255


def iterate_images(images: ImageBatches | np.ndarray) -> Iterator[np.ndarray]:
    """Yield each image, uint8 (height, width, 1), in the order of the rows.

    Images of ImageBatches are perturbed, but not shuffled, augmented or repeated.
    """
    if not isinstance(images, ImageBatches):
        yield from images
        return
    for start in range(0, len(images.rows), 256):
        part = slice(start, start + 256)
        perturbations = images.perturbations and images.perturbations[part]
        yield from gather_images(images.arrays, images.rows[part], perturbations)
