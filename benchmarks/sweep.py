#!/usr/bin/env python3
"""Run the notebook over recipes × seeds and tell which differences are more than noise.

    python benchmarks/sweep.py --data data/chest_xray "larger=IMAGE_SIZE:128" "plain=AUGMENT:False" --seeds 0 1 2
    python benchmarks/sweep.py --data data/chest_xray --grid ablation --save benchmarks/ablation

A recipe is a name and the settings in which it differs from the reference, which is always run. What is varied are the notebook's
own settings, so what is measured is what users run. Runs that are there already are not repeated: a sweep that was cut off goes on.

Test stays closed. In its place the runs get the patients with the lowest numbers of train and val, series by series, as
the official test folder was made: `imitation` in the table. `worst shift` is the lowest AUC of the held-out images when they are
changed (section 7 of the notebook).
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))
import functions  # noqa: E402
import run  # noqa: E402

PROTOCOL = {"PRESET": "full", "IMAGE_SIZE": 96, "EPOCHS": 12, "PATIENCE": 2, "BASELINE_EPOCHS": 0, "RESAMPLES": 10}
GRIDS = {"ablation": {}}
SCORES = {"val AUC": ("validation", "auc", "value"), "val accuracy": ("validation", "accuracy", "value"),
          "worst shift": ("shifts",), "imitation AUC": ("test", "auc", "value"), "imitation sens.": ("test", "sensitivity", "value"),
          "imitation spec.": ("test", "specificity", "value")}


def parse_recipe(word):
    """Return (name, {setting: value}) of NAME=SETTING:VALUE,SETTING:VALUE."""
    name, _, settings = word.partition("=")
    pairs = [pair.partition(":") for pair in settings.split(",") if pair]
    return name, run.parse_settings([f"{setting}={value}" for setting, _, value in pairs])


def imitate_shift(data, target, share=0.13):
    """Make a folder like `data`, without its test: there, the patients with the lowest numbers of train and val take its place.

    The pictures are linked, not copied. `share`: of the patient numbers of each series of file names.
    """
    def patient(path):
        return path.name.split("_")[0] if path.name.startswith("person") else path.name.rsplit("-", 1)[0]

    series = {}
    for path in sorted(path for split in ("train", "val") for path in (data / split).glob("*/*")):
        known = re.match(r"(NORMAL2-IM|IM)-(\d+)|person(\d+)_(bacteria|virus)", path.name)
        if known:
            series.setdefault(known[1] or known[4], []).append((int(known[2] or known[3]), path))
    if not series:
        sys.exit(f"No file name in {data} tells the patient's number: this sweep needs the chest X-ray set (or phantoms).")
    lowest = set()
    for members in series.values():
        numbers = sorted({number for number, _ in members})
        lowest |= {patient(path) for number, path in members if number <= numbers[int(share * len(numbers))]}
    for path in (path for members in series.values() for _, path in members):
        place = target / ("test" if patient(path) in lowest else "train") / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.link(path, place)
    return target


def run_once(settings, folder):
    """Run the notebook with these settings into `folder` unless it has been; return its metrics."""
    metrics = folder / "metrics.json"
    if not metrics.exists():
        words = [f"{name}={value}" for name, value in settings.items()] + [f"OUTPUT_DIR={folder}"]
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "w") as log:
            done = subprocess.run([sys.executable, ROOT / "notebooks/run.py", *words], stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            sys.exit(f"A run failed: see {folder / 'log.txt'}.")
    return json.loads(metrics.read_text(encoding="utf-8"))


def pick(metrics, path):
    """Return one score of a run's metrics; of the shifts, the lowest AUC."""
    if path == ("shifts",):
        return min(one["auc"] for one in metrics["shifts"].values())
    for key in path:
        metrics = metrics[key]
    return metrics


def interval(differences):
    """Return the half width of the 95 % interval of the mean of paired differences (Student's t), NaN of fewer than two."""
    from scipy import stats
    if len(differences) < 2:
        return math.nan
    return float(stats.t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))


def tabulate(results):
    """Return {recipe: [metrics of each seed]} as Markdown: mean ± SD, and the paired differences to the reference."""
    lines = [f"| recipe | seeds | {' | '.join(SCORES)} | minutes |", "|---|---|" + "---|" * (len(SCORES) + 1)]
    reference = next(iter(results.values()))
    for name, runs in results.items():
        cells = []
        for path in SCORES.values():
            values = [pick(one, path) for one in runs]
            cell = f"{statistics.mean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")
            if runs is not reference:
                pairs = [value - pick(other, path) for value, other in zip(values, reference)]
                half = interval(pairs)
                cell += f"<br>{statistics.mean(pairs):+.4f}" + ("" if math.isnan(half) else f" [{statistics.mean(pairs) - half:+.4f}, "
                                                                f"{statistics.mean(pairs) + half:+.4f}]")
                cell = f"**{cell}**" if half < abs(statistics.mean(pairs)) else cell
            cells.append(cell)
        minutes = statistics.mean(one["seconds"]["6 Train"] for one in runs) / 60
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="NAME=SETTING:VALUE,…", help="what to compare with the reference")
    parser.add_argument("--grid", choices=GRIDS, help="a list of recipes that is kept in this file")
    parser.add_argument("--data", type=Path, required=True, help="the chest_xray folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", default="", metavar="SETTING:VALUE,…", help="settings of all runs, beyond the protocol")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/sweep", help="where the runs are kept (default outputs/sweep)")
    parser.add_argument("--save", type=Path, metavar="NAME", help="write the table to NAME.md")
    arguments = parser.parse_args()
    base = PROTOCOL | parse_recipe(f"base={arguments.base}")[1]
    recipes = {"reference": {}} | GRIDS.get(arguments.grid, {}) | dict(parse_recipe(word) for word in arguments.recipes)
    data = imitate_shift(arguments.data, arguments.work / "imitation" / "chest_xray")
    results, known = {}, functions.read_settings()
    for seed in arguments.seeds:
        for name, changes in recipes.items():
            settings = base | changes | {"SEED": seed, "DATA_DIR": data, "CACHE_DIR": arguments.work / "cache"}
            unknown = set(settings) - set(known)
            if unknown:
                sys.exit(f"{name}: the notebook has no setting {', '.join(sorted(unknown))}.")
            place = "-".join(f"{key}{value}" for key, value in sorted((base | changes).items()))
            folder = arguments.work / place / str(seed)
            since = time.perf_counter()
            results.setdefault(name, []).append(run_once(settings, folder))
            print(f"{name}, seed {seed}: validation AUC {pick(results[name][-1], SCORES['val AUC']):.4f} "
                  f"({(time.perf_counter() - since) / 60:.1f} min)", flush=True)
    words = (f"Protocol: {', '.join(f'{key} {value}' for key, value in base.items())}. Mean ± SD over the seeds; below, the paired "
             "difference to the reference, with its 95 % interval where there are two seeds or more, in bold where that excludes 0.")
    table = tabulate(results)
    print(f"\n{table}\n\n{words}")
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(f"{words}\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
