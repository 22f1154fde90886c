"""The chest X-ray set as it is published: where it lies, what it must hold, and which release it is."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


class ChestXray:
    """Where the data set lies, and what it must hold."""

    slug = "paultimothymooney/chest-xray-pneumonia"
    kaggle_address = f"https://www.kaggle.com/api/v1/datasets/download/{slug}"
    kaggle_bytes = 2_463_000_000  # of the archive, about: for the room on the disk and the progress bar
    mendeley_address = (
        "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
        "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded"
    )
    mendeley_bytes = 1_235_512_464
    mendeley_sha256 = "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36"
    suffixes = (
        ".jpeg",
        ".jpg",
        ".png",
        ".bmp",
        ".tif",
        ".tiff",
        ".webp",
        ".jp2",
    )  # of names that stand for an image
    tree_bytes = 1_250_000_000  # of the extracted images, about
    counts = MappingProxyType(
        {
            "train/NORMAL": 1341,
            "train/PNEUMONIA": 3875,
            "val/NORMAL": 8,
            "val/PNEUMONIA": 8,
            "test/NORMAL": 234,
            "test/PNEUMONIA": 390,
        }
    )
    mendeley_counts = MappingProxyType(
        {
            "train/NORMAL": 1349,
            "train/PNEUMONIA": 3883,
            "test/NORMAL": 234,
            "test/PNEUMONIA": 390,
        }
    )
    # {split or class: what its folder may be called, in any letter case; the first one that is there counts}
    split_folders = MappingProxyType(
        {
            "train": ("train", "training"),
            "val": ("val", "valid", "validation"),
            "test": ("test", "testing"),
        }
    )
    class_folders = MappingProxyType(
        {"NORMAL": ("normal",), "PNEUMONIA": ("pneumonia",)}
    )
    mounts = (
        "/kaggle/input/chest-xray-pneumonia/chest_xray",
        f"/kaggle/input/datasets/{slug}/chest_xray",
        "/content/drive/MyDrive/chest_xray",
    )
    kaggle, mendeley, mixed = (
        "Kaggle's copy (of version 2)",
        "Mendeley's version 3",
        "mixed, with names of two releases",
    )
    published = MappingProxyType(
        {kaggle: "Kaggle notebooks", mendeley: "MedMNIST"}
    )  # whose scores are on the same test folder
    # See `kaggle_only_mask`: 22 for IM-0022-0001.jpeg, in the second series 173-0002 for NORMAL2-IM-0173-0001-0002.jpeg.
    kaggle_only = MappingProxyType(
        {
            "": "22 28 73 75 91 102 109",
            "NORMAL2-": (
                "28 59 72 96 105 111 117 131 139 145 150 173-0001 173-0002 195 198 199 201 221 222 229 232 233 237 238 246-0001 246-0002 246 249 "
                "251 252 256 267 275 277 282 283 285 289 290 300 302 303 304 315 316 319 322 325 327 330 332 336 338 347 353 359 362 366 369 "
                "374-0002"
            ),
        }
    )


def list_names(folder: Path) -> list:
    """Return the sorted names of the files in a folder that are not hidden, and of all links, as a broken one is no file."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if (entry.is_symlink() or entry.is_file()) and not entry.name.startswith(".")
    )


def find_folders(folder: Path, names: Mapping[str, tuple]) -> dict[str, str]:
    """Return {what: the name of its folder} for the folders that exist in `folder`; `names`: {what: names in lower case}.

    An exact name is preferred to one in another letter case, and an earlier name to a later one.
    """
    there = (
        sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if Path(folder).is_dir()
        else []
    )
    found = {}
    for what, accepted in names.items():
        matching = [name for name in there if name.lower() in accepted]
        if matching:
            found[what] = min(
                matching, key=lambda name: (name != what, accepted.index(name.lower()))
            )
    return found


def count_images(folder: Path) -> dict:
    """Return {"split/CLASS": number of images, by their names} for the class folders that exist; other and hidden files do not count."""
    names = [
        f"{split}/{name}"
        for split in ("train", "val", "test")
        for name in ("NORMAL", "PNEUMONIA")
    ]
    return {
        name: sum(
            file.lower().endswith(ChestXray.suffixes)
            for file in list_names(Path(folder) / name)
        )
        for name in names
        if (Path(folder) / name).is_dir()
    }


def is_whole(folder: Path) -> bool:
    """Say whether a folder holds the data set, by the number of its images and without reading them."""
    try:
        return count_images(folder) in (ChestXray.counts, ChestXray.mendeley_counts)
    except OSError:  # of a disk or a mounted folder that cannot be read at the moment
        return False
