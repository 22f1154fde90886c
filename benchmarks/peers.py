#!/usr/bin/env python3
"""Train three public networks for this data and the notebook's own on the same images, split, seed and machine.

    python benchmarks/peers.py --data data/chest_xray --save benchmarks/peers

Each peer is written afresh for Keras 3 from its published description, with its own augmentation, optimizer, batch size and
learning-rate rule, and trained for its author's number of epochs or for as long as ours took (or --minutes), whichever ends first.
The notebook's network is trained by its own full preset, at its own image size. All learn from train and val but the held-out patients of
the notebook (SPLIT_SEED 0), and are judged on those; test is never read. Threshold: the notebook's rule, on the same held-out
patients, for all alike. What a peer did in another way, and what was changed to make it run at all, is said in its docstring.

    python benchmarks/peers.py --left-out --data data/chest_xray --save benchmarks/peers_left_out

With --left-out the question is the harder one of sweep.py: the conflicting quarter of each class is asked, its patients teach nothing.

Each network has a process of its own, so that its peak memory can be told; a network that is done is not trained again.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
import build  # noqa: E402

os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")  # as in section 0 of the notebook

SIZE = 150  # pixels of the peers' images
NAMES = {"ours": "this notebook, full preset", "ancestor": "the student notebook of 2021", "kaggle": "Kaggle, \"92.6 %\"",
         "separable": "keras.io, separable"}


def ancestor(keras, shares, place):
    """The student notebook that ours descends from: four convolutions, two dense layers, values divided by 255 twice.

    No code of it was published; this is what its description says. It stopped by hand after a number of epochs that
    differed from try to try: 30 here.
    """
    layers = keras.layers
    model = keras.Sequential([keras.Input((SIZE, SIZE, 1)), layers.Rescaling(1 / 255**2)])
    for filters in (32, 64, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(2))
    for layer in (layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(1, activation="sigmoid")):
        model.add(layer)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return SimpleNamespace(model=model, epochs=30, batch=32, callbacks=[], class_weight=None)


def kaggle(keras, shares, place):
    """The most copied notebook on this data, "Pneumonia Detection using CNN (92.6 % Accuracy)".

    Its augmentation (ImageDataGenerator: turn 30 degrees, zoom 0.2, shift 0.1, horizontal flip) is done by the layers that have
    taken that class's place. It steered the learning rate by the accuracy on the folder of 16 images; here, on the held-out
    patients, which can only help it.
    """
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((SIZE, SIZE, 1)), layers.Rescaling(1 / 255),
        layers.RandomRotation(30 / 360, fill_mode="nearest"), layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
        layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"), layers.RandomFlip("horizontal")])
    for filters, dropout in ((32, 0), (64, 0.1), (64, 0), (128, 0.2), (256, 0.2)):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        if dropout:
            model.add(layers.Dropout(dropout))
        model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D(2, padding="same"))
    for layer in (layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.2),
                  layers.Dense(1, activation="sigmoid")):
        model.add(layer)
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    rule = keras.callbacks.ReduceLROnPlateau("val_accuracy", patience=2, factor=0.3, min_lr=1e-6)
    return SimpleNamespace(model=model, epochs=12, batch=32, callbacks=[rule], class_weight=None)


def separable(keras, shares, place):
    """keras.io, "Pneumonia Classification on TPU": separable convolutions, class weights, the bias of the class balance.

    Its images had 180 pixels and three equal channels; here 150 and one. Its batch was 25 images times the number of TPU
    cores; here 25. It mixed training and validation by shuffling before each take and skip; here they are apart.
    """
    layers = keras.layers
    model = keras.Sequential([keras.Input((SIZE, SIZE, 1)), layers.Rescaling(1 / 255)])
    for filters in (16, 16):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
    model.add(layers.MaxPooling2D(2))
    for filters in (32, 64, 128, 256):
        for _ in range(2):
            model.add(layers.SeparableConv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D(2))
        if filters >= 128:
            model.add(layers.Dropout(0.2))
    model.add(layers.Flatten())
    for units, dropout in ((512, 0.7), (128, 0.5), (64, 0.3)):
        for layer in (layers.Dense(units, activation="relu"), layers.BatchNormalization(), layers.Dropout(dropout)):
            model.add(layer)
    bias = keras.initializers.Constant(math.log(shares[1] / shares[0]))
    model.add(layers.Dense(1, activation="sigmoid", bias_initializer=bias))
    rate = keras.optimizers.schedules.ExponentialDecay(0.015, decay_steps=100_000, decay_rate=0.96, staircase=True)
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True)
    return SimpleNamespace(model=model, epochs=100, batch=25, callbacks=[stop],
                           class_weight={label: 1 / share / 2 for label, share in enumerate(shares)})


def read_full_settings():
    """Return the notebook's settings as its full preset has them."""
    from cxr.settings import resolve_settings
    return resolve_settings(build.read_settings() | {"PRESET": "full"}, "CPU")


def ours(keras, shares, place):
    """The notebook's network and what steers it, from its own functions and settings."""
    from cxr.augment import augment
    from cxr.network import build_cnn
    from cxr.train import make_callbacks
    settings = read_full_settings()
    callbacks = make_callbacks(place.with_suffix(".keras"), settings.PATIENCE)
    model = augment(build_cnn(settings.IMAGE_SIZE, settings.DROPOUT), settings.POSE, settings.EXPOSURE, settings.TEXTURE, settings.FLIP)
    model.compile(keras.optimizers.AdamW(settings.LEARNING_RATE, weight_decay=settings.WEIGHT_DECAY), "binary_crossentropy",
                  metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])
    return SimpleNamespace(model=model, epochs=settings.EPOCHS, batch=settings.BATCH_SIZE,
                           callbacks=callbacks, class_weight=None, size=settings.IMAGE_SIZE)


def load_pool(data, size, cache, test=False):
    """Return (images, labels, part, files): train and val, split as in section 4 of the notebook, and, if wanted, "test" as it is."""
    import numpy as np

    from cxr.dataset import list_images
    from cxr.images import load_split
    from cxr.split import find_duplicates, link_patients, split_by_patient
    files = list_images(data)
    files = files[test | (files.split != "test")].reset_index(drop=True)
    images, files, _ = load_split(data, files, size, "all images" if test else "train and val", cache)
    part, pool = np.full(len(files), "test", "<U7"), np.flatnonzero(files.split != "test")
    groups = link_patients(files.patient, find_duplicates(images, files)[0])[pool]
    part[pool] = split_by_patient(files.iloc[pool], groups, build.read_settings()["VALIDATION_SHARE"], 0)
    return images, files.label.to_numpy("uint8"), part, files


def train(name, data, minutes, seed, place, left_out=False):
    """Train one network in this process; write what happened to the file `place`. `left_out`: the folder "test" is asked, too."""
    import keras
    import numpy as np

    from cxr.batches import ImageBatches
    from cxr.measure import choose_threshold, measure, predict_probabilities, score
    from cxr.shift import look_closer, vary
    keras.utils.set_random_seed(seed)
    settings = read_full_settings()
    images, labels, part, files = load_pool(data, settings.IMAGE_SIZE if name == "ours" else SIZE, place.parent / "cache", left_out)
    rows = {one: np.flatnonzero(part == one) for one in ("fit", "holdout", "test")}
    shares = np.bincount(labels[rows["fit"]], minlength=2) / len(rows["fit"])
    recipe = globals()[name](keras, shares, place)
    fit = ImageBatches([images], rows["fit"], labels[rows["fit"]], recipe.batch, seed)
    holdout = ImageBatches([images], rows["holdout"], labels[rows["holdout"]], 64)
    curve, since = [], time.perf_counter()

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()
            fit.start_epoch(epoch)

        def on_epoch_end(self, epoch, logs=None):
            probabilities = self.model.predict(holdout, verbose=0)[:, 0].astype(float)
            auc = measure(holdout.labels, probabilities, 0.5)["auc"]
            curve.append({"seconds": time.perf_counter() - since, "epoch_seconds": time.perf_counter() - self.start, "auc": auc})
            print(f"{name}: epoch {epoch + 1} of {recipe.epochs}, {curve[-1]['seconds'] / 60:.1f} min, AUC {auc:.4f}", flush=True)
            if curve[-1]["seconds"] + curve[-1]["epoch_seconds"] > minutes * 60:
                self.model.stop_training = True

    watched = vary(holdout) if name == "ours" else holdout
    recipe.model.fit(fit, validation_data=watched, epochs=recipe.epochs, shuffle=False, verbose=0,
                     class_weight=recipe.class_weight, callbacks=[*recipe.callbacks, Watch()])
    model = look_closer(keras.models.load_model(place.with_suffix(".keras")), settings.VIEWS) if name == "ours" else recipe.model
    probabilities = {one: predict_probabilities(model, images[rows[one]]) for one in ("holdout", "test")[:1 + left_out]}
    threshold = choose_threshold(holdout.labels, probabilities["holdout"])
    scores = {one: score(labels[rows[one]], answers, files.patient[rows[one]], threshold, 1000, seed)
              for one, answers in probabilities.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    place.write_text(json.dumps({
        "name": name, "size": int(images.shape[1]), "parameters": int(recipe.model.count_params()), "curve": curve,
        "scores": scores["holdout"], "left_out": scores.get("test"),
        "peak_mb": peak, "epochs": len(curve), "wanted": recipe.epochs,
        "ended": "all epochs" if len(curve) == recipe.epochs else "time" if curve[-1]["seconds"] > 0.8 * minutes * 60 else "its rule"}))


def tell(score):
    """Return a score with its interval as text."""
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def tell_epochs(one):
    """Return how many of its epochs a network was trained for, as text."""
    return f"{one['epochs']} of {one['wanted']}" + (" (time)" if one["ended"] == "time" else "")


def tabulate_left_out(results):
    """Return the table of all networks, asked for the images that were left out, as Markdown."""
    lines = ["| network | pixels | validation AUC | AUC, left out | sensitivity, left out | specificity, left out | epochs | minutes |",
             "|---" * 8 + "|"]
    for name, one in results.items():
        cells = [tell(one["scores"]["auc"]), *(tell(one["left_out"][score]) for score in ("auc", "sensitivity", "specificity"))]
        minutes = one["curve"][-1]["seconds"] / 60
        lines.append(f"| {NAMES[name]} | {one['size']} | {' | '.join(cells)} | {tell_epochs(one)} | {minutes:.1f} |")
    return "\n".join(lines)


def tabulate(results):
    """Return the table of all networks as Markdown."""
    mine = results["ours"]["curve"]
    lines = ["| network | pixels | parameters | AUC | accuracy | sensitivity | specificity | epochs | s an epoch | minutes "
             "| minutes until ours has its AUC | peak memory, MB |", "|---" * 12 + "|"]
    for name, one in results.items():
        cells = [tell(one["scores"][score]) for score in ("auc", "accuracy", "sensitivity", "specificity")]
        reached = next((step["seconds"] / 60 for step in mine if step["auc"] >= one["scores"]["auc"]["value"]), None)
        lines.append(f"| {NAMES[name]} | {one['size']} | {one['parameters']:,} | {' | '.join(cells)} | {tell_epochs(one)} | "
                     f"{statistics.median(step['epoch_seconds'] for step in one['curve']):.0f} | {one['curve'][-1]['seconds'] / 60:.1f} | "
                     f"{'–' if name == 'ours' else 'never' if reached is None else f'{reached:.1f}'} | {one['peak_mb']:,.0f} |")
    return "\n".join(lines)


def draw(results, path):
    """Draw validation AUC against minutes of training."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for (name, one), colour, style in zip(results.items(), ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), ("-", "--", "-.", ":")):
        axis.plot([step["seconds"] / 60 for step in one["curve"]], [1 - step["auc"] for step in one["curve"]],
                  style, color=colour, lw=2, label=NAMES[name])
    axis.set_yscale("log")
    ticks = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
    axis.set_yticks(ticks, [f"{1 - tick:.3g}" for tick in ticks])
    axis.minorticks_off()
    axis.invert_yaxis()
    axis.set(xlabel="minutes of training", ylabel="validation AUC")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    best = max(results, key=lambda name: results[name]["scores"]["auc"]["value"])
    axis.set_title(f"Highest validation AUC: {NAMES[best]}, {results[best]['scores']['auc']['value']:.4f}", fontsize=11)
    figure.savefig(path, dpi=120)


def draw_left_out(results, path):
    """Draw each network's AUC on held-out patients and on the images that were left out, with their intervals."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
    for part, title, marker, colour in (("scores", "held-out patients", "s", "#666666"), ("left_out", "left-out films", "o", "#D55E00")):
        aucs = [one[part]["auc"] for one in results.values()]
        sides = [[one["value"] - one["low"] for one in aucs], [one["high"] - one["value"] for one in aucs]]
        axis.errorbar([one["value"] for one in aucs], range(len(aucs)), xerr=sides, fmt=marker, color=colour, capsize=3, label=title)
    axis.set_yticks(range(len(results)), [NAMES[name] for name in results])
    axis.invert_yaxis()
    axis.set_xlabel("AUC, with its 95 % interval")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the chest_xray folder")
    parser.add_argument("--minutes", type=float, help="the longest training of a network (default: as long as ours took)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/peers", help="where results are kept (default outputs/peers)")
    parser.add_argument("--save", type=Path, metavar="NAME", help="write the table to NAME.md and the picture to NAME.png")
    parser.add_argument("--peers", nargs="*", choices=list(NAMES)[1:], default=list(NAMES)[1:], help="beside ours (default: all three)")
    parser.add_argument("--left-out", action="store_true", help="ask for the images on which the clues mislead, and learn from the others")
    parser.add_argument("--only", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)  # the process of one network
    arguments = parser.parse_args()
    if arguments.only:
        return train(arguments.only[0], arguments.data, arguments.minutes, arguments.seed, Path(arguments.only[1]), arguments.left_out)
    arguments.work.mkdir(parents=True, exist_ok=True)
    data, kind = arguments.data, "-left-out" if arguments.left_out else ""
    if arguments.left_out:
        import sweep
        data = sweep.leave_out(data, arguments.work / "left-out-data/chest_xray")
    limit = f"-{arguments.minutes:g}min" if arguments.minutes else ""
    names = ["ours", *arguments.peers]
    place = {name: arguments.work / f"{name}{kind}{limit}-seed{arguments.seed}.json" for name in names}
    minutes = arguments.minutes or math.inf
    for name in names:
        if not place[name].exists():
            words = [sys.executable, __file__, "--only", name, place[name], "--data", data, "--minutes", str(minutes),
                     "--seed", str(arguments.seed), *["--left-out"] * arguments.left_out]
            if subprocess.run(words, check=False).returncode:
                sys.exit(f"The training of {NAMES[name]} failed: see above.")
        if name == "ours" and not arguments.minutes:
            minutes = json.loads(place[name].read_text(encoding="utf-8"))["curve"][-1]["seconds"] / 60
    results = {name: json.loads(place[name].read_text(encoding="utf-8")) for name in names}
    limit = f"at most {minutes:.3g} minutes each" + ("" if arguments.minutes else ", as long as ours took")
    asked = "left-out films, at the threshold where twice the sensitivity plus the specificity is largest on held-out patients"
    if not arguments.left_out:
        asked = "held-out patients, at the threshold where twice the sensitivity plus the specificity is largest there"
    words = (f"One seed ({arguments.seed}), {limit}; scores on the same {asked}, with 95 % intervals by patient-clustered bootstrap. "
             "Epochs marked (time) ended because of the minutes, the others by the author's own rule. The notebook's network answers from "
             f"its best epoch by validation loss, and looks {read_full_settings().VIEWS} times; the peers answer as their authors' code "
             "leaves them.")
    table = (tabulate_left_out if arguments.left_out else tabulate)(results)
    print(f"\n{table}\n\n{words}")
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(f"{table}\n\n{words}\n", encoding="utf-8")
        (draw_left_out if arguments.left_out else draw)(results, arguments.save.with_suffix(".png"))
    return None


if __name__ == "__main__":
    main()
