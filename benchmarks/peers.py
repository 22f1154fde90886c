#!/usr/bin/env python3
"""Train three public networks for this data, and the notebook's, on the same images.

    python benchmarks/peers.py --data data/chest_xray --save benchmarks/results/peers
    python benchmarks/peers.py --data data/chest_xray --left-out

Each peer is rewritten for Keras 3 from its published description, with its own
augmentation, optimizer, batch size and learning-rate schedule. It is trained for its
author's number of epochs or for as long as ours (or --minutes), whichever ends first.
The docstring of a peer describes how it differs from the original. Ours is a run of the
notebook with its full preset, at its own image size.

All are trained and validated on the same patients as the notebook's network. They are
tested on what sweep.py puts in place of the official test folder, which is never read:
the lowest patient numbers or, with --left-out, bias-conflicting images.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import sweep

# As in section 0 of the notebook:
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")

SIZE = 150  # pixels of the peers' images
TITLES = {
    "ours": "this notebook, full preset",
    "ancestor": "the student notebook of 2021",
    "kaggle": 'Kaggle, "92.6%"',
    "separable": "keras.io, separable",
}


def ancestor(keras: ModuleType, fractions: np.ndarray) -> SimpleNamespace:
    """Return the student notebook that ours descends from; it divides by 255 twice.

    Its code was not published, so this follows its description. Its training was
    stopped by hand after a varying number of epochs: 30 here.
    """
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((SIZE, SIZE, 1)), layers.Rescaling(1 / 255**2)]
    )
    for filters in (32, 64, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(2))
    for layer in (
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ):
        model.add(layer)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return SimpleNamespace(
        model=model, epochs=30, batch=32, callbacks=[], class_weight=None
    )


def kaggle(keras: ModuleType, fractions: np.ndarray) -> SimpleNamespace:
    """Return the most copied notebook, "Pneumonia Detection using CNN (92.6%)".

    Keras layers replace its ImageDataGenerator (rotation 30 degrees, zoom 0.2, shift
    0.1, horizontal flip). Its learning rate followed the accuracy on the folder of 16
    images; here that on the validation patients, which can only help.
    """
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            layers.Rescaling(1 / 255),
            layers.RandomRotation(30 / 360, fill_mode="nearest"),
            layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
            layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
            layers.RandomFlip("horizontal"),
        ]
    )
    for filters, dropout in ((32, 0), (64, 0.1), (64, 0), (128, 0.2), (256, 0.2)):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        if dropout:
            model.add(layers.Dropout(dropout))
        model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D(2, padding="same"))
    for layer in (
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.2),
        layers.Dense(1, activation="sigmoid"),
    ):
        model.add(layer)
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    reduce_rate = keras.callbacks.ReduceLROnPlateau(
        "val_accuracy", patience=2, factor=0.3, min_lr=1e-6
    )
    return SimpleNamespace(
        model=model, epochs=12, batch=32, callbacks=[reduce_rate], class_weight=None
    )


def separable(keras: ModuleType, fractions: np.ndarray) -> SimpleNamespace:
    """Return keras.io's "Pneumonia Classification on TPU": separable convolutions.

    Its images had 180 pixels and three equal channels; here 150 and one. Its batch was
    25 images times the number of TPU cores; here 25. It shuffled before each take and
    skip, which mixed training and validation images; here they are separate.
    """
    layers = keras.layers
    model = keras.Sequential([keras.Input((SIZE, SIZE, 1)), layers.Rescaling(1 / 255)])
    for filters in (16, 16):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
    model.add(layers.MaxPooling2D(2))
    for filters in (32, 64, 128, 256):
        for _ in range(2):
            model.add(
                layers.SeparableConv2D(filters, 3, padding="same", activation="relu")
            )
        model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D(2))
        if filters >= 128:
            model.add(layers.Dropout(0.2))
    model.add(layers.Flatten())
    for units, dropout in ((512, 0.7), (128, 0.5), (64, 0.3)):
        for layer in (
            layers.Dense(units, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
        ):
            model.add(layer)
    bias = keras.initializers.Constant(math.log(fractions[1] / fractions[0]))
    model.add(layers.Dense(1, activation="sigmoid", bias_initializer=bias))
    rate = keras.optimizers.schedules.ExponentialDecay(
        0.015, decay_steps=100_000, decay_rate=0.96, staircase=True
    )
    model.compile(
        keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"]
    )
    stop = keras.callbacks.EarlyStopping(
        "val_loss", patience=10, restore_best_weights=True
    )
    return SimpleNamespace(
        model=model,
        epochs=100,
        batch=25,
        callbacks=[stop],
        class_weight=dict(enumerate(1 / fractions / 2)),
    )


NETWORKS = {"ancestor": ancestor, "kaggle": kaggle, "separable": separable}


def ours(data: Path, work: Path, seed: int) -> dict:
    """Run the notebook with its full preset; return a row for `tabulate`."""
    settings = {"PRESET": "full", "BASELINE_EPOCHS": 0, "BOOTSTRAP_SAMPLES": 10}
    folder = work / sweep.identify(sweep.read_notebook(), settings) / str(seed)
    paths = {"DATA_DIR": data, "CACHE_DIR": work / "cache"}
    run = sweep.run_once(settings | paths | {"SEED": seed}, folder)
    path = folder / "runs" / run["settings"]["RUN_NAME"] / "run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    return {
        "predictions": run["predictions"],
        "size": run["settings"]["IMAGE_SIZE"],
        "parameters": record["parameters"],
        "epochs": str(record["epochs"]),
        "minutes": record["seconds"] / 60,
    }


def load_images(data: Path, predictions: pd.DataFrame, cache: Path | str) -> dict:
    """Return {"train", "validation", "test": (images, table of files)}.

    The split is that of the notebook, according to its `predictions`.
    """
    from cxr.dataset import list_images
    from cxr.images import load_split

    files = list_images(data)
    images, files, _ = load_split(data, files, SIZE, "Images", cache)
    split = files.path.map(predictions.set_index("path").split).fillna("train")
    return {
        name: (images[(split == name).to_numpy()], files[split == name])
        for name in ("train", "validation", "test")
    }


def train(name: str, loaded: dict, minutes: float, seed: int) -> dict:
    """Train one public network; return a row for `tabulate`."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    x_train, train_files = loaded["train"]
    x_val, val_files = loaded["validation"]
    y_train = train_files.label.to_numpy()
    y_val = val_files.label.to_numpy()
    fractions = np.bincount(y_train, minlength=2) / len(y_train)
    recipe = NETWORKS[name](keras, fractions)
    since = time.perf_counter()

    class StopInTime(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            elapsed = time.perf_counter() - since
            if elapsed * (epoch + 2) / (epoch + 1) > 60 * minutes:
                self.model.stop_training = True

    history = recipe.model.fit(
        x_train,
        y_train,
        recipe.batch,
        recipe.epochs,
        validation_data=(x_val, y_val),
        class_weight=recipe.class_weight,
        callbacks=[*recipe.callbacks, StopInTime()],
        verbose=2,
    )
    elapsed = (time.perf_counter() - since) / 60
    tables = []
    for split in ("validation", "test"):
        images, files = loaded[split]
        probabilities = recipe.model.predict(images, verbose=0)[:, 0].astype(float)
        table = files[["path", "label", "patient"]]
        tables.append(table.assign(split=split, probability=probabilities))
    return {
        "predictions": pd.concat(tables, ignore_index=True),
        "size": SIZE,
        "parameters": recipe.model.count_params(),
        "epochs": f"{len(history.epoch)} of {recipe.epochs}",
        "minutes": elapsed,
    }


def tabulate(results: dict[str, dict], test_name: str, seed: int) -> str:
    """Return the table of all networks as Markdown.

    The threshold of each maximizes 2 × sensitivity + specificity on its unmodified
    validation images.
    """
    from cxr.evaluation import metrics_with_ci
    from cxr.thresholds import youden_threshold

    test_metrics = ("AUC", "sensitivity", "specificity")
    columns = ["network", "pixels", "parameters", "validation AUC"]
    columns += [f"{test_name} {metric}" for metric in test_metrics]
    columns += ["epochs", "minutes"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, result in results.items():
        predictions = result["predictions"]
        validation = predictions[predictions.split == "validation"]
        threshold = youden_threshold(
            validation.label.to_numpy(),
            validation.probability.to_numpy(),
            sensitivity_weight=2,
        )
        metrics = {
            split: metrics_with_ci(
                table.label.to_numpy(),
                table.probability.to_numpy(),
                table.patient,
                threshold,
                1000,
                seed,
            )
            for split, table in predictions.groupby("split")
        }
        estimates = [metrics["validation"]["auc"]]
        estimates += [metrics["test"][metric.lower()] for metric in test_metrics]
        cells = [
            f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
            for estimate in estimates
        ]
        lines.append(
            f"| {TITLES[name]} | {result['size']} | {result['parameters']:,} | "
            f"{' | '.join(cells)} | {result['epochs']} | {result['minutes']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the chest_xray folder")
    add("--minutes", type=float, help="longest training (default: as long as ours)")
    add("--seed", type=int, default=0)
    default = sweep.ROOT / "outputs/peers"
    add("--work", type=Path, default=default, help="where the runs are kept")
    add("--save", type=Path, metavar="FILE.md", help="also write the table there")
    add("--peers", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    add("--left-out", action="store_true", help="see above")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    data = arguments.data.resolve()
    if arguments.left_out:
        test_name = "left out"
        data = sweep.leave_out(data, work / "left-out/chest_xray")
    else:
        test_name = "low numbers"
        data = sweep.take_low_numbers(data, work / "low-numbers/chest_xray")
    results = {"ours": ours(data, work, arguments.seed)}
    minutes = arguments.minutes or results["ours"]["minutes"]
    loaded = load_images(data, results["ours"]["predictions"], work / "cache")
    for name in arguments.peers:
        results[name] = train(name, loaded, minutes, arguments.seed)
    text = (
        f"{tabulate(results, test_name, arguments.seed)}\n\n"
        f"One seed ({arguments.seed}), at most {minutes:.3g} minutes for each peer; "
        "95% intervals by a bootstrap over patients. Threshold: largest 2 × "
        "sensitivity + specificity on the validation images, which are the same for "
        "all networks.\n"
    )
    sweep.publish(text, arguments.save)


if __name__ == "__main__":
    main()
