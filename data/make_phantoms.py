#!/usr/bin/env python3
"""Draw phantom radiographs: a stand-in for the data set, for machines that cannot reach it and for tests.

The pictures are drawn by the notebook's own functions (see its section 1): a chest with ribs, clavicles, heart, spine and
diaphragm, in changing pose and exposure. NORMAL is clear, bacterial pneumonia one focal opacity, viral pneumonia a diffuse
haze on both sides. Folders, names (series, patients, several images of some patients) and the range of sizes are those of the
real set. Each picture says PHANTOM, burnt in and in a comment inside the file. The same numbers give the same bytes.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "notebooks"))
import functions  # noqa: E402


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "phantoms" / "chest_xray",
                        help="new folder for the pictures (default: data/phantoms/chest_xray)")
    parser.add_argument("--train", type=int, default=1000, help="images in train (default: %(default)s)")
    parser.add_argument("--val", type=int, default=16, help="images in val (default: %(default)s)")
    parser.add_argument("--test", type=int, default=200, help="images in test (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other patients (default: %(default)s)")
    parser.add_argument("--masks", type=Path, help="new folder for masks: PNG files, 255 where disease was drawn")
    options = parser.parse_args(arguments)
    if min(options.train, options.val, options.test, options.seed) < 0:
        parser.error("the numbers of images and the seed must be 0 or more")
    try:
        options.folder.resolve().parent.mkdir(parents=True, exist_ok=True)
        functions.load("write_phantoms").write_phantoms(options.folder, options.train, options.val, options.test, options.seed,
                                                        options.masks)
    except OSError as error:
        sys.exit(f"make_phantoms.py: {error}")
    print(f"{options.folder}: {options.train + options.val + options.test} phantom radiographs, which show no patient.")


if __name__ == "__main__":
    main()
