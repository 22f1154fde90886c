#!/usr/bin/env python3
"""Does a training step wait for its data, what does augmentation cost, and how far is the step from what the machine allows?

    python benchmarks/training.py --size 128 --save benchmarks/results/training

The notebook's compiled step (augmentation, network, gradients, update) gets batches in four ways, in turn, several rounds: from
ImageBatches, as in training; one fixed batch again and again, which is as fast as data can come; and both without augmentation.
The images are random bytes, mapped from a file, as those of the cache are.

The floor of a step is the larger of two times, both taken from what this machine does in the same run: its convolutions' operations
at the rate of a large matrix product, and the bytes that these must at least move at the rate of a large sum.

At last two processes take turns: one as the notebook is, whose TensorFlow keeps its memory for the next step, and one that gives it
back after each step, as TensorFlow does by itself.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sweep

os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")  # as in section 0 of the notebook


def count_step(network):
    """Return (operations, values moved) of training on one image, counting convolutions and dense layers only.

    Forward, gradient of the input, gradient of the weights: three products of the same size, each of which reads or writes the
    layer's input and output once. What lies between (normalisation, ReLU, pooling) could be fused into them and counts as free.
    """
    operations = moved = 0
    for layer in network.layers:
        if hasattr(layer, "kernel"):
            places = np.prod(layer.output.shape[1:-1], dtype=int)
            operations += 3 * 2 * int(np.prod(layer.kernel.shape)) * int(places)
            moved += 3 * int(np.prod(layer.input.shape[1:]) + np.prod(layer.output.shape[1:]))
    return operations, moved


def measure_machine(keras, dtype, rounds=7):
    """Return (operations a second, bytes a second): the best of several large matrix products and sums in this precision."""
    side, length = 4096, 1 << 26
    matrix, long = keras.ops.ones((side, side), dtype), keras.ops.ones((length,), dtype)
    size = keras.ops.convert_to_numpy(long[:1]).itemsize

    def fastest(work):
        taken = []
        for _ in range(rounds):
            since = time.perf_counter()
            keras.ops.convert_to_numpy(work()[..., :1])  # waits until it is done
            taken.append(time.perf_counter() - since)
        return min(taken)

    return 2 * side**3 / fastest(lambda: keras.ops.matmul(matrix, matrix)), 2 * size * length / fastest(lambda: long + 1)


def compare_memory(size, images, rounds):
    """Return how many times as fast training goes where TensorFlow keeps its memory: the median of `rounds` pairs of processes."""
    ratios = []
    for _ in range(rounds):
        speeds = [float(subprocess.run([sys.executable, __file__, "--size", str(size), "--images", str(images), "--speed"], text=True,
                                       env={**os.environ, "TF_CPU_ALLOCATOR_USE_BFC": kept}, stdout=subprocess.PIPE, check=True).stdout)
                  for kept in ("true", "false")]
        ratios.append(speeds[0] / speeds[1])
    return statistics.median(ratios)


WAYS = [("gathered", True), ("fixed", True), ("gathered", False), ("fixed", False)]  # (how the batches come, whether there is augmentation)


def time_ways(settings, precision, count, ways, rounds):
    """Train on `count` images in each of these ways, in turn; return ({way: images a second in each round}, the network)."""
    import keras
    from cxr.augment import augment

    from cxr.batches import ImageBatches
    from cxr.machine import use_precision
    from cxr.network import build_cnn
    size, generator = settings.IMAGE_SIZE, np.random.default_rng(0)

    class Fixed(ImageBatches):
        kept = None

        def __getitem__(self, number):
            self.kept = self.kept or super().__getitem__(0)
            return self.kept

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.bin"
        path.write_bytes(generator.bytes(count * size**2))
        images = np.memmap(path, np.uint8, "r", shape=(count, size, size, 1))
        labels, models, prepared = generator.integers(0, 2, count), {}, {}
        for kind, augmented in ways:
            batches = {"gathered": ImageBatches, "fixed": Fixed}[kind]([images], np.arange(count), labels, settings.BATCH_SIZE, 0)
            if augmented not in models:
                with use_precision(precision):
                    network = build_cnn(size, settings.DROPOUT)
                    models[augmented] = augment(network) if augmented else network
                    models[augmented].compile(
                        keras.optimizers.AdamW(settings.LEARNING_RATE, weight_decay=settings.WEIGHT_DECAY), "binary_crossentropy",
                        metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])
            models[augmented].fit(batches, shuffle=False, verbose=0)  # compiles
            prepared[kind, augmented] = models[augmented], batches
        speeds = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (model, batches) in prepared.items():
                since = time.perf_counter()
                model.fit(batches, shuffle=False, verbose=0)
                speeds[way].append(count / (time.perf_counter() - since))
    return speeds, network


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels (default 128)")
    parser.add_argument("--images", type=int, default=1280, help="images an epoch (default 1280)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, metavar="NAME", help="write the sentences to NAME.md")
    parser.add_argument("--speed", action="store_true", help=argparse.SUPPRESS)  # print images/s of training, nothing else
    arguments = parser.parse_args()
    import keras

    from cxr.machine import choose_precision, find_device
    from cxr.settings import resolve_settings
    kind, name, capability = find_device()
    defaults = sweep.read_settings(sweep.read_notebook())
    settings = resolve_settings(defaults | {"PRESET": "full", "IMAGE_SIZE": arguments.size}, kind)
    precision = choose_precision(settings.MIXED_PRECISION, kind, capability)
    if arguments.speed:
        print(*time_ways(settings, precision, arguments.images, WAYS[:1], 1)[0][WAYS[0]])
        return
    speeds, network = time_ways(settings, precision, arguments.images, WAYS, arguments.rounds)

    def ratio(way, other):
        return statistics.median(one / two for one, two in zip(speeds[way], speeds[other]))

    text = (f"On {name} with {keras.backend.backend()}, {precision}, at {arguments.size} × {arguments.size} pixels, training goes through "
            f"{statistics.median(speeds['gathered', True]):,.0f} images/s: {ratio(('gathered', True), ('fixed', True)):.2f} of what it "
            f"does with one fixed batch, and {ratio(('gathered', True), ('gathered', False)):.2f} of what it does without augmentation.")
    operations, moved = count_step(network)
    dtype = keras.DTypePolicy(precision).compute_dtype
    rate, bandwidth = measure_machine(keras, dtype)
    moved *= 2 if "16" in dtype else 4
    floor = max(operations / rate, moved / bandwidth)  # seconds an image
    text += (f"\n\nAn image costs at least {operations / 1e9:.2f} GFLOP and moves {moved / 1e6:.0f} MB, forward and backward. In large "
             f"matrix products this machine does {rate / 1e9:,.0f} GFLOP/s, in large sums it moves {bandwidth / 1e9:,.1f} GB/s; so it "
             f"could go through {1 / floor:,.0f} images/s at most. Without augmentation, training reaches "
             f"{statistics.median(speeds['gathered', False]) * floor:.2f} of that; with it, "
             f"{statistics.median(speeds['gathered', True]) * floor:.2f}.")
    if keras.backend.backend() == "tensorflow" and kind == "CPU":
        text += (f"\n\nThat is with memory that is kept for the next step, as the notebook has it (`TF_CPU_ALLOCATOR_USE_BFC`): "
                 f"{compare_memory(arguments.size, arguments.images, 3):.1f} times as fast as without.")
    print(text)
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
