#!/usr/bin/env python3
"""Ask the networks of a sweep again, each looking once, twice, … at a film, and tell which differences are more than noise.

    python benchmarks/sweep.py --left-out --base IMAGE_SIZE:80,EPOCHS:10 --data data/chest_xray
    python benchmarks/views.py outputs/sweep/left-out/BASELINE_EPOCHS-0_…/[0-9] --left-out --save benchmarks/views_left_out

Nothing is trained: VIEWS changes how a trained network is asked (section 7 of the notebook). The runs are seeds of one recipe. Each
number of views gets a threshold of its own, by the notebook's rule, without calibration, which changes no order. Intervals as in sweep.py.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
import sweep  # noqa: E402


def ask(folder, numbers):
    """Return {number of views: a run as sweep.py has it}: the trained network of a run's folder, asked with each of them."""
    import numpy as np

    from cxr.batches import ImageBatches
    from cxr.dataset import list_images
    from cxr.images import load_split
    from cxr.machine import load_network
    from cxr.measure import choose_threshold, measure, predict_probabilities
    from cxr.shift import answer_changed, join_changes, look_closer, measure_shifts
    kept = sweep.read_kept(folder)
    settings, table, files = kept["settings"], kept["predictions"], list_images(Path(kept["settings"]["DATA_DIR"]))
    x, files, _ = load_split(settings["DATA_DIR"], files[files.path.isin(table.path)], settings["IMAGE_SIZE"], "Asked again",
                             settings["CACHE_DIR"], settings["GEOMETRY"])
    table = table.set_index("path").loc[files.path].reset_index()
    held = np.flatnonzero(table.split == "validation")
    holdout = ImageBatches([x], held, table.label.to_numpy()[held], 16)
    network, runs = load_network(folder / "runs" / settings["RUN_NAME"] / "best.keras"), {}
    for number in numbers:
        closer = look_closer(network, number)
        own = table.assign(probability=predict_probabilities(closer, x))
        changed = answer_changed(closer, holdout)
        parts = {part: (rows.label.to_numpy(), rows.probability.to_numpy()) for part, rows in own.groupby("split")}
        parts["changed_together"] = join_changes(holdout.labels, changed)
        threshold = choose_threshold(*parts["changed_together"])
        run = {name: {score: {"value": value} for score, value in measure(*part, threshold).items()} for name, part in parts.items()}
        shifts = measure_shifts(holdout.labels, changed, threshold).T.to_dict()
        runs[number] = run = kept | run | {"predictions": own, "threshold": {"value": threshold}, "shifts": shifts}
        print(f"{folder.name}, {number}: AUC {run['test']['auc']['value']:.4f}", flush=True)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders that sweep.py has kept, a seed each, of one recipe")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="the first is the reference (default 1 2 3 4 5)")
    parser.add_argument("--left-out", action="store_true", help="the runs are those of sweep.py --left-out")
    parser.add_argument("--save", type=Path, metavar="NAME", help="write the table to NAME.md and the picture to NAME.png")
    arguments = parser.parse_args()
    asked = [ask(folder, arguments.views) for folder in arguments.runs]
    names = {number: f"{number} view{'s' * (number > 1)}" for number in arguments.views}
    settings, scores = asked[0][arguments.views[0]]["settings"], sweep.LEFT_OUT if arguments.left_out else sweep.SCORES
    clues = sweep.read_clues(Path(settings["DATA_DIR"])).clue
    results = {names[number]: [sweep.add_conflicting(runs[number], clues) for runs in asked] for number in arguments.views}
    table = sweep.compare(results, scores=scores)
    protocol = ", ".join(f"{name} {settings[name]}" for name in ("IMAGE_SIZE", "EPOCHS", "PATIENCE", "VALIDATION_SHARE"))
    seeds = ", ".join(str(runs[arguments.views[0]]["settings"]["SEED"]) for runs in asked)
    words = (f"Networks trained with {protocol}; seeds {seeds}; each is asked with every number of views, so the minutes, of the training, "
             f"are the same. {sweep.INTERVALS}")
    sweep.publish(results, table, scores, words, arguments.save)


if __name__ == "__main__":
    main()
