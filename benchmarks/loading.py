#!/usr/bin/env python3
"""Measure how fast, and in how much memory, images become an array.

    make benchmark FOLDER=path/to/images

The notebook's loader is compared with others. Each loads all images of the folder at
one size in its own process: once to warm up, then in turn with the others, so that a
slow minute of the machine affects all of them. The table gives medians, as ratios
within one run. Nothing is compared across runs.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOADERS = {
    "ancestor": "skimage.transform.resize to float64, as the notebook of 2021 did",
    "opencv": "a plain loop of cv2.imread (gray) and cv2.resize",
    "opencv_area": "the same with INTER_AREA: full decoding and area means",
    "pillow": "Pillow with draft(), reduced in the decoder, and resize by area",
    "keras": "keras.utils.image_dataset_from_directory, gathered into one array",
    "ours": "load_split of the notebook, into memory",
    "ours_first": "load_split of the notebook, the first time, with its cache written",
    "ours_again": "load_split of the notebook, from its cache",
    "bound": "decode only, at the smallest sufficient scale, all cores, nothing kept",
}
LABELS = {
    "ancestor": "skimage to float64 (ancestor)",
    "opencv": "OpenCV loop",
    "opencv_area": "OpenCV loop, area means",
    "pillow": "Pillow with draft()",
    "keras": "image_dataset_from_directory",
    "ours": "this notebook, into memory",
    "ours_first": "this notebook, writing its cache",
    "bound": "decoding alone, all cores",
}


def find_images(folder: str) -> list[str]:
    """Return the paths of all images below a folder, sorted."""
    return sorted(
        str(path)
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in (".jpeg", ".jpg", ".png")
    )


def load_ancestor(paths, size):
    """Load with scikit-image to float64."""
    import cv2
    import numpy as np
    import skimage.transform

    return np.array(
        [skimage.transform.resize(cv2.imread(path), (size, size, 3)) for path in paths]
    )


def load_opencv(paths, size, method="INTER_LINEAR"):
    import cv2
    import numpy as np

    return np.array(
        [
            cv2.resize(
                cv2.imread(path, cv2.IMREAD_GRAYSCALE),
                (size, size),
                interpolation=getattr(cv2, method),
            )
            for path in paths
        ]
    )


def load_opencv_area(paths, size):
    return load_opencv(paths, size, "INTER_AREA")


def load_pillow(paths, size):
    import numpy as np
    from PIL import Image

    x = np.zeros((len(paths), size, size), np.uint8)
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            image.draft("L", (size, size))
            gray = image.convert("L").resize((size, size), Image.Resampling.BOX)
            x[number] = np.asarray(gray)
    return x


def load_keras(paths, size):
    import keras
    import numpy as np

    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    batches = keras.utils.image_dataset_from_directory(
        folder,
        label_mode=None,
        color_mode="grayscale",
        image_size=(size, size),
        shuffle=False,
        verbose=False,
    )
    return np.concatenate([np.asarray(batch, np.uint8) for batch in batches])


@functools.cache
def list_files(paths):
    """Return (folder, table) as load_split takes them."""
    import pandas as pd

    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    return folder, pd.DataFrame(
        {"path": [os.path.relpath(path, folder) for path in paths]}
    )


def load_ours(paths, size, cache=None):
    from cxr.images import load_split

    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        x, _, unreadable = load_split(*list_files(tuple(paths)), size, "Loading", cache)
    if len(unreadable):
        sys.exit(
            f"{len(unreadable)} images cannot be read, the first is "
            f"{unreadable.path.iloc[0]} ({unreadable.problem.iloc[0]})."
        )
    return x


def load_ours_first(paths, size):
    with tempfile.TemporaryDirectory() as cache:
        return load_ours(paths, size, cache)


def load_ours_again(paths, size):
    return load_ours(paths, size, lasting_folder().name)


lasting_folder = functools.cache(tempfile.TemporaryDirectory)


@functools.cache
def smallest_scale(path, size):
    """Return the flag with which OpenCV reduces an image as far as `size` allows."""
    import cv2
    from PIL import Image

    with Image.open(path) as image:
        shorter_side = min(image.size)
    for factor in (8, 4, 2):
        if shorter_side >= factor * size:
            return getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{factor}")
    return cv2.IMREAD_GRAYSCALE


def load_bound(paths, size):
    from concurrent.futures import ThreadPoolExecutor

    import cv2
    import numpy as np

    def decode(chunk):
        for path in chunk:
            flag = smallest_scale(path, size)  # cached during the warm-up
            with open(path, "rb") as file:
                cv2.imdecode(np.frombuffer(file.read(), np.uint8), flag)

    cv2.setNumThreads(1)
    chunks = [paths[start : start + 4] for start in range(0, len(paths), 4)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, chunks))


def serve(loader: str, folder: str, size: int, fraction: float) -> None:
    """Work as a child process: for each line of stdin, load all images once.

    Each line of stdout has the seconds, the bytes of the array and the peak memory.
    """
    load = globals()[f"load_{loader}"]
    paths = find_images(folder)
    if loader != "keras":  # which takes a folder
        paths = paths[:: max(1, round(1 / fraction))]
    for _ in sys.stdin:
        since = time.perf_counter()
        x = load(paths, size)
        seconds = time.perf_counter() - since
        with open("/proc/self/status") as status:
            peak = int(status.read().split("VmHWM:")[1].split()[0]) * 1024
        measurement = {
            "seconds": seconds,
            "images": len(paths),
            "bytes": 0 if x is None else x.nbytes,
            "peak": peak,
        }
        print(json.dumps(measurement), flush=True)
        del x


def start_child(loader: str, folder: str, size: int, fraction: float):
    """Return a process that runs `serve`, or None where a package is missing."""
    package = {"ancestor": "skimage", "keras": "tensorflow"}.get(loader)
    if package and importlib.util.find_spec(package) is None:
        print(
            f"{loader}: skipped, because {package} is not installed "
            "(pip install -r benchmarks/requirements.txt).",
            file=sys.stderr,
        )
        return None
    command = [sys.executable, __file__, folder, "--size", str(size)]
    command += ["--child", loader, "--fraction", str(fraction)]
    environment = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def measure(folder: str, size: int, rounds: int, slow_fraction: float) -> dict:
    """Return {loader: {"rate", "bytes", "peak", "seconds"}}: medians of the rounds."""
    children = {}
    for loader in LOADERS:
        fraction = slow_fraction if loader == "ancestor" else 1
        if child := start_child(loader, folder, size, fraction):
            children[loader] = child
    measurements: dict[str, list] = {loader: [] for loader in children}
    for number in range(rounds + 1):  # round 0 imports and warms up
        for loader, child in children.items():
            if loader == "ancestor" and number > 1:
                continue  # it takes minutes: once, after the warm-up
            child.stdin.write("go\n")
            child.stdin.flush()
            line = child.stdout.readline()
            if not line:
                sys.exit(f"{loader} failed: see above.")
            if number:
                measurements[loader].append(json.loads(line))
            print(f"round {number}/{rounds}: {loader:12}", end="\r", file=sys.stderr)
    for child in children.values():
        child.stdin.close()
        child.wait()
    results = {}
    for loader, rows in measurements.items():
        seconds = statistics.median(row["seconds"] for row in rows)
        results[loader] = {
            "seconds": seconds,
            "rate": rows[0]["images"] / seconds,
            "bytes": rows[0]["bytes"],
            "peak": max(row["peak"] for row in rows),
        }
    return results


def tabulate(results: dict) -> str:
    """Return the table as Markdown, with ratios to the plain OpenCV loop."""
    base = results["opencv"]["rate"]
    lines = [
        "| loader | speed, plain OpenCV loop = 1 | images/s on this machine "
        "| array, MB | peak memory, MB |",
        "|---|---|---|---|---|",
    ]
    for loader, result in sorted(results.items(), key=lambda item: item[1]["rate"]):
        cells = (
            LOADERS[loader],
            f"{result['rate'] / base:.2f}",
            f"{result['rate']:,.0f}",
            f"{result['bytes'] / 1e6:.0f}",
            f"{result['peak'] / 1e6:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summarize(results: dict, count: int, size: int) -> str:
    """Return the conditions and the main ratios in words."""
    ours = results["ours"]

    def ratio(loader):
        return ours["rate"] / results[loader]["rate"]

    overhead = (ours["peak"] - ours["bytes"]) / 1e6
    ancestor = ""
    if "ancestor" in results:
        ancestor = f"{ratio('ancestor'):.0f} times as fast as the notebook of 2021, "
    again = results["ours_again"]["seconds"]
    return (
        f"{count:,} images at {size} × {size} pixels, {os.cpu_count()} cores, warm "
        f"page cache. The notebook's loader is {ancestor}{ratio('opencv'):.1f} times "
        f"as fast as a plain OpenCV loop ({ratio('opencv_area'):.1f} times if it uses "
        f"INTER_AREA), and reaches {ratio('bound'):.2f} of the speed of decoding "
        f"alone. Loading from its cache takes {again:.2f} s. Peak memory is that of "
        f"the array plus {overhead:.0f} MB, Python and its packages included."
    )


def plot_speeds(results: dict, title: str, path: Path) -> None:
    """Save a bar chart of the ratios, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    base = results["opencv"]["rate"]
    loaders = sorted(LABELS.keys() & results, key=lambda name: results[name]["rate"])
    ratios = [results[loader]["rate"] / base for loader in loaders]
    colors = {"ours": "#D55E00", "ours_first": "#D55E00", "bound": "#0072B2"}
    figure, axis = plt.subplots(
        figsize=(9.5, 1 + 0.45 * len(loaders)), layout="constrained"
    )
    bars = axis.barh(
        [LABELS[loader] for loader in loaders],
        ratios,
        color=[colors.get(loader, "#888888") for loader in loaders],
    )
    axis.bar_label(bars, [f" {ratio:.2f} ×" for ratio in ratios], fontsize=9)
    axis.set(
        xscale="log",
        xlabel="images per second, plain OpenCV loop = 1 (logarithmic)",
        xlim=(min(ratios) / 1.5, max(ratios) * 1.8),
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="a folder with images, at any depth")
    parser.add_argument(
        "--size", type=int, default=150, help="pixels (default 150, the ancestor's)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="timings of each loader (default 7)"
    )
    parser.add_argument(
        "--ancestor-fraction",
        type=float,
        default=0.25,
        help="fraction of the images for the slow loader of 2021 (default .25)",
    )
    parser.add_argument(
        "--save", type=Path, metavar="NAME", help="write NAME.md and NAME.png"
    )
    parser.add_argument("--child", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--fraction", type=float, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder
    size = arguments.size
    count = len(find_images(folder))
    if not count:
        sys.exit(f"There is no image in {folder} or its subfolders.")
    if arguments.child:
        serve(arguments.child, folder, size, arguments.fraction)
        return
    results = measure(folder, size, arguments.rounds, arguments.ancestor_fraction)
    table = tabulate(results)
    summary = summarize(results, count, size)
    print(f"\n{table}\n\n{summary}")
    if arguments.save:
        text = f"{summary}\n\n{table}\n"
        arguments.save.with_suffix(".md").write_text(text, encoding="utf-8")
        ratio = results["ours"]["rate"] / results["opencv"]["rate"]
        title = f"This notebook loads {ratio:.1f} times as fast as a plain OpenCV loop"
        plot_speeds(results, title, arguments.save.with_suffix(".png"))


if __name__ == "__main__":
    main()
