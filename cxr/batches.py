"""Batches of images, gathered (and, for training, augmented) when Keras asks for them."""

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pandas as pd


class ImageBatches(keras.utils.PyDataset):
    """Batches (images, labels, weights) of the wanted rows of some arrays, gathered when they are needed.

    All batches have the same shape, as a compiled model takes another compilation for each shape: the last one is filled
    up with images of weight 0. The other weights make up for these, so that a mean over an epoch is that of its images.

    Parameters
    ----------
    arrays : sequence of uint8 arrays (n, size, size, 1), counted through as one
    rows, labels : int arrays (m,), the wanted images and their classes
    batch_size : int, rounded up to a multiple of `devices`, which share each batch
    seed : int or None; with a seed, each epoch has an order, and an augmentation, of its own
    class_weights : sequence of two floats or None
    changes : sequence of m functions or None, float32 (size, size) -> the same; each image gets the one of its row
    augmentation : function or None, (image, generator) -> image, both uint8 (size, size); see `make_augmentation`.
        Its random numbers follow from seed, epoch and row, whatever the order, the batch size and the number of threads.
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
        changes: Sequence[Callable] | None = None,
        augmentation: Callable | None = None,
    ):
        super().__init__(
            workers=(os.cpu_count() or 1) if augmentation else 1, max_queue_size=4
        )
        self.arrays, self.rows, self.labels = arrays, rows, labels
        self.size = devices * math.ceil(batch_size / devices)
        self.seed, self.devices, self.changes, self.augmentation = (
            seed,
            devices,
            changes,
            augmentation,
        )
        self.class_weights = (
            np.ones(2) if class_weights is None else np.asarray(class_weights)
        )
        self.start_epoch(0)

    def __len__(self):
        return math.ceil(len(self.rows) / self.size)

    def start_epoch(self, epoch: int):
        """Draw the order of an epoch, counted from 0."""
        order = np.arange(len(self.rows))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        self.epoch, self.order = epoch, np.resize(order, len(self) * self.size)

    def __getitem__(self, number):
        places = np.arange(number * self.size, (number + 1) * self.size)
        chosen = self.order[places]
        images = gather_images(
            self.arrays,
            self.rows[chosen],
            self.changes and [self.changes[one] for one in chosen],
        )
        if self.augmentation:
            for image, row in zip(images[..., 0], self.rows[chosen], strict=True):
                image[:] = self.augmentation(
                    image, np.random.default_rng((self.seed or 0, self.epoch, row))
                )
        counted = np.where(places < len(self.rows), len(self.order) / len(self.rows), 0)
        labels = self.labels[chosen]
        return images, labels, (counted * self.class_weights[labels]).astype(np.float32)


def gather_images(arrays, wanted: np.ndarray, changes=None) -> np.ndarray:
    """Return uint8 (m, size, size, 1): the wanted rows (m,) of some arrays, counted through as one, each with its change of `changes`."""
    starts = np.cumsum([0] + [len(array) for array in arrays])
    images = np.empty((len(wanted), *arrays[0].shape[1:]), np.uint8)
    for array, start in zip(arrays, starts):
        own = (wanted >= start) & (wanted < start + len(array))
        images[own] = array[wanted[own] - start]
    if changes is None:
        return images
    changed = [
        change(image[:, :, 0].astype(np.float32))
        for image, change in zip(images, changes, strict=True)
    ]
    return np.clip(np.round(changed), 0, 255).astype(np.uint8)[..., None]


def perturb_batches(batches: ImageBatches, change) -> ImageBatches:
    """Return the same batches, with each picture changed by a function of one picture, float32 (size, size) of 0–255."""
    return ImageBatches(
        batches.arrays,
        batches.rows,
        batches.labels,
        batches.size,
        changes=[change] * len(batches.rows),
    )


def data_fingerprint(batches: ImageBatches) -> str:
    """Return eight characters that tell these images, pixel by pixel, and labels from others."""
    content, pixels = (
        np.stack([batches.rows, batches.labels]).astype(np.int64).tobytes(),
        0,
    )
    for start in range(
        0, len(batches.rows), 256
    ):  # they may be more than the memory holds
        pixels = zlib.crc32(
            gather_images(batches.arrays, batches.rows[start : start + 256]).data,
            pixels,
        )
    return hashlib.sha256(
        content + str([pixels, *(array.shape for array in batches.arrays)]).encode()
    ).hexdigest()[:8]


def make_batches(
    split: str,
    files: pd.DataFrame,
    arrays,
    batch_size: int,
    seed=None,
    devices=1,
    balance=False,
    augmentation=None,
) -> ImageBatches:
    """Return the batches of one part ("train" or "val") of the pool; with `balance`, both classes weigh the same in them."""
    rows = np.flatnonzero(files.split == split)
    labels = files.label.to_numpy(np.uint8)[rows]
    class_weights = (
        len(labels) / 2 / np.bincount(labels, minlength=2) if balance else None
    )
    return ImageBatches(
        arrays,
        rows,
        labels,
        batch_size,
        seed,
        devices,
        class_weights,
        None,
        augmentation,
    )
