"""Batches of images that are larger than memory need little memory."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from cxr.batches import data_fingerprint, make_batches, perturb_batches


@pytest.fixture
def mapped(tmp_path):
    """2,000 images of 256 × 256 pixels, 131 MB, mapped from a file as by load_split."""
    shape = (2000, 256, 256, 1)
    return np.memmap(tmp_path / "images.bin", np.uint8, "w+", shape=shape)


def test_batches_of_mapped_images_take_the_memory_of_a_few_batches(mapped):
    files = pd.DataFrame({"split": "train", "label": np.arange(len(mapped)) % 2})
    batches = make_batches("train", files, [mapped[:1500], mapped[1500:]], 32, seed=0)
    assert batches[0][0].nbytes == 32 * 256 * 256
    tracemalloc.start()
    try:
        for index in range(3):
            assert len(batches[index]) == 3
        assert len(perturb_batches(batches, np.fliplr)[0]) == 3
        data_fingerprint(batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mapped.nbytes / 2
