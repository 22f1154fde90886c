#!/usr/bin/env python3
"""Measure how fast the network trains, and whether it waits for its input.

    python benchmarks/training.py --size 128 --save benchmarks/results/training

Prints images per second of the input pipeline alone (gathering and augmenting batches
on all cores), and of the compiled training step of section 6 with
- one fixed batch, the upper limit,
- batches that are gathered without augmentation,
- batches that are gathered and augmented, as in training.
All are timed in turn, so the ratios are reliable on a machine whose speed varies.
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

INPUTS = ("fixed batch", "gathered", "gathered and augmented")


def make_input(images: np.ndarray, name: str, batch_size: int):
    """Return the ImageBatches of one of the INPUTS."""
    from cxr.augmentation import make_augmentation
    from cxr.batches import ImageBatches

    class FixedBatch(ImageBatches):
        def start_epoch(self, epoch):
            super().start_epoch(epoch)
            self.batch = super().__getitem__(0)

        def __getitem__(self, number):
            return self.batch

    rows = np.arange(len(images))
    augmentation = make_augmentation(0.5, 0.5, 0.5) if "augmented" in name else None
    batches_class = FixedBatch if name == "fixed batch" else ImageBatches
    return batches_class(
        [images], rows, rows % 2, batch_size, seed=0, augmentation=augmentation
    )


def time_pipeline(batches) -> float:
    """Return images per second of the input pipeline alone, one thread a core."""
    since = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(batches.__getitem__, range(len(batches))))
    return len(batches.rows) / (time.perf_counter() - since)


def make_training(batches, size: int, precision: str, jit: bool | str) -> Callable:
    """Return a function that trains for an epoch and returns images per second."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--images", type=int, default=1280, help="images per epoch")
    parser.add_argument("--batch", type=int, default=32, help="batch size (default 32)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", action="append", help="default: float32")
    parser.add_argument("--jit", action="store_true", help="also compile with XLA")
    parser.add_argument("--save", type=Path, metavar="NAME", help="write NAME.md")
    arguments = parser.parse_args()
    import keras

    from cxr.devices import detect_device

    size = arguments.size
    count = arguments.images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.bin"
        path.write_bytes(np.random.default_rng(0).bytes(count * size**2))
        images = np.memmap(path, np.uint8, "r", shape=(count, size, size, 1))
        augmented = make_input(images, INPUTS[-1], arguments.batch)
        measured = {"input pipeline alone": lambda: time_pipeline(augmented)}
        for precision in arguments.precision or ["float32"]:
            for jit in ["auto", True] if arguments.jit else ["auto"]:
                for input_name in INPUTS:
                    compiler = ", XLA" if jit is True else ""
                    name = f"{precision}{compiler}: {input_name}"
                    batches = make_input(images, input_name, arguments.batch)
                    measured[name] = make_training(batches, size, precision, jit)
        speeds: dict[str, list] = {name: [] for name in measured}
        for _ in range(arguments.rounds):
            for name, measure in measured.items():
                speeds[name].append(measure())
    reference = next(name for name in speeds if name.endswith(INPUTS[0]))
    kind, device, _ = detect_device()
    lines = [
        f"{kind} ({device}), Keras on {keras.backend.backend()}, {count} images of "
        f"{size} × {size} pixels in batches of {arguments.batch}, "
        f"{arguments.rounds} rounds in turn.",
        "",
        f"| | images per second, median | ratio to {reference!r} |",
        "|---|---|---|",
    ]
    for name, values in speeds.items():
        pairs = zip(values, speeds[reference], strict=True)
        ratios = [speed / fixed for speed, fixed in pairs]
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
