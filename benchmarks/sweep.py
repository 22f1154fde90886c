#!/usr/bin/env python3
"""Run the notebook with several settings and seeds; test which differ significantly.

    python benchmarks/sweep.py --data data/chest_xray "larger=IMAGE_SIZE:128"
    python benchmarks/sweep.py --data data/chest_xray --left-out --ablation

A recipe is a name and the settings in which it differs from the reference, which is
always run. Sections 0 to 7 of the built notebook are executed, so the sweep measures
what users run. A finished run is reused as long as the notebook's code is the same; an
interrupted sweep resumes.

The official test folder is not read. By default it is replaced by the patients with the
lowest numbers of train and val ("low numbers"), because the official folder was split
off by patient number as well. Two options choose another test set:

--left-out    The test set consists of the bias-conflicting quarter of each class: the
              images on which a classifier of the shortcut features (section 3 of the
              notebook) is most wrong. Their patients are excluded from training.
--open-test   The data are used as they are. This is for the final recipe alone.

Intervals are 95% bootstrap intervals over patients and seeds. The difference to the
reference is paired: each draw takes the same patients and seeds for both recipes. For
perturbed images each run has one score and no predictions, so their interval is
Student's t over the seeds.
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
import numpy as np
import pandas as pd
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
# {column: (part of metrics.json, metric)}; {} becomes the name of the test set.
COLUMNS = {
    "validation AUC": ("validation", "auc"),
    "{} AUC": ("test", "auc"),
    "{} accuracy": ("test", "accuracy"),
    "{} sensitivity": ("test", "sensitivity"),
    "{} specificity": ("test", "specificity"),
    "AUC, validation and perturbed": ("robustness_pooled", "auc"),
}


# The notebook and its settings


def read_notebook() -> nbformat.NotebookNode:
    """Return sections 0 to 7 of the built notebook; the others change no score."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    starts = [cell.source.startswith("## 8") for cell in book.cells]
    if True in starts:
        del book.cells[starts.index(True) :]
    return book


def has_settings(cell: nbformat.NotebookNode) -> bool:
    """Return whether a cell is one of the two cells of settings."""
    return bool({"parameters", "advanced"} & set(cell.metadata.get("tags", [])))


def read_settings(book: nbformat.NotebookNode) -> dict:
    """Return {setting: default value} of the notebook's two cells of settings."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for cell in book.cells
        if has_settings(cell)
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
        if cell.cell_type == "code" and not has_settings(cell)
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

    Returns the content of metrics.json with the table "predictions". As predictions.csv
    has no column "patient", it is added from the file names, as in `list_images`.
    """
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
                    start_timeout=600,  # seconds
                    progress_bar=False,
                )
            except papermill.PapermillExecutionError as error:
                sys.exit(
                    f"A run failed with {error.ename}: {error.evalue}; "
                    f"see {folder / 'executed.ipynb'}."
                )
    predictions = pd.read_csv(folder / "predictions.csv")
    if "patient" not in predictions:
        predictions["patient"] = [
            parse_name(Path(path).name, label)[0]
            for path, label in zip(predictions.path, predictions.label)
        ]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics | {"predictions": predictions}


# The data: what replaces the official test folder


def link_images(data: Path, wanted: dict[str, str], target: Path) -> Path:
    """Make `target` a folder of links to images of `data`, {path: split}.

    Links of an earlier call that are not wanted are removed. Correct links are kept, so
    that several sweeps can use the folder at once and its cached images stay valid.
    """
    sources = {
        target / split / Path(path).parent.name / Path(path).name: data / path
        for path, split in wanted.items()
    }
    for link in target.glob("*/*/*"):
        if link not in sources or not link.samefile(sources[link]):
            link.unlink()
    for link, source in sources.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(source, link)
    return target


def take_low_numbers(data: Path, target: Path, fraction: float = 0.13) -> Path:
    """Make a folder like `data` whose test set has the lowest patient numbers of train.

    `fraction`: of the patient numbers of each finding (normal, bacterial, viral).
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
    for _, numbers in number[files.known].groupby(files.finding):
        distinct = sorted(numbers.unique())
        limit = distinct[int(fraction * len(distinct))]
        lowest |= set(files.patient[numbers.index[numbers <= limit]])
    wanted = {
        path: "test" if patient in lowest else "train"
        for path, patient in zip(files.path, files.patient)
    }
    return link_images(data, wanted, target)


def score_shortcuts(data: Path, size: int = 96) -> pd.DataFrame:
    """Return a table of the images of train and val, scored by shortcut features.

    Columns: path, label, group (of the images of one patient) and shortcut, the
    cross-fitted score for PNEUMONIA of all features outside the lungs (section 3).
    """
    from cxr.confounders import crossfit_ridge, shortcut_features
    from cxr.dataset import list_images
    from cxr.images import load_split
    from cxr.split import find_duplicates, group_patients

    files = list_images(data)
    x, files, _ = load_split(data, files[files.folder != "test"], size, "Shortcuts")
    group = group_patients(files.patient, find_duplicates(x, files)[0])
    features = shortcut_features(list(x), files)["all"]
    shortcut = crossfit_ridge(features, files.label.to_numpy(), group)
    return files[["path", "label"]].assign(group=group, shortcut=shortcut)


def leave_out(data: Path, target: Path) -> Path:
    """Make a folder like `data` whose test set are bias-conflicting images of train.

    Its train consists of the patients without such an image. So the shortcuts are right
    for all images that the network is trained on, and wrong for all in the test set.
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
    """Return the 95% interval of a mean; infinite for fewer than two values."""
    from scipy import stats

    if len(values) < 2:
        return -math.inf, math.inf
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return statistics.mean(values) - half, statistics.mean(values) + half


def resample(runs: list[dict], split: str, draws: int) -> dict[str, np.ndarray]:
    """Return {metric: `draws` means over the runs} of resampled patients and seeds.

    The draws are the same for all recipes, so their differences are paired.
    """
    from cxr.evaluation import cluster_bootstrap_weights, compute_metrics

    tables = [run["predictions"] for run in runs]
    tables = [table[table.split == split] for table in tables]
    first = tables[0]
    if not all(table.path.array.equals(first.path.array) for table in tables):
        raise ValueError("Runs with different images cannot be compared.")
    labels = first.label.to_numpy()
    generator = np.random.default_rng(0)
    means: dict[str, list] = {}
    for weights in cluster_bootstrap_weights(first.patient, draws, 0):
        seeds = generator.integers(len(runs), size=len(runs))
        metrics = {
            seed: compute_metrics(
                labels,
                tables[seed].probability.to_numpy(),
                runs[seed]["threshold"]["value"],
                weights,
            )
            for seed in set(seeds)
        }
        for name in metrics[seeds[0]]:
            mean = np.mean([metrics[seed][name] for seed in seeds])
            means.setdefault(name, []).append(mean)
    return {name: np.array(values) for name, values in means.items()}


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval between percentiles of bootstrap draws."""
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def read_metric(run: dict, part: str, metric: str) -> float:
    """Return a number of metrics.json, which may stand there with its interval."""
    value = run[part][metric]
    return value["value"] if isinstance(value, dict) else value


def compare(results: dict[str, list], draws: int = 1000) -> dict[str, dict]:
    """Compare {recipe: runs} with the first recipe, the reference.

    Returns
    -------
    {recipe: {column of COLUMNS: cell}}, each cell with "values" (one for each run),
    "interval" (of their mean), and, to the reference, "difference" and
    "difference_interval".
    """
    reference = next(iter(results))
    drawn = {
        (name, split): resample(runs, split, draws)
        for name, runs in results.items()
        for split in ("validation", "test")
    }
    table: dict[str, dict] = {}
    for name, runs in results.items():
        table[name] = {}
        for column, (part, metric) in COLUMNS.items():
            values = [read_metric(run, part, metric) for run in runs]
            baseline = [read_metric(run, part, metric) for run in results[reference]]
            gains = [value - base for value, base in zip(values, baseline)]
            if (name, part) in drawn:
                means = drawn[name, part][metric]
                reference_means = drawn[reference, part][metric]
                interval = percentile_interval(means)
                difference_interval = percentile_interval(means - reference_means)
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


def format_cell(cell: dict, is_reference: bool) -> str:
    """Return a cell of the table of `compare` as Markdown, bold if significant."""
    text = f"{statistics.mean(cell['values']):.4f}"
    if len(cell["values"]) > 1:
        text += f" ± {statistics.stdev(cell['values']):.4f}"
    if is_reference:
        low, high = cell["interval"]
        interval = f"[{low:.4f}, {high:.4f}]"
    else:
        low, high = cell["difference_interval"]
        interval = f"{cell['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
    if math.isfinite(low):
        text += f"<br>{interval}"
    is_significant = not is_reference and (low > 0 or high < 0)
    return f"**{text}**" if is_significant else text


def tabulate(results: dict[str, list], table: dict, test_name: str) -> str:
    """Return the comparison as Markdown."""
    columns = [column.format(test_name) for column in COLUMNS]
    lines = [
        f"| recipe | seeds | {' | '.join(columns)} | minutes |",
        "|---" * (len(columns) + 3) + "|",
    ]
    reference = next(iter(results))
    for name, runs in results.items():
        cells = [format_cell(cell, name == reference) for cell in table[name].values()]
        minutes = statistics.mean(run["seconds"]["training"] for run in runs) / 60
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines)


def publish(text: str, path: Path | None) -> None:
    """Print a table with its protocol; write it to a Markdown file if one is named."""
    print(f"\n{text}")
    if path:
        path.with_suffix(".md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    recipe = "NAME=SETTING:VALUE,…"
    add("recipes", nargs="*", metavar=recipe, help="recipes to compare")
    add("--ablation", action="store_true", help="undo each choice, one at a time")
    add("--data", type=Path, required=True, help="the chest_xray folder")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--base", default="", metavar="SETTING:VALUE,…", help="settings of all runs")
    work_help = "where the runs are kept; choose another folder for other data"
    add("--work", type=Path, default=ROOT / "outputs/sweep", help=work_help)
    add("--save", type=Path, metavar="FILE.md", help="also write the table there")
    test = parser.add_mutually_exclusive_group()
    for option in ("--left-out", "--open-test"):
        test.add_argument(option, action="store_true", help="see above")
    arguments = parser.parse_args()

    work = arguments.work.resolve()
    data = arguments.data.resolve()
    if arguments.open_test:
        mode = "opened"
        test_name = "test"
    elif arguments.left_out:
        mode = "left-out"
        test_name = "left out"
        data = leave_out(data, work / "left-out-data/chest_xray")
    else:
        mode = "closed"
        test_name = "low numbers"
        data = take_low_numbers(data, work / "low-numbers-data/chest_xray")

    book = read_notebook()
    known = read_settings(book)
    base = PROTOCOL | parse_recipe(f"base={arguments.base}", known)[1]
    recipes: dict[str, dict] = {"reference": {}}
    if arguments.ablation:
        recipes |= ABLATION
    recipes |= dict(parse_recipe(text, known) for text in arguments.recipes)
    results: dict[str, list] = {name: [] for name in recipes}
    for seed in arguments.seeds:
        for name, changes in recipes.items():
            settings = base | changes
            folder = work / mode / identify(book, settings) / str(seed)
            paths = {"DATA_DIR": data, "CACHE_DIR": work / "cache"}
            since = time.perf_counter()
            run = run_once(settings | paths | {"SEED": seed}, folder)
            results[name].append(run)
            print(
                f"{name}, seed {seed}: "
                f"validation AUC {run['validation']['auc']['value']:.4f}, "
                f"{test_name} {run['test']['auc']['value']:.4f} "
                f"({(time.perf_counter() - since) / 60:.1f} min)",
                flush=True,
            )
    protocol = ", ".join(f"{name} {value}" for name, value in base.items())
    text = (
        f"{tabulate(results, compare(results), test_name)}\n\n"
        f"Protocol: {protocol}; seeds {', '.join(map(str, arguments.seeds))}. "
        "Mean ± SD over the seeds. Second line: 95% interval of the mean (reference), "
        "or of the paired difference to the reference, by a bootstrap over patients "
        "and seeds (for perturbed images: Student's t over the seeds). "
        "Bold: significant.\n"
    )
    publish(text, arguments.save)


if __name__ == "__main__":
    main()
