"""What takes minutes: `make test-long` runs it, `make test` does not."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, command_to_run
from PIL import Image

from cxr.phantoms import Phantom

pytestmark = pytest.mark.long


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a limit to the memory that does not count mapped files")
def test_the_whole_notebook_on_images_larger_than_the_memory_that_it_may_have(phantoms, tmp_path):
    """2.5 GB of images for a process that may have 2.35 GB, TensorFlow included: not without the cache, but with it.

    The network is a small one: the test is of where the images are, and the held-out ones are asked about with every change.
    """
    limit, generator = 2_350_000_000, np.random.default_rng(0)
    parents = {label: [np.asarray(Image.open(path).convert("L").resize((96, 96)), np.int16)
                       for path in sorted((phantoms / "chest_xray/train" / label).iterdir())[:20]] for label in ("NORMAL", "PNEUMONIA")}
    for split, count in (("train", 19_100), ("test", 100)):
        for label, name in (("NORMAL", "IM-{:04}-{:04}.jpeg"), ("PNEUMONIA", "person{}_bacteria_{}.jpeg")):
            folder = tmp_path / "chest_xray" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                noisy = parents[label][number % 20] + generator.integers(-8, 9, (96, 96), np.int16)
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(
                    folder / name.format(number // 20 + 5000 * (split == "test"), number), comment=Phantom.mark)
    settings = {"PRESET": "quick", "DATA_DIR": tmp_path / "chest_xray", "IMAGE_SIZE": 256, "EPOCHS": 1, "BASELINE_EPOCHS": 0,
                "BATCH_SIZE": 4, "VALIDATION_SHARE": 0.02, "RESAMPLES": 20}
    book, small = (ROOT / "notebooks/chest_xray_pneumonia.ipynb").read_text(), tmp_path / "chest_xray_pneumonia.ipynb"
    stages = "((32, 2, 1), (64, 2, 2), (128, 2, 2), (192, 1, 1))"
    assert book.count(stages) == 1
    small.write_text(book.replace(stages, "((16, 1, 1), (32, 1, 2))"))

    def run(cache):
        return subprocess.run([*command_to_run(small), *(f"{name}={value}" for name, value in settings.items()),
                               f"OUTPUT_DIR={tmp_path / 'outputs'}", f"CACHE_DIR={cache}"],
                              capture_output=True, text=True, cwd=tmp_path, check=False,
                              env={**os.environ, "KERAS_MAX_STEPS_PER_EPOCH": "130"},
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))

    refused = run("")
    assert refused.returncode != 0 and "Unable to allocate 2.33 GiB" in refused.stderr
    done = run(tmp_path / "cache")
    assert done.returncode == 0, done.stderr[-3000:]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("images.bin")) > 1.05 * limit
    metrics = json.loads((tmp_path / "outputs/metrics.json").read_text())
    assert metrics["data"] == "phantom" and sum(metrics["counts"]["train"].values()) == 38_200
