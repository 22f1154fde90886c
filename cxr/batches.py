"""Batches of images, gathered (and for training augmented) when Keras asks for them."""

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pandas as pd


class ImageBatches(keras.utils.PyDataset):
    """Batches (images, labels, weights) of chosen rows of some arrays of images.

    All batches have the same shape, because a compiled model is compiled again for each
    new shape: the last batch is padded with images of weight 0. The other weights make
    up for these, so that the mean over an epoch is the mean of its images.

    Parameters
    ----------
    arrays : sequence of uint8 arrays (n, size, size, 1)
        Their rows are numbered as if the arrays were concatenated.
    rows, labels : integer arrays (m,)
        The chosen images and their classes.
    batch_size : int
        Rounded up to a multiple of `devices`, which share each batch.
    seed : int or None
        With a seed, each epoch has an order and an augmentation of its own.
    devices : int
    class_weights : sequence of two floats or None
    perturbations : sequence of m functions or None
        Fixed changes, one for each row: float32 (size, size) -> float32 (size, size),
        gray levels 0–255.
    augmentation : function or None
        A random change (image, generator) -> image, both uint8 (size, size); see
        `make_augmentation`. Its random numbers depend on seed, epoch and row only, not
        on the order, the batch size or the number of threads.
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        rows: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        devices: int = 1,
        class_weights: Sequence[float] | np.ndarray | None = None,
        perturbations: Sequence[Callable] | None = None,
        augmentation: Callable | None = None,
    ) -> None:
        threads = (os.cpu_count() or 1) if augmentation else 1
        super().__init__(workers=threads, max_queue_size=4)
        self.arrays = arrays
        self.rows = rows
        self.labels = labels
        self.batch_size = devices * math.ceil(batch_size / devices)
        self.seed = seed
        self.class_weights = np.ones(2)
        if class_weights is not None:
            self.class_weights = np.asarray(class_weights)
        self.perturbations = perturbations
        self.augmentation = augmentation
        self.start_epoch(0)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch, counted from 0."""
        order = np.arange(len(self.rows))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        self.epoch = epoch
        # np.resize repeats the first images, to fill up the last batch.
        self.order = np.resize(order, len(self) * self.batch_size)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (images uint8, labels, weights float32) of a batch."""
        start = number * self.batch_size
        positions = np.arange(start, start + self.batch_size)
        chosen = self.order[positions]
        rows = self.rows[chosen]
        labels = self.labels[chosen]
        perturbations = None
        if self.perturbations is not None:
            perturbations = [self.perturbations[index] for index in chosen]
        images = gather_images(self.arrays, rows, perturbations)
        if self.augmentation is not None:
            for image, row in zip(images[..., 0], rows, strict=True):
                generator = np.random.default_rng((self.seed or 0, self.epoch, row))
                image[:] = self.augmentation(image, generator)
        is_padding = positions >= len(self.rows)
        weights = np.where(is_padding, 0, len(self.order) / len(self.rows))
        weights = weights * self.class_weights[labels]
        return images, labels, weights.astype(np.float32)


def gather_images(
    arrays: Sequence[np.ndarray],
    rows: np.ndarray,
    perturbations: Sequence[Callable] | None = None,
) -> np.ndarray:
    """Return copies of chosen rows of some arrays, perturbed where that is asked for.

    Parameters
    ----------
    arrays : sequence of uint8 arrays (n, size, size, 1)
        Their rows are numbered as if the arrays were concatenated.
    rows : integer array (m,)
    perturbations : sequence of m functions or None
        float32 (size, size) -> float32 (size, size); results are rounded and clipped.

    Returns
    -------
    uint8 array (m, size, size, 1)
    """
    images = np.empty((len(rows), *arrays[0].shape[1:]), np.uint8)
    start = 0
    for array in arrays:
        inside = (rows >= start) & (rows < start + len(array))
        images[inside] = array[rows[inside] - start]
        start += len(array)
    if perturbations is None:
        return images
    perturbed = [
        perturb(image[:, :, 0].astype(np.float32))
        for image, perturb in zip(images, perturbations, strict=True)
    ]
    return np.clip(np.round(perturbed), 0, 255).astype(np.uint8)[..., None]


def perturb_batches(
    batches: ImageBatches, function: Callable[[np.ndarray], np.ndarray]
) -> ImageBatches:
    """Return the same batches in a fixed order, each image changed by a function.

    Parameters
    ----------
    batches : ImageBatches
    function : float32 (size, size) -> float32 (size, size), gray levels 0–255
    """
    return ImageBatches(
        batches.arrays,
        batches.rows,
        batches.labels,
        batches.batch_size,
        perturbations=[function] * len(batches.rows),
    )


def data_fingerprint(batches: ImageBatches) -> str:
    """Return eight characters that identify the pixels, rows and labels of batches."""
    checksum = 0
    for start in range(0, len(batches.rows), 256):  # all may exceed the memory
        images = gather_images(batches.arrays, batches.rows[start : start + 256])
        checksum = zlib.crc32(images.data, checksum)
    numbers = np.stack([batches.rows, batches.labels]).astype(np.int64)
    shapes = [array.shape for array in batches.arrays]
    content = numbers.tobytes() + str([checksum, *shapes]).encode()
    return hashlib.sha256(content).hexdigest()[:8]


def make_batches(
    split: str,
    files: pd.DataFrame,
    arrays: Sequence[np.ndarray],
    batch_size: int,
    seed: int | None = None,
    devices: int = 1,
    balance_classes: bool = False,
    augmentation: Callable | None = None,
) -> ImageBatches:
    """Return the batches of one split.

    Parameters
    ----------
    split : "train", "val" or "test"
    files : DataFrame
        All images in the order of `arrays`, with the columns `split` and `label`.
    arrays : sequence of uint8 arrays (n, size, size, 1)
    batch_size, seed, devices, augmentation
        As for `ImageBatches`.
    balance_classes : bool
        Whether to weigh images so that both classes count the same in the loss.
    """
    rows = np.flatnonzero(files.split == split)
    labels = files.label.to_numpy(np.uint8)[rows]
    class_weights = None
    if balance_classes:
        class_weights = len(labels) / 2 / np.bincount(labels, minlength=2)
    return ImageBatches(
        arrays,
        rows,
        labels,
        batch_size,
        seed,
        devices,
        class_weights,
        augmentation=augmentation,
    )
