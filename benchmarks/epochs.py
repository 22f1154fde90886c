#!/usr/bin/env python3
"""Keep every epoch of some trainings, and tell which one the held-out films would choose: as they are, or as they are and changed.

    python benchmarks/epochs.py --data data/chest_xray --save benchmarks/epochs

As in sweep.py --left-out, a network learns where the clues hold and is then asked for the films on which they mislead. The AUC on these,
after each epoch, is what a good choice makes large. All choices are made from the same trainings, which lower the rate as the notebook
does. The official test folder stays closed.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
import sweep  # noqa: E402

OFTEN = {0: "as they are", 1: "and each changed once", 3: "and each changed three times (the notebook's choice)"}


def load(data, settings, cache):
    """Return (x, files, asked, labels): the films to learn from, with their part in `files`, and those that are asked for."""
    from cxr.dataset import list_images
    from cxr.images import load_split
    from cxr.split import find_duplicates, link_patients, split_by_patient
    listed = list_images(data)
    (x, files, _), (asked, asked_files, _) = (load_split(data, listed[listed.split == split], settings.IMAGE_SIZE, f"Loading {split}",
                                                         cache, settings.GEOMETRY) for split in ("train", "test"))
    groups = link_patients(files.patient, find_duplicates(x, files)[0])
    files = files.assign(part=split_by_patient(files, groups, settings.VALIDATION_SHARE, settings.SPLIT_SEED))
    return x, files, asked, asked_files.label.to_numpy()


def follow(seed, loaded, settings, folder):
    """Train as section 6 does; return a row for each epoch: its losses on the held-out films, and its AUC on those that are asked for."""
    import keras
    from sklearn.metrics import log_loss

    from cxr.augment import augment
    from cxr.batches import make_batches
    from cxr.measure import measure, predict_probabilities
    from cxr.network import build_cnn
    from cxr.shift import look_closer, vary
    from cxr.train import make_callbacks
    x, files, asked, labels = loaded
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    fit, holdout = make_batches("fit", files, [x], settings.BATCH_SIZE, seed), make_batches("holdout", files, [x], settings.BATCH_SIZE)
    network = build_cnn(settings.IMAGE_SIZE, settings.DROPOUT)
    model = augment(network, settings.POSE, settings.EXPOSURE, settings.TEXTURE, settings.FLIP)
    model.compile(keras.optimizers.AdamW(settings.LEARNING_RATE, weight_decay=settings.WEIGHT_DECAY), "binary_crossentropy",
                  metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])
    keep = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: fit.start_epoch(epoch),
                                          on_epoch_end=lambda epoch, logs: network.save_weights(folder / f"{epoch}.weights.h5"))
    history = model.fit(fit, validation_data=vary(holdout), epochs=settings.EPOCHS, shuffle=False, verbose=0,
                        callbacks=[keep, *make_callbacks(folder / "best.keras", settings.PATIENCE)]).history
    rows = []
    for epoch, rate in enumerate(history["learning_rate"]):
        network.load_weights(folder / f"{epoch}.weights.h5")
        losses = {often: float(log_loss(watched.labels, predict_probabilities(network, watched)))
                  for often, watched in ((often, vary(holdout, often)) for often in OFTEN)}
        auc = measure(labels, predict_probabilities(look_closer(network, settings.VIEWS), asked), 0.5)["auc"]
        rows.append({"seed": seed, "epoch": epoch + 1, "rate": rate, "auc": auc} | losses)
        print(f"seed {seed}, epoch {epoch + 1}: rate {rate:.0e}, loss " + ", ".join(f"{loss:.3f}" for loss in losses.values())
              + f", AUC {auc:.4f}", flush=True)
    return rows


def choose(rows):
    """Return {how: (epoch, AUC)} for the epochs of one training."""
    chosen = {f"held-out films {name}": rows.loc[rows[often].idxmin()] for often, name in OFTEN.items()}
    chosen |= {"the last epoch": rows.iloc[-1], "the best of all, known only afterwards": rows.loc[rows.auc.idxmax()]}
    return {how: (int(row.epoch), float(row.auc)) for how, row in chosen.items()}


def tabulate(table):
    """Return as Markdown which epoch each way chooses, with its AUC on the left-out films."""
    import numpy as np
    runs = {seed: choose(rows) for seed, rows in table.groupby("seed")}
    lines = [f"| epoch chosen by | {' | '.join(f'seed {seed}: epoch, AUC' for seed in runs)} | mean ± SD |", "|---" * (len(runs) + 2) + "|"]
    for how in next(iter(runs.values())):
        cells = [run[how] for run in runs.values()]
        aucs = [auc for _, auc in cells]
        spread = f" ± {np.std(aucs, ddof=1):.4f}" if len(aucs) > 1 else ""
        lines.append(f"| {how} | {' | '.join(f'{epoch}, {auc:.4f}' for epoch, auc in cells)} | {np.mean(aucs):.4f}{spread} |")
    return "\n".join(lines)


def draw(table, place):
    """Draw, training by training, both losses over the epochs, and under them the AUC on the left-out films, the chosen epochs marked."""
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    runs = list(table.groupby("seed"))
    figure, axes = plt.subplots(2, len(runs), figsize=(3.6 * len(runs), 5.2), sharex=True, sharey="row", squeeze=False,
                                layout="constrained")
    first, last = min(OFTEN), max(OFTEN)
    for (seed, rows), (above, below) in zip(runs, axes.T):
        chosen = choose(rows)
        below.plot(rows.epoch, rows.auc, color="black")
        for often, colour, marker in ((first, "#D55E00", "v"), (last, "#0072B2", "o")):
            above.plot(rows.epoch, rows[often], color=colour, marker=marker, markersize=4, label=OFTEN[often])
            epoch, auc = chosen[f"held-out films {OFTEN[often]}"]
            below.plot([epoch], [auc], marker, color=colour, markersize=9)
        above.set(title=f"seed {seed}", yscale="log")
        below.set(xlabel="epoch")
    axes[0, 0].set(ylabel="loss on held-out films")
    axes[1, 0].set(ylabel="AUC on left-out films")
    axes[0, -1].legend(fontsize=7)
    figure.suptitle("Which epoch the held-out films choose (lowest loss; marked below)", fontsize=11)
    figure.savefig(place, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the chest_xray folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/sweep", help="where the films and epochs are kept")
    parser.add_argument("--save", type=Path, metavar="NAME", help="write the table to NAME.md and the picture to NAME.png")
    arguments = parser.parse_args()
    import pandas as pd
    protocol = sweep.PROTOCOL | {"IMAGE_SIZE": 80}
    settings = SimpleNamespace(**sweep.build.read_settings() | protocol)
    loaded = load(sweep.leave_out(arguments.data, arguments.work / "left-out-data/chest_xray"), settings, arguments.work / "cache")
    table = pd.DataFrame([row for seed in arguments.seeds for row in follow(seed, loaded, settings, arguments.work / f"epochs/{seed}")])
    close = {often: [rows[often].corr(rows.auc, "spearman") for _, rows in table.groupby("seed")] for often in OFTEN}
    words = "; ".join(f"{OFTEN[often]}: {', '.join(f'{one:.2f}' for one in found)}" for often, found in close.items())
    about = ", ".join(f"{key} {value}" for key, value in protocol.items())
    text = (f"{tabulate(table)}\n\nProtocol: {about}. Rank correlation of the loss with that AUC over the epochs of each training "
            f"(-1: the lower the loss, the higher the AUC), held-out films {words}.\n")
    print(f"\n{text}")
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(text, encoding="utf-8")
        draw(table, arguments.save.with_suffix(".png"))


if __name__ == "__main__":
    main()
