#!/usr/bin/env python3
"""Run the notebook with several settings and seeds; test which differ significantly.

    python benchmarks/sweep.py --data data/chest_xray "larger=IMAGE_SIZE:128"
    python benchmarks/sweep.py --data data/chest_xray --left-out --ablation

A recipe is a name and the settings in which it differs from the reference, which is
always run. Sections 0 to 7 of the built notebook are executed, so what is measured is
what users run. A finished run is reused as long as the notebook's code is the same; a
sweep that was interrupted continues.

The official test folder stays closed. By default its place is taken by the patients
with the lowest numbers of train and val ("low numbers"), because the official folder
was split off by patient number as well. Two options ask other questions:

--left-out    The test set consists of the bias-conflicting quarter of each class: the
              images on which a classifier of the shortcut features (section 3 of the
              notebook) is most wrong. Their patients are excluded from training.
--open-test   The data are used as they are. This is for the final recipe alone.

Intervals are 95 %, by a bootstrap over patients and seeds together. The difference to
the reference is paired: each draw takes the same patients and seeds for both recipes.
Perturbed images have only a score for each run, so their interval is Student's over the
seeds.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).resolve().parent.parent

NOTEBOOK = ROOT / "notebooks/chest_xray_pneumonia.ipynb"
PROTOCOL = {
    "PRESET": "full",
    "IMAGE_SIZE": 96,
    "EPOCHS": 10,
    "PATIENCE": 2,
    "BASELINE_EPOCHS": 0,
    "BOOTSTRAP_SAMPLES": 10,
}
ABLATION = {
    "no affine augmentation": {"AUG_AFFINE": 0},
    "no intensity augmentation": {"AUG_INTENSITY": 0},
    "no blur and noise augmentation": {"AUG_BLUR_NOISE": 0},
    "no dropout": {"DROPOUT": 0.0},
    "no weight decay": {"WEIGHT_DECAY": 0.0},
}
SCORES = {  # {column: (part of metrics.json, score)}; the folder "test" holds {}
    "validation AUC": ("validation", "auc"),
    "{} AUC": ("test", "auc"),
    "{} accuracy": ("test", "accuracy"),
    "{} sensitivity": ("test", "sensitivity"),
    "{} specificity": ("test", "specificity"),
    "AUC, validation and perturbed": ("changed_together", "auc"),
}


# The notebook and its settings


def read_notebook() -> nbformat.NotebookNode:
    """Return sections 0 to 7 of the built notebook; the others change no score."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    end = next(
        (
            number
            for number, cell in enumerate(book.cells)
            if cell.source.startswith("## 8")
        ),
        len(book.cells),
    )
    del book.cells[end:]
    return book


def holds_settings(cell) -> bool:
    return bool({"parameters", "advanced"} & set(cell.metadata.get("tags", [])))


def read_settings(book: nbformat.NotebookNode) -> dict:
    """Return {setting: default value} of the notebook's two cells of settings."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for cell in book.cells
        if holds_settings(cell)
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Assign)
    }


def parse_recipe(text: str, known: dict) -> tuple[str, dict]:
    """Return (name, {setting: value}) of NAME=SETTING:VALUE,SETTING:VALUE."""
    name, _, pairs = text.partition("=")
    settings = {}
    for pair in filter(None, pairs.split(",")):
        setting, _, value = pair.partition(":")
        if setting not in known:
            sys.exit(f"{name}: the notebook has no setting {setting}.")
        try:
            settings[setting] = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # a text
            settings[setting] = value
    return name, settings


def identify(book: nbformat.NotebookNode, settings: dict) -> str:
    """Return a folder name that is the same for the same code and the same settings.

    Comments and the layout of the code do not count, nor do overridden defaults.
    """
    known = read_settings(book)
    code = [
        ast.dump(ast.parse(cell.source))
        for cell in book.cells
        if cell.cell_type == "code" and not holds_settings(cell)
    ]
    described = json.dumps([code, known | settings], sort_keys=True, default=str)
    changed = [
        f"{name}-{value}"
        for name, value in sorted(settings.items())
        if value != known[name]
    ]
    digest = hashlib.sha256(described.encode()).hexdigest()[:8]
    return "_".join([*changed, digest])


def run_once(settings: dict, folder: Path) -> dict:
    """Run the notebook with these settings into `folder`, unless that has been done.

    Returns the content of metrics.json with the table of predictions, whose column
    "patient" says whose image it is.
    """
    import pandas as pd

    from cxr.dataset import parse_name

    if not (folder / "metrics.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(read_notebook(), folder / "notebook.ipynb")
        parameters = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in (settings | {"OUTPUT_DIR": folder}).items()
        }
        with (
            open(folder / "log.txt", "w", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                papermill.execute_notebook(
                    folder / "notebook.ipynb",
                    folder / "executed.ipynb",
                    parameters,
                    cwd=str(ROOT),
                    kernel_name="python3",
                    progress_bar=False,
                )
            except papermill.PapermillExecutionError as error:
                sys.exit(
                    f"A run failed with {error.ename}: {error.evalue}; "
                    f"see {folder / 'executed.ipynb'}."
                )
    table = pd.read_csv(folder / "predictions.csv")
    table["patient"] = [
        parse_name(Path(path).name, label)[0]
        for path, label in zip(table.path, table.label)
    ]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics | {"predictions": table}


# The data: what takes the place of the official test folder


def link_images(data: Path, wanted: dict[str, str], target: Path) -> Path:
    """Make `target` a folder of links to images of `data`, {path: split}.

    Whatever an earlier call left there goes. Links that are right stay as they are, so
    that several sweeps can use the folder at once and its cached images stay valid.
    """
    places = {
        target / split / Path(path).parent.name / Path(path).name: data / path
        for path, split in wanted.items()
    }
    for old in target.glob("*/*/*"):
        if old not in places or not old.samefile(places[old]):
            old.unlink()
    for place, source in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.link(source, place)
    return target


def take_low_numbers(data: Path, target: Path, fraction: float = 0.13) -> Path:
    """Make a folder like `data` whose test set has the lowest patient numbers of train.

    `fraction`: of the numbers of normal, bacterial and viral images each.
    """
    from cxr.dataset import list_images

    files = list_images(data)
    files = files[files.folder != "test"]
    if not files.known.any():
        sys.exit(
            f"No file name in {data} contains a patient number: this sweep needs the "
            "chest X-ray set (or phantoms)."
        )
    number = files.patient.str.extract(r"(\d+)$")[0].astype(float)
    lowest = set()
    for _, own in number[files.known].groupby(files.finding):
        numbers = sorted(own.unique())
        limit = numbers[int(fraction * len(numbers))]
        lowest |= set(files.patient[own.index[own <= limit]])
    wanted = {
        path: "test" if patient in lowest else "train"
        for path, patient in zip(files.path, files.patient)
    }
    return link_images(data, wanted, target)


def score_shortcuts(data: Path, size: int = 96):
    """Return a table of the images of train and val: what shortcut features predict.

    Columns: path, label, group (images of one patient) and shortcut, a cross-fitted
    score for PNEUMONIA from everything that is not lung (section 3 of the notebook).
    """
    from cxr.confounders import crossfit_ridge, shortcut_features
    from cxr.dataset import list_images
    from cxr.images import load_split
    from cxr.split import find_duplicates, group_patients

    files = list_images(data)
    x, files, _ = load_split(data, files[files.folder != "test"], size, "Shortcuts")
    group = group_patients(files.patient, find_duplicates(x, files)[0])
    features = shortcut_features(list(x), files)["all of these"]
    shortcut = crossfit_ridge(features, files.label.to_numpy(), group)
    return files[["path", "label"]].assign(group=group, shortcut=shortcut)


def leave_out(data: Path, target: Path) -> Path:
    """Make a folder like `data` whose test set are bias-conflicting images of train.

    Its train consists of the patients without such an image. So the shortcuts hold for
    all images that the network is trained on, and fail for all that it is tested on.
    """
    from cxr.model_comparison import bias_conflicting_mask

    table = score_shortcuts(data)
    conflicting = bias_conflicting_mask(
        table.label.to_numpy(), table.shortcut.to_numpy()
    )
    excluded = table.group.isin(table.group[conflicting])
    wanted = dict.fromkeys(table.path[~excluded], "train")
    wanted |= dict.fromkeys(table.path[conflicting], "test")
    return link_images(data, wanted, target)


# Statistics


def students_interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean; infinite for fewer than two values."""
    from scipy import stats

    if len(values) < 2:
        return -math.inf, math.inf
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return statistics.mean(values) - half, statistics.mean(values) + half


def resample(runs: list[dict], split: str, draws: int) -> dict:
    """Return {score: `draws` means over the runs} of resampled patients and seeds.

    The draws are the same for all recipes, which makes their differences paired.
    """
    import numpy as np

    from cxr.evaluation import cluster_bootstrap_weights, compute_metrics

    tables = [run["predictions"] for run in runs]
    tables = [table[table.split == split] for table in tables]
    first = tables[0]
    if not all(table.path.array.equals(first.path.array) for table in tables):
        raise ValueError("Runs with different images cannot be compared.")
    labels = first.label.to_numpy()
    generator, values = np.random.default_rng(0), {}
    for weights in cluster_bootstrap_weights(first.patient, draws, 0):
        seeds = generator.integers(len(runs), size=len(runs))
        scores = {
            seed: compute_metrics(
                labels,
                tables[seed].probability.to_numpy(),
                runs[seed]["threshold"]["value"],
                weights,
            )
            for seed in set(seeds)
        }
        for name in scores[seeds[0]]:
            drawn = [scores[seed][name] for seed in seeds]
            values.setdefault(name, []).append(np.mean(drawn))
    return {name: np.array(means) for name, means in values.items()}


def compare(results: dict[str, list], draws: int = 1000) -> dict[str, dict]:
    """Return {recipe: {column of SCORES: what is known}} for {recipe: runs}.

    What is known: "values" (one for each run), "interval" (of their mean), and, to the
    first recipe, "difference" and "difference_interval".
    """
    import numpy as np

    reference = next(iter(results))
    drawn = {
        (name, split): resample(runs, split, draws)
        for name, runs in results.items()
        for split in ("validation", "test")
    }
    table = {}
    for name, runs in results.items():
        table[name] = {}
        for column, (part, score) in SCORES.items():
            values, others = (
                [run[part][score]["value"] for run in some]
                for some in (runs, results[reference])
            )
            gains = [value - other for value, other in zip(values, others)]
            if (name, part) in drawn:
                own, other = (drawn[one, part][score] for one in (name, reference))
                interval, difference_interval = (
                    tuple(np.quantile(draw, (0.025, 0.975)).tolist())
                    for draw in (own, own - other)
                )
            else:
                interval = students_interval(values)
                difference_interval = students_interval(gains)
            table[name][column] = {
                "values": values,
                "interval": interval,
                "difference": statistics.mean(gains),
                "difference_interval": difference_interval,
            }
    return table


def tabulate(results: dict[str, list], table: dict, asked: str) -> str:
    """Return the comparison as Markdown; `asked` names what the test set holds."""
    columns = [column.format(asked) for column in SCORES]
    lines = [
        f"| recipe | seeds | {' | '.join(columns)} | minutes |",
        "|---" * (len(columns) + 3) + "|",
    ]
    reference = next(iter(results))
    for name, runs in results.items():
        cells = []
        for cell in table[name].values():
            text = f"{statistics.mean(cell['values']):.4f}"
            if len(runs) > 1:
                text += f" ± {statistics.stdev(cell['values']):.4f}"
            low, high = cell["interval"]
            interval = f"[{low:.4f}, {high:.4f}]"
            if name != reference:
                low, high = cell["difference_interval"]
                interval = f"{cell['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
            if math.isfinite(low):
                text += f"<br>{interval}"
            if name != reference and (low > 0 or high < 0):
                text = f"**{text}**"
            cells.append(text)
        minutes = statistics.mean(run["seconds"]["6 Train"] for run in runs) / 60
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    recipe = "NAME=SETTING:VALUE,…"
    add("recipes", nargs="*", metavar=recipe, help="what to compare with the reference")
    add("--ablation", action="store_true", help="take each choice back, one at a time")
    add("--data", type=Path, required=True, help="the chest_xray folder")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--base", default="", metavar="SETTING:VALUE,…", help="settings of all runs")
    work = "where the runs are kept; choose another folder for other data"
    add("--work", type=Path, default=ROOT / "outputs/sweep", help=work)
    add("--save", type=Path, metavar="FILE.md", help="write the table there, too")
    test = parser.add_mutually_exclusive_group()
    for option in ("--left-out", "--open-test"):
        test.add_argument(option, action="store_true", help="see above")
    arguments = parser.parse_args()

    work, data = arguments.work.resolve(), arguments.data.resolve()
    if arguments.open_test:
        mode, asked = "opened", "test"
    elif arguments.left_out:
        mode, asked = "left-out", "left out"
        data = leave_out(data, work / "left-out-data/chest_xray")
    else:
        mode, asked = "closed", "low numbers"
        data = take_low_numbers(data, work / "low-numbers-data/chest_xray")

    book = read_notebook()
    known = read_settings(book)
    base = PROTOCOL | parse_recipe(f"base={arguments.base}", known)[1]
    recipes = {"reference": {}} | (ABLATION if arguments.ablation else {})
    recipes |= dict(parse_recipe(text, known) for text in arguments.recipes)
    results = {name: [] for name in recipes}
    for seed in arguments.seeds:
        for name, changes in recipes.items():
            settings = base | changes
            folder = work / mode / identify(book, settings) / str(seed)
            where = {"SEED": seed, "DATA_DIR": data, "CACHE_DIR": work / "cache"}
            since = time.perf_counter()
            run = run_once(settings | where, folder)
            results[name].append(run)
            print(
                f"{name}, seed {seed}: "
                f"validation AUC {run['validation']['auc']['value']:.4f}, "
                f"{asked} {run['test']['auc']['value']:.4f} "
                f"({(time.perf_counter() - since) / 60:.1f} min)",
                flush=True,
            )
    protocol = ", ".join(f"{name} {value}" for name, value in base.items())
    text = (
        f"{tabulate(results, compare(results), asked)}\n\n"
        f"Protocol: {protocol}; seeds {', '.join(map(str, arguments.seeds))}. "
        "Mean ± SD over the seeds. Below, the 95 % interval: of the mean for the "
        "reference, else of the paired difference to it (bootstrap over patients and "
        "seeds; for perturbed images Student's over the seeds). Bold: significant.\n"
    )
    print(f"\n{text}")
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
