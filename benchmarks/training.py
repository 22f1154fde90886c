#!/usr/bin/env python3
"""Does a training step wait for its data, and what does augmentation cost? Images per second, as ratios taken in one run.

    python benchmarks/training.py --size 128 --save benchmarks/training

The notebook's compiled step (augmentation, network, gradients, update) gets batches in four ways, in turn, several rounds: from
ImageBatches, as in training; one fixed batch again and again, which is as fast as data can come; and both without augmentation.
The images are random bytes, mapped from a file, as those of the cache are.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))
import functions  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--images", type=int, default=1280, help="images an epoch (default 1280)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, metavar="NAME", help="write the sentences to NAME.md")
    arguments = parser.parse_args()
    import keras
    notebook = functions.load("resolve_settings", "build_cnn", "augment", "ImageBatches", "find_device", "choose_precision",
                              "use_precision")
    kind, name, capability = notebook.find_device()
    settings = notebook.resolve_settings(functions.read_settings() | {"PRESET": "full", "IMAGE_SIZE": arguments.size}, kind)
    precision = notebook.choose_precision(settings.MIXED_PRECISION, kind, capability)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.bin"
        path.write_bytes(generator.bytes(arguments.images * arguments.size**2))
        images = np.memmap(path, np.uint8, "r", shape=(arguments.images, arguments.size, arguments.size, 1))
        rows, labels = np.arange(len(images)), generator.integers(0, 2, len(images))

        class Fixed(notebook.ImageBatches):
            kept = None

            def __getitem__(self, number):
                self.kept = self.kept or super().__getitem__(0)
                return self.kept

        ways = {}
        for augment in (True, False):
            with notebook.use_precision(precision):
                model = notebook.build_cnn(arguments.size, settings.DROPOUT)
                model = notebook.augment(model) if augment else model
                model.compile(keras.optimizers.AdamW(settings.LEARNING_RATE, weight_decay=settings.WEIGHT_DECAY), "binary_crossentropy",
                              metrics=["accuracy", keras.metrics.AUC(name="auc")])
            for way, kind_of_batches in (("gathered", notebook.ImageBatches), ("fixed", Fixed)):
                batches = kind_of_batches([images], rows, labels, settings.BATCH_SIZE, 0)
                model.fit(batches, shuffle=False, verbose=0)  # compiles
                ways[way, augment] = (model, batches)
        speeds = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, (model, batches) in ways.items():
                since = time.perf_counter()
                model.fit(batches, shuffle=False, verbose=0)
                speeds[way].append(len(images) / (time.perf_counter() - since))

    def ratio(way, other):
        return statistics.median(one / two for one, two in zip(speeds[way], speeds[other]))

    text = (f"On {name} with {keras.backend.backend()}, {precision}, at {arguments.size} × {arguments.size} pixels, training goes through "
            f"{statistics.median(speeds['gathered', True]):,.0f} images/s: {ratio(('gathered', True), ('fixed', True)):.2f} of what it "
            f"does with one fixed batch, and {ratio(('gathered', True), ('gathered', False)):.2f} of what it does without augmentation.")
    print(text)
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
