#!/usr/bin/env python3
"""Measure how fast, and in how much memory, images become an array.

    make benchmark FOLDER=path/to/images

The notebook's loader is compared with other ways. Each loads all images of the folder
at one size in a process of its own: once to warm up, then in turn with the others, so
that a slow minute of the machine meets them all. The table gives medians, as ratios
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

WAYS = {
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
SHORT = {
    "ancestor": "skimage to float64 (ancestor)",
    "opencv": "OpenCV loop",
    "opencv_area": "OpenCV loop, area means",
    "pillow": "Pillow with draft()",
    "keras": "image_dataset_from_directory",
    "ours": "this notebook, into memory",
    "ours_first": "this notebook, writing its cache",
    "bound": "decoding alone, all cores",
}


def find_pictures(folder):
    """Return the paths of the pictures anywhere below a folder, sorted."""
    return sorted(
        str(path)
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in (".jpeg", ".jpg", ".png")
    )


def load_ancestor(paths, size):
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
        with Image.open(path) as picture:
            picture.draft("L", (size, size))
            x[number] = np.asarray(
                picture.convert("L").resize((size, size), Image.Resampling.BOX)
            )
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

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        x, _, broken = load_split(*list_files(tuple(paths)), size, "Loading", cache)
    if len(broken):
        sys.exit(
            f"{len(broken)} images cannot be read, the first is "
            f"{broken.path.iloc[0]} ({broken.problem.iloc[0]})."
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

    with Image.open(path) as picture:
        by = next((by for by in (8, 4, 2) if min(picture.size) >= by * size), 1)
    return (
        getattr(cv2, f"IMREAD_REDUCED_GRAYSCALE_{by}")
        if by > 1
        else cv2.IMREAD_GRAYSCALE
    )


def load_bound(paths, size):
    from concurrent.futures import ThreadPoolExecutor

    import cv2
    import numpy as np

    def decode(some):
        for path in some:
            with open(path, "rb") as file:
                cv2.imdecode(
                    np.frombuffer(file.read(), np.uint8), smallest_scale(path, size)
                )  # known from the warming up

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(
            pool.map(
                decode, [paths[start : start + 4] for start in range(0, len(paths), 4)]
            )
        )


def work(way, folder, size, share):
    """Serve as a child process: for each line of stdin, load all images once.

    Each answer has the seconds, the bytes of the array and the peak memory.
    """
    load, paths = globals()[f"load_{way}"], find_pictures(folder)
    paths = paths[:: max(1, round(1 / share))] if way != "keras" else paths
    for _ in sys.stdin:
        since = time.perf_counter()
        x = load(paths, size)
        seconds = time.perf_counter() - since
        with open("/proc/self/status") as status:
            peak = int(status.read().split("VmHWM:")[1].split()[0]) * 1024
        print(
            json.dumps(
                {
                    "seconds": seconds,
                    "images": len(paths),
                    "bytes": 0 if x is None else x.nbytes,
                    "peak": peak,
                }
            ),
            flush=True,
        )
        del x


def measure(folder, size, rounds, slow_share):
    """Return {way: {"rate", "bytes", "peak", "seconds"}}: medians over the rounds."""
    children, answers = {}, {}
    for way in WAYS:
        needs = {"ancestor": "skimage", "keras": "tensorflow"}.get(way)
        if needs and importlib.util.find_spec(needs) is None:
            print(
                f"{way}: {needs} is not installed, so it is left out "
                "(pip install -r benchmarks/requirements.txt).",
                file=sys.stderr,
            )
            continue
        share = slow_share if way == "ancestor" else 1
        children[way] = subprocess.Popen(
            [
                sys.executable,
                __file__,
                folder,
                "--size",
                str(size),
                "--child",
                way,
                "--share",
                str(share),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            stderr=None,
        )
    for number in range(
        rounds + 1
    ):  # the first, which imports and warms up, does not count
        for way, child in children.items():
            if way == "ancestor" and number > 1:
                continue  # it takes minutes: once, after the warming up
            child.stdin.write("go\n")
            child.stdin.flush()
            line = child.stdout.readline()
            if not line:
                sys.exit(f"{way} failed: see above.")
            if number:
                answers.setdefault(way, []).append(json.loads(line))
            print(f"round {number}/{rounds}: {way:12}", end="\r", file=sys.stderr)
    for child in children.values():
        child.stdin.close()
        child.wait()
    return {
        way: {
            "seconds": (seconds := statistics.median(one["seconds"] for one in every)),
            "rate": every[0]["images"] / seconds,
            "bytes": every[0]["bytes"],
            "peak": max(one["peak"] for one in every),
        }
        for way, every in answers.items()
    }


def tabulate(results):
    """Return the table as Markdown, with ratios to the plain OpenCV loop."""
    base = results["opencv"]["rate"]
    lines = [
        "| way | speed, plain OpenCV loop = 1 | images/s on this machine "
        "| array, MB | peak memory, MB |",
        "|---|---|---|---|---|",
    ]
    for way, one in sorted(results.items(), key=lambda item: item[1]["rate"]):
        cells = (
            WAYS[way],
            f"{one['rate'] / base:.2f}",
            f"{one['rate']:,.0f}",
            f"{one['bytes'] / 1e6:.0f}",
            f"{one['peak'] / 1e6:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summarize(results, count, size):
    """Return the conditions and the main ratios in words."""
    ours = results["ours"]

    def ratio(way):
        return ours["rate"] / results[way]["rate"]

    overhead = (ours["peak"] - ours["bytes"]) / 1e6
    ancestor = (
        f"{ratio('ancestor'):.0f} times as fast as the ancestor, "
        if "ancestor" in results
        else ""
    )
    return (
        f"{count:,} images at {size} × {size} pixels, {os.cpu_count()} cores, warm "
        f"page cache. The notebook's loader is {ancestor}{ratio('opencv'):.1f} times "
        f"as fast as a plain OpenCV loop ({ratio('opencv_area'):.1f} times if it uses "
        f"INTER_AREA). It reaches {ratio('bound'):.2f} of the speed of decoding alone. "
        f"A second load takes {results['ours_again']['seconds']:.2f} s. Peak memory is "
        f"the array and {overhead:.0f} MB, Python and its packages included."
    )


def draw(results, title, path):
    """Save a picture of the ratios, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    base = results["opencv"]["rate"]
    ways = [
        way
        for way in sorted(results, key=lambda way: results[way]["rate"])
        if way != "ours_again"
    ]
    ratios = [results[way]["rate"] / base for way in ways]
    figure, axis = plt.subplots(
        figsize=(9.5, 1 + 0.45 * len(ways)), layout="constrained"
    )
    bars = axis.barh(
        [SHORT[way] for way in ways],
        ratios,
        color=[
            "#D55E00"
            if way.startswith("ours")
            else "#0072B2"
            if way == "bound"
            else "#888888"
            for way in ways
        ],
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="a folder with pictures, at any depth")
    parser.add_argument(
        "--size", type=int, default=150, help="pixels (default 150, the ancestor's)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="how often each way is timed (default 7)"
    )
    parser.add_argument(
        "--ancestor-share",
        type=float,
        default=0.25,
        help="share of the pictures for the ancestor's way (default .25)",
    )
    parser.add_argument(
        "--save", type=Path, metavar="NAME", help="write NAME.md and NAME.png"
    )
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--share", type=float, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    count = len(find_pictures(arguments.folder))
    if not count:
        sys.exit(f"There is no picture below {arguments.folder}.")
    if arguments.child:
        return work(arguments.child, arguments.folder, arguments.size, arguments.share)
    results = measure(
        arguments.folder, arguments.size, arguments.rounds, arguments.ancestor_share
    )
    table, words = tabulate(results), summarize(results, count, arguments.size)
    print(f"\n{table}\n\n{words}")
    if arguments.save:
        arguments.save.with_suffix(".md").write_text(
            f"{words}\n\n{table}\n", encoding="utf-8"
        )
        ratio = results["ours"]["rate"] / results["opencv"]["rate"]
        draw(
            results,
            f"This notebook loads {ratio:.1f} times as fast as a plain OpenCV loop",
            arguments.save.with_suffix(".png"),
        )


if __name__ == "__main__":
    main()
