#!/usr/bin/env python3
"""How fast does the network train, and does it wait for its input?

    python benchmarks/training.py --size 128 --save benchmarks/results/training

Prints images a second, in one run and in turn, so that only the ratios need to be
believed: of the input pipeline alone (gathering and augmenting batches with all cores),
and of the compiled training step of section 6 with
- one fixed batch again and again, which no input can beat,
- batches that are gathered without augmentation,
- batches that are gathered and augmented, as in training.
`--precision` adds a dtype policy, `--jit` compiles with XLA, as Keras does on a GPU.
The images are random bytes, mapped from a file, as those of the cache are.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As in section 0 of the notebook: TensorFlow keeps its memory for the next step.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")

WAYS = ("fixed batch", "gathered", "gathered and augmented")


def make_input(images: np.ndarray, way: str, batch_size: int):
    """Return the batches of one of the WAYS."""
    from cxr.augmentation import make_augmentation
    from cxr.batches import ImageBatches

    class Fixed(ImageBatches):
        def start_epoch(self, epoch):
            super().start_epoch(epoch)
            self.batch = super().__getitem__(0)

        def __getitem__(self, number):
            return self.batch

    rows = np.arange(len(images))
    augmentation = make_augmentation(0.5, 0.5, 0.5) if "augmented" in way else None
    kind = Fixed if way == "fixed batch" else ImageBatches
    return kind([images], rows, rows % 2, batch_size, seed=0, augmentation=augmentation)


def time_pipeline(batches) -> float:
    """Return images a second of the input pipeline alone, with as many threads as cores."""
    since = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(batches.__getitem__, range(len(batches))))
    return len(batches.rows) / (time.perf_counter() - since)


def make_training(batches, size: int, precision: str, jit: bool | str) -> Callable:
    """Return a function that trains for an epoch and returns images a second."""
    import keras

    from cxr.devices import dtype_policy_scope
    from cxr.models import build_cnn

    keras.utils.set_random_seed(0)
    with dtype_policy_scope(precision):
        model = build_cnn(size)
        model.compile(
            keras.optimizers.AdamW(0.001, weight_decay=0.004),
            "binary_crossentropy",
            weighted_metrics=[
                keras.metrics.BinaryAccuracy(name="accuracy"),
                keras.metrics.AUC(name="auc"),
            ],
            jit_compile=jit,
        )

    def train() -> float:
        since = time.perf_counter()
        model.fit(batches, shuffle=False, verbose=0)
        return len(batches.rows) / (time.perf_counter() - since)

    train()  # compiles
    return train


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--images", type=int, default=1280, help="images an epoch")
    parser.add_argument("--batch", type=int, default=32, help="batch size (default 32)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", action="append", help="default: float32")
    parser.add_argument("--jit", action="store_true", help="compile with XLA, too")
    parser.add_argument("--save", type=Path, metavar="NAME", help="write NAME.md")
    arguments = parser.parse_args()
    import keras

    from cxr.devices import detect_device

    size, count = arguments.size, arguments.images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.bin"
        path.write_bytes(np.random.default_rng(0).bytes(count * size**2))
        images = np.memmap(path, np.uint8, "r", shape=(count, size, size, 1))
        augmented = make_input(images, WAYS[-1], arguments.batch)
        measured = {"input pipeline alone": lambda: time_pipeline(augmented)}
        for precision in arguments.precision or ["float32"]:
            for jit in ["auto", True] if arguments.jit else ["auto"]:
                for way in WAYS:
                    name = f"{precision}{', XLA' * (jit is True)}: {way}"
                    batches = make_input(images, way, arguments.batch)
                    measured[name] = make_training(batches, size, precision, jit)
        speeds = {name: [] for name in measured}
        for _ in range(arguments.rounds):
            for name, measure in measured.items():
                speeds[name].append(measure())
    reference = next(name for name in speeds if name.endswith(WAYS[0]))
    kind, device, _ = detect_device()
    lines = [
        f"{kind} ({device}), Keras on {keras.backend.backend()}, {count} images of "
        f"{size} × {size} pixels in batches of {arguments.batch}, "
        f"{arguments.rounds} rounds in turn.",
        "",
        f"| | images a second, median | ratio to {reference!r} |",
        "|---|---|---|",
    ]
    for name, values in speeds.items():
        ratios = [one / two for one, two in zip(values, speeds[reference], strict=True)]
        lines.append(
            f"| {name} | {statistics.median(values):,.0f} "
            f"| {statistics.median(ratios):.2f} |"
        )
    text = "\n".join(lines)
    print(text)
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
