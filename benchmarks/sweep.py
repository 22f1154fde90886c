#!/usr/bin/env python3
"""Run the notebook over recipes × seeds and tell which differences are more than noise.

    python benchmarks/sweep.py --data data/chest_xray "larger=IMAGE_SIZE:128" "plain=AUGMENT:False" --seeds 0 1 2
    python benchmarks/sweep.py --data data/chest_xray --grid ablation --save benchmarks/ablation

A recipe is a name and the settings in which it differs from the reference, which is always run. What is varied are the notebook's
own settings, so what is measured is what users run. An idea that is no setting is a change of the notebook's text (ideas.py), tried
by PATCH:NAME. Runs that are there already are not repeated: a sweep that was cut off goes on.

    python benchmarks/sweep.py --data data/chest_xray --open-test --base IMAGE_SIZE:128,EPOCHS:22,PATIENCE:3 --save benchmarks/confirmation

Test stays closed, unless --open-test is given, which is for the final recipe alone. In its place the runs get the patients with the
lowest numbers of train and val, series by series, as the official test folder was made: "low numbers" in the table. "Conflicting" are the
held-out images, a quarter of each class, on which all that is not lung misleads (sections 3 and 7 of the notebook). "Changed" are the
held-out images with another exposure, sharpness or framing (section 7 of the notebook). The lowest AUC of any change ranks films that
have all been changed alike; that of all of them together, and with the unchanged ones, asks for one line that serves them all, and so do
sensitivity and specificity, at the run's threshold.

    python benchmarks/sweep.py --data data/chest_xray --left-out --grid left-out --save benchmarks/left_out_ideas

Films that conflict with the clues are nearly all answered rightly where others of their make were there to learn from. So --left-out asks
a harder question: the conflicting quarter of each class, of all of train and val, takes the place of test, and the patients who have
such an image teach nothing. Then the clues hold wherever the network learns, and mislead wherever it is asked.

Intervals are 95 %, by a bootstrap over patients and seeds together (each draw takes patients, and seeds, with replacement). That of a
difference to the reference is paired: in each draw both recipes answer for the same patients, from the same seeds. Where only
the means of each run are at hand ("changed"), it is Student's over the seeds.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import statistics
import sys
import time
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
import build  # noqa: E402
import run  # noqa: E402
from ideas import GRIDS, PATCHES  # noqa: E402

PROTOCOL = {"PRESET": "full", "IMAGE_SIZE": 96, "EPOCHS": 10, "PATIENCE": 2, "BASELINE_EPOCHS": 0, "RESAMPLES": 10}
SCORES = {"validation AUC": ("validation", "auc"), "conflicting, AUC": ("conflicting", "auc"), "low numbers, AUC": ("test", "auc"),
          "changed, lowest AUC": ("shifts", "lowest auc"),
          "changed together, AUC": ("changed_together", "auc")}
LEFT_OUT = {"validation AUC": ("validation", "auc"), "left out, AUC": ("test", "auc"), "left out, sensitivity": ("test", "sensitivity"),
            "left out, specificity": ("test", "specificity"), "changed together, AUC": ("changed_together", "auc")}
OPENED = {"validation AUC": ("validation", "auc"), "conflicting, AUC": ("conflicting", "auc"),
          "test AUC": ("test", "auc"), "test accuracy": ("test", "accuracy"),
          "test sensitivity": ("test", "sensitivity"), "test specificity": ("test", "specificity"),
          "changed, lowest AUC": ("shifts", "lowest auc"), "changed, lowest specificity": ("shifts", "lowest specificity"),
          "calibration error, validation": ("calibration_error", "after")}
INTERVALS = ("Mean ± SD over the seeds; below, in brackets, the 95 % interval, by bootstrap over patients and seeds, of the reference and "
             "of each paired difference to it (for the changed images, Student's over the seeds); in bold where that excludes 0.")


def parse_recipe(word):
    """Return (name, {setting: value}) of NAME=SETTING:VALUE,SETTING:VALUE."""
    name, _, settings = word.partition("=")
    pairs = [pair.partition(":") for pair in settings.split(",") if pair]
    patch = [{"PATCH": value} for setting, _, value in pairs if setting == "PATCH"]
    return name, run.parse_settings([f"{setting}={value}" for setting, _, value in pairs if setting != "PATCH"]) | dict(*patch)


def write_notebook(path, patch=None, whole=True):
    """Build the notebook, with a change of PATCHES if one is named, into `path`; if not `whole`, without sections 8 and 9.

    They only look at what section 7 has measured and section 10 writes down. Exits if there is no such change, or it no longer fits.
    """
    if patch and patch not in PATCHES:
        sys.exit(f"There is no change called {patch}. The changes are {', '.join(PATCHES)}.")
    book = build.build()
    for old, new in PATCHES.get(patch, []):
        cells = [cell for cell in book.cells if cell.cell_type == "code" and old in cell.source]
        count = sum(cell.source.count(old) for cell in cells)
        if count != 1:
            sys.exit(f"The change {patch!r} no longer fits the notebook, which has {count} times: {old}")
        cells[0].source = cells[0].source.replace(old, new)
    if not whole:
        first, last = (number for number, cell in enumerate(book.cells) if cell.source.startswith(("## 8. ", "## 10. ")))
        del book.cells[first:last]
    nbformat.write(book, path)
    return path


def patient_of(path):
    """Return the name of the patient in a file name."""
    name = Path(path).name
    return name.split("_")[0] if name.startswith("person") else name.rsplit("-", 1)[0]


def link_images(wanted, target):
    """Make `target` a folder of links to images, {path: split}, by split and class; what else an earlier call left there goes."""
    places = {target / split / path.parent.name / path.name: path for path, split in wanted.items()}
    for old in target.glob("*/*/*"):
        if old not in places or not old.samefile(places[old]):
            old.unlink()
    for place, path in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.link(path, place)
    return target


def imitate_shift(data, target, share=0.13):
    """Make a folder like `data`, without its test: there, the patients with the lowest numbers of train and val take its place.

    The pictures are linked, not copied. `share`: of the patient numbers of each series of file names.
    """
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
        lowest |= {patient_of(path) for number, path in members if number <= numbers[int(share * len(numbers))]}
    paths = [path for members in series.values() for _, path in members]
    return link_images({path: "test" if patient_of(path) in lowest else "train" for path in paths}, target)


def list_decisive(found):
    """Return, sorted, the names of what decides a run, and of all that they use, of `build.find_definitions()`."""
    waiting, names = ["read_image", "find_duplicates", "link_patients", "split_by_patient", "make_batches", "build_baseline", "build_cnn",
                      "augment", "vary", "train", "validate_run", "measure_shifts"], set()
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += build.global_names(found[name][2])[0] & set(found)
    return sorted(names)


def identify(settings):
    """Return a name for runs with these settings and the notebook's code of today: where it has changed, old runs do not count."""
    found, known = build.find_definitions(), build.read_settings()
    code = [ast.dump(found[name][1]) for name in list_decisive(found)]
    code += [cell.source for cell, _ in build.read_cells()
             if cell.cell_type == "code" and ".compile(" in cell.source and "train(" in cell.source]
    code += PATCHES.get(settings.get("PATCH"), [])
    changed = [f"{key}-{value}" for key, value in sorted(settings.items()) if value != known.get(key)]
    return "_".join([*changed, hashlib.sha256(repr([code, sorted(settings.items(), key=str)]).encode()).hexdigest()[:8]])


def read_kept(folder):
    """Return the metrics of a run that is kept in `folder`, with its table of predictions, and whose image each is: "patient"."""
    import pandas as pd
    table = pd.read_csv(folder / "predictions.csv")
    table["patient"] = [patient_of(path) for path in table.path]
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8")) | {"predictions": table}


def run_once(settings, folder):
    """Run the notebook with these settings into `folder` unless it has been; return its metrics and predictions."""
    if not (folder / "metrics.json").exists():
        settings = settings | {"OUTPUT_DIR": folder}
        folder.mkdir(parents=True, exist_ok=True)
        patch = settings.pop("PATCH", None)
        if patch:
            shutil.rmtree(folder / "runs", ignore_errors=True)  # a changed training may keep what a resumed one does not know of
        notebook = write_notebook(folder / "notebook.ipynb", patch, whole=False)
        with open(folder / "log.txt", "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                papermill.execute_notebook(notebook, folder / "executed.ipynb", {name: str(value) if isinstance(value, Path) else value
                                           for name, value in settings.items()}, cwd=str(ROOT), kernel_name="python3", progress_bar=False)
            except papermill.PapermillExecutionError as error:
                sys.exit(f"A run failed with {error.ename}: {error.evalue}; see {folder / 'executed.ipynb'}.")
    return read_kept(folder)


def read_clues(data, size=96):
    """Return a table of the images of train and val by path: `clue`, an answer from all that is not lung (section 3), `label`, `group`."""
    import pandas as pd

    from cxr.dataset import list_images
    from cxr.images import load_split
    from cxr.split import find_duplicates, link_patients
    from cxr.surroundings import answer_crossed, gather_clues
    files = list_images(data)
    x, files, _ = load_split(data, files[files.split != "test"], size, "Clues")
    labels, groups = files.label.to_numpy(), link_patients(files.patient, find_duplicates(x, files)[0])
    answers = answer_crossed(gather_clues(list(x), files, data)["all of these"], labels, groups)
    return pd.DataFrame({"clue": answers, "label": labels, "group": groups}, files.path)


def leave_out(data, target):
    """Make a folder like `data`, without its test: in its place come the images of train and val on which the clues mislead.

    Its train is the patients who have no such image. So the clues always hold where the network learns, and never where it is asked.
    """
    from cxr.rivals import find_conflicting
    table = read_clues(data)
    misled = find_conflicting(table.label.to_numpy(), table.clue.to_numpy())
    told = ~table.group.isin(table.group[misled])
    wanted = {data / path: "test" if asked else "train" for path, asked, kept in zip(table.index, misled, told) if asked or kept}
    return link_images(wanted, target)


def add_conflicting(run, clues):
    """Add the held-out images on which the clues mislead, and the scores on them, to a run: the part "conflicting"."""
    import pandas as pd

    from cxr.measure import measure
    from cxr.rivals import find_conflicting
    table = run["predictions"]
    own = table[table.split == "validation"]
    own = own[find_conflicting(own.label.to_numpy(), clues.loc[own.path].to_numpy())].assign(split="conflicting")
    scores = measure(own.label.to_numpy(), own.probability.to_numpy(), run["threshold"]["value"])
    return run | {"predictions": pd.concat([table, own], ignore_index=True),
                  "conflicting": {name: {"value": value} for name, value in scores.items()}}


def pick(run, path):
    """Return one score of a run."""
    part, name = path
    if part != "shifts":
        return run[part][name] if part == "calibration_error" else run[part][name]["value"]
    changed = [one for change, one in run["shifts"].items() if change != "unchanged"]
    return min(one[name.removeprefix("lowest ")] for one in changed)


def student(values):
    """Return the 95 % interval of a mean (Student's t); infinite for fewer than two values."""
    from scipy import stats
    if len(values) < 2:
        return -math.inf, math.inf
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def resample(runs, part, draws=1000):
    """Return {score: `draws` values}: means over seeds drawn with replacement, for patients of a part drawn with replacement."""
    import numpy as np

    from cxr.measure import measure
    tables = [run["predictions"][run["predictions"].split == part] for run in runs]
    assert all((table.path.array == tables[0].path.array).all() for table in tables), "runs with other images cannot be compared"
    patient, generator = np.unique(tables[0].patient, return_inverse=True)[1], np.random.default_rng(0)
    labels, count = tables[0].label.to_numpy(), patient.max() + 1
    answers, thresholds = [table.probability.to_numpy() for table in tables], [run["threshold"]["value"] for run in runs]
    values = {}
    for _ in range(draws):
        weights = np.bincount(generator.integers(count, size=count), minlength=count)[patient].astype(float)
        seeds = np.unique(generator.integers(len(runs), size=len(runs)), return_counts=True)
        scores = [measure(labels, answers[seed], thresholds[seed], weights) for seed in seeds[0]]
        for name in scores[0]:
            values.setdefault(name, []).append(np.average([one[name] for one in scores], weights=seeds[1]))
    return {name: np.array(drawn) for name, drawn in values.items()}


def compare(results, draws=1000, scores=SCORES):
    """Return {recipe: {score: {"values", "interval", "difference", "difference_interval"}}}; the first recipe is the reference."""
    import numpy as np
    reference, table = next(iter(results)), {}
    drawn = {(name, part): resample(runs, part, draws) for name, runs in results.items() for part in ("validation", "conflicting", "test")}
    for part, score in scores.values():
        for name, runs in results.items():
            values = [pick(run, (part, score)) for run in runs]
            pairs = [value - pick(run, (part, score)) for value, run in zip(values, results[reference])]
            cell = {"values": values, "difference": statistics.mean(pairs),
                    "interval": student(values), "difference_interval": student(pairs)}
            if part in ("validation", "conflicting", "test"):
                own, other = drawn[name, part][score], drawn[reference, part][score]
                cell["interval"] = np.quantile(own, (0.025, 0.975)).tolist()
                cell["difference_interval"] = np.quantile(own - other, (0.025, 0.975)).tolist()
            table.setdefault(name, {})[part, score] = cell
    return table


def ensemble(runs, scores=("auc", "accuracy", "sensitivity", "specificity"), resamples=1000):
    """Return in words what the mean of the logits of some runs reaches on test, at the threshold chosen on validation."""
    import numpy as np
    from scipy import special

    from cxr.measure import choose_threshold, draw_patients, rank, score
    logits = special.logit(np.clip([run["predictions"].probability for run in runs], 1e-7, 1 - 1e-7))
    table = runs[0]["predictions"].assign(probability=special.expit(logits.mean(axis=0)))
    validation, test = (table[table.split == part] for part in ("validation", "test"))
    threshold = choose_threshold(validation.label.to_numpy(), validation.probability.to_numpy())
    reached = score(test.label.to_numpy(), test.probability.to_numpy(), test.patient, threshold, resamples, 0)
    words = ", ".join(f"{name} {reached[name]['value']:.4f} [{reached[name]['low']:.4f}, {reached[name]['high']:.4f}]" for name in scores)
    labels, alone = test.label.to_numpy(), logits[:, (table.split == "test").to_numpy()]
    gains = [rank(labels, test.probability.to_numpy(), weights)[0] - np.mean([rank(labels, one, weights)[0] for one in alone])
             for weights in (np.ones(len(labels)), *draw_patients(test.patient, resamples, 0))]
    low, high = np.quantile(gains[1:], (0.025, 0.975))
    return (f"Together, as the mean of their logits, the {len(runs)} networks of the reference reach {words} where \"{{}}\" is meant "
            f"above: in AUC {gains[0]:+.4f} [{low:+.4f}, {high:+.4f}] to one of them alone.")


def tabulate_classifiers(runs):
    """Return as Markdown the AUCs of the classifiers of section 7, on validation and on test, mean ± SD over the runs."""
    lines = ["| classifier | validation AUC | AUC, left out |", "|---|---|---|"]
    for name in runs[0]["classifiers"]:
        cells = [[run["classifiers"][name][column]["value"] for run in runs] for column in ("AUC", "test AUC")]
        spread = [f" ± {statistics.stdev(values):.3f}" if len(runs) > 1 else "" for values in cells]
        lines.append(f"| {name} | " + " | ".join(f"{statistics.mean(values):.3f}{more}" for values, more in zip(cells, spread)) + " |")
    return "\n".join(lines)


def tabulate(results, table, scores=SCORES):
    """Return the comparison as Markdown: mean ± SD over the seeds, and the paired difference to the reference."""
    lines = [f"| recipe | seeds | {' | '.join(scores)} | minutes |", "|---|---|" + "---|" * (len(scores) + 1)]
    for number, (name, runs) in enumerate(results.items()):
        cells = []
        for path in scores.values():
            one = table[name][path]
            spread = f" ± {statistics.stdev(one['values']):.4f}" if len(runs) > 1 else ""
            text = f"{statistics.mean(one['values']):.4f}{spread}"
            low, high = one["difference_interval"] if number else one["interval"]
            if number:
                text += f"<br>{one['difference']:+.4f}" + (f" [{low:+.4f}, {high:+.4f}]" if math.isfinite(low) else "")
                text = f"**{text}**" if low > 0 or high < 0 else text
            elif math.isfinite(low):
                text += f"<br>[{low:.4f}, {high:.4f}]"
            cells.append(text)
        minutes = statistics.mean(run["seconds"]["6 Train"] for run in runs) / 60
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines)


def draw(results, table, path, scores=SCORES):
    """Draw every seed of every recipe as a dot, its mean as a line, and the reference's interval as a band."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    names = list(results)[::-1]
    columns, lines = min(len(scores), 4), math.ceil(len(scores) / 4)
    figure, axes = plt.subplots(lines, columns, figsize=(2.6 * columns + 1.5, 0.5 + (0.9 + 0.36 * len(names)) * lines), sharey=True,
                                squeeze=False, layout="constrained")
    axes = axes.ravel()
    for axis in axes[len(scores):]:
        axis.set_visible(False)
    differing = []
    for axis, (title, score) in zip(axes, scores.items()):
        low, high = table[names[-1]][score]["interval"]
        if math.isfinite(low):
            axis.axvspan(low, high, color="#dddddd", lw=0)
        for row, name in enumerate(names):
            one = table[name][score]
            surely = row < len(names) - 1 and (one["difference_interval"][0] > 0 or one["difference_interval"][1] < 0)
            differing += [name] if surely else []
            colour = "#D55E00" if surely else "#0072B2"
            axis.plot(one["values"], [row] * len(one["values"]), "o", color=colour, alpha=0.6, ms=5, mec="none")
            axis.plot([statistics.mean(one["values"])], [row], "|", color=colour, ms=16, mew=2)
        axis.set_xlabel(title, fontsize=9)
        axis.tick_params(axis="x", labelsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    differ = f"{len(set(differing))} of {len(names) - 1} recipes differ from the reference by more than noise in some score (orange)\n"
    figure.suptitle((differ if len(names) > 1 else "") + "dots: seeds; line: mean; grey: 95 % interval of the reference", fontsize=10)
    figure.savefig(path, dpi=120)


def publish(results, table, scores, words, save=None):
    """Print the comparison, and what is to be said of it; write both to `save`.md, and the picture to `save`.png."""
    text = f"{tabulate(results, table, scores)}\n\n{words}\n"
    print(f"\n{text}")
    if save:
        save.with_suffix(".md").write_text(text, encoding="utf-8")
        draw(results, table, save.with_suffix(".png"), scores)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="NAME=SETTING:VALUE,…", help="what to compare with the reference")
    parser.add_argument("--grid", choices=GRIDS, help="a list of recipes that is kept in this file")
    parser.add_argument("--data", type=Path, required=True, help="the chest_xray folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", default="", metavar="SETTING:VALUE,…", help="settings of all runs, beyond the protocol")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs/sweep",
                        help="where the runs are kept; take another folder for other data (default outputs/sweep)")
    parser.add_argument("--save", type=Path, metavar="NAME", help="write the table to NAME.md and the picture to NAME.png")
    test = parser.add_mutually_exclusive_group()
    test.add_argument("--left-out", action="store_true", help="ask for the images on which the clues mislead, and learn from the others")
    test.add_argument("--open-test", action="store_true", help="use the data as they are, test included, and report it")
    arguments = parser.parse_args()
    mode = "opened" if arguments.open_test else "left-out" if arguments.left_out else "closed"
    scores, place, make, asked = {"closed": (SCORES, "imitation", imitate_shift, "low numbers"),
                                  "left-out": (LEFT_OUT, "left-out-data", leave_out, "left out"),
                                  "opened": (OPENED, "", lambda data, _: data.resolve(), "test")}[mode]
    base = PROTOCOL | parse_recipe(f"base={arguments.base}")[1]
    recipes = {"reference": {}} | GRIDS.get(arguments.grid, {}) | dict(parse_recipe(word) for word in arguments.recipes)
    data = make(arguments.data, arguments.work / place / "chest_xray")
    results, known = {}, build.read_settings()
    for seed in arguments.seeds:
        for name, changes in recipes.items():
            settings = base | changes | {"SEED": seed, "DATA_DIR": data, "CACHE_DIR": arguments.work / "cache"}
            unknown = set(settings) - set(known) - {"PATCH"}
            if unknown:
                sys.exit(f"{name}: the notebook has no setting {', '.join(sorted(unknown))}.")
            folder = arguments.work / mode / identify(known | base | changes) / str(seed)
            since = time.perf_counter()
            results.setdefault(name, []).append(run_once(settings, folder))
            print(f"{name}, seed {seed}: validation AUC {pick(results[name][-1], SCORES['validation AUC']):.4f} "
                  f"({(time.perf_counter() - since) / 60:.1f} min)", flush=True)
    clues = read_clues(data).clue
    results = {name: [add_conflicting(one, clues) for one in runs] for name, runs in results.items()}
    table = compare(results, scores=scores)
    protocol, seeds = ", ".join(f"{key} {value}" for key, value in base.items()), ", ".join(map(str, arguments.seeds))
    words = f"Protocol: {protocol}; seeds {seeds}. {INTERVALS}"
    first = results["reference"][0]
    if arguments.open_test and not first["official_split"]:
        counts = " and ".join(f"{count} {name}" for name, count in first["counts"]["test"].items())
        words += f" The folder \"test\" of these data is not the official one: it has {counts}."
    if len(arguments.seeds) > 1:
        words += "\n\n" + ensemble(results["reference"]).format(asked)
    if arguments.left_out:
        words += "\n\n" + tabulate_classifiers(results["reference"])
    publish(results, table, scores, words, arguments.save)


if __name__ == "__main__":
    main()
