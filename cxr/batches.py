"""Batches of images, gathered when a training or an evaluation asks for them."""

import hashlib
import math
import zlib

import keras
import numpy as np
import pandas as pd


class ImageBatches(keras.utils.PyDataset):
    """Batches (images, labels) of the wanted rows of some arrays, gathered when they are needed.

    `arrays`: uint8 (n, size, size, 1) each, counted through as one; `rows`, `labels`: int (m,). With a seed, each epoch has an
    order of its own. `changes`: for each row a function of its picture, float32 (size, size). For the rest see `fill_batch`.
    """

    def __init__(self, arrays, rows, labels, batch_size, seed=None, devices=1, class_weights=None, changes=None):
        super().__init__()
        self.arrays, self.rows, self.labels, self.size, self.seed = arrays, rows, labels, batch_size, seed
        self.devices, self.class_weights, self.changes = devices, class_weights, changes
        self.start_epoch(0)

    def __len__(self):
        return math.ceil(len(self.rows) / self.size)

    def start_epoch(self, epoch: int):
        """Draw the order of an epoch, counted from 0."""
        count = len(self.rows)
        self.order = np.arange(count) if self.seed is None else np.random.default_rng((self.seed, epoch)).permutation(count)

    def __getitem__(self, number):
        chosen = self.order[number * self.size: (number + 1) * self.size]
        images = gather_images(self.arrays, self.rows[chosen], self.changes and [self.changes[one] for one in chosen])
        return fill_batch(images, self.labels[chosen], self)


def gather_images(arrays, wanted: np.ndarray, changes=None) -> np.ndarray:
    """Return uint8 (m, size, size, 1): the wanted rows (m,) of some arrays, counted through as one, each with its change of `changes`."""
    starts = np.cumsum([0] + [len(array) for array in arrays])
    images = np.empty((len(wanted), *arrays[0].shape[1:]), np.uint8)
    for array, start in zip(arrays, starts):
        own = (wanted >= start) & (wanted < start + len(array))
        images[own] = array[wanted[own] - start]
    if changes is None:
        return images
    changed = [change(image[:, :, 0].astype(np.float32)) for image, change in zip(images, changes, strict=True)]
    return np.clip(np.round(changed), 0, 255).astype(np.uint8)[..., None]


def fill_batch(images: np.ndarray, labels: np.ndarray, batches: "ImageBatches") -> tuple:
    """Return (images, labels), or (images, labels, weights) where classes weigh differently or several devices share a batch.

    `class_weights`: float (2,). For `devices`, a batch is filled up to a multiple of their number, with images of weight 0.
    """
    if batches.devices == 1 and batches.class_weights is None:
        return images, labels
    weights = np.ones(len(labels), np.float32) if batches.class_weights is None else np.asarray(batches.class_weights, np.float32)[labels]
    missing, count = -len(labels) % batches.devices, len(batches.rows)
    added = count // batches.size * (-batches.size % batches.devices) + -(count % batches.size) % batches.devices  # in an epoch
    weights *= 1 + added / count  # Keras divides by the number of images, those of weight 0 included
    extra = np.arange(missing) % len(labels)
    return (np.concatenate([images, images[extra]]), np.concatenate([labels, labels[extra]]),
            np.concatenate([weights, np.zeros(missing, np.float32)]))


def change_batches(batches: "ImageBatches", change) -> "ImageBatches":
    """Return the same batches, with each picture changed by a function of one picture, float32 (size, size) of 0–255."""
    return ImageBatches(batches.arrays, batches.rows, batches.labels, batches.size, changes=[change] * len(batches.rows))


def fingerprint(batches: "ImageBatches") -> str:
    """Return eight characters that tell these images, pixel by pixel, and labels from others."""
    content, pixels = np.stack([batches.rows, batches.labels]).astype(np.int64).tobytes(), 0
    for start in range(0, len(batches.rows), 256):  # they may be more than the memory holds
        pixels = zlib.crc32(gather_images(batches.arrays, batches.rows[start: start + 256]).data, pixels)
    return hashlib.sha256(content + str([pixels, *(array.shape for array in batches.arrays)]).encode()).hexdigest()[:8]


def make_batches(part: str, pool_files: pd.DataFrame, arrays, batch_size: int, seed=None, devices=1, balance=False) -> "ImageBatches":
    """Return the batches of one part ("fit" or "holdout") of the pool; with `balance`, both classes weigh the same in them."""
    rows = np.flatnonzero(pool_files.part == part)
    labels = pool_files.label.to_numpy(np.uint8)[rows]
    class_weights = len(labels) / 2 / np.bincount(labels, minlength=2) if balance else None
    return ImageBatches(arrays, rows, labels, batch_size, seed, devices, class_weights)
