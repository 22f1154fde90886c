"""The published chest X-ray set: where it is, what it must hold, its releases."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType


class ChestXray:
    """Where the data set is published, and what it must hold."""

    slug = "paultimothymooney/chest-xray-pneumonia"
    kaggle_address = f"https://www.kaggle.com/api/v1/datasets/download/{slug}"
    # Approximate size of the archive, for the check of the disk and the progress bar.
    kaggle_bytes = 2_463_000_000
    mendeley_address = (
        "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
        "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded"
    )
    mendeley_bytes = 1_235_512_464
    mendeley_sha256 = "13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36"
    # Approximate size of the extracted images.
    tree_bytes = 1_250_000_000
    # Endings of file names that stand for an image.
    suffixes = (".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2")
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
    # {split or class: accepted names of its folder, in any letter case}. If several of
    # these folders exist, the first name of the list is used.
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
    # Names of the releases.
    kaggle = "Kaggle's copy (of version 2)"
    mendeley = "Mendeley's version 3"
    mixed = "mixed, with names of two releases"
    # {release: whose published scores are on the same test folder}
    published = MappingProxyType({kaggle: "Kaggle notebooks", mendeley: "MedMNIST"})
    # NORMAL test images of Kaggle's copy only, see `kaggle_only_mask`: 22 stands for
    # IM-0022-0001.jpeg, 173-0002 for NORMAL2-IM-0173-0001-0002.jpeg.
    kaggle_only = MappingProxyType(
        {
            "": "22 28 73 75 91 102 109",
            "NORMAL2-": (
                "28 59 72 96 105 111 117 131 139 145 150 173-0001 173-0002 195 198 "
                "199 201 221 222 229 232 233 237 238 246-0001 246-0002 246 249 251 "
                "252 256 267 275 277 282 283 285 289 290 300 302 303 304 315 316 319 "
                "322 325 327 330 332 336 338 347 353 359 362 366 369 374-0002"
            ),
        }
    )


def list_names(folder: Path) -> list[str]:
    """Return the sorted names of the files in a folder that are not hidden.

    All links are included, because a broken link is not recognized as a file.
    """
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if (entry.is_symlink() or entry.is_file()) and not entry.name.startswith(".")
    )


def find_folders(
    folder: Path, accepted_names: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return {key: name of its folder} for the keys whose folder exists in `folder`.

    The key itself is preferred to another letter case, an earlier accepted name to a
    later one.

    Parameters
    ----------
    folder : Path
    accepted_names : {key: names in lower case}
    """
    if not Path(folder).is_dir():
        return {}
    subfolders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    found = {}
    for key, accepted in accepted_names.items():
        matching = [name for name in subfolders if name.lower() in accepted]
        if matching:
            found[key] = min(
                matching, key=lambda name: (name != key, accepted.index(name.lower()))
            )
    return found


def count_images(data_dir: Path) -> dict[str, int]:
    """Return {"split/CLASS": number of images} for the class folders that exist.

    Images are told by the ending of their name. Hidden files do not count.
    """
    counts = {}
    for split in ("train", "val", "test"):
        for class_name in ("NORMAL", "PNEUMONIA"):
            folder = Path(data_dir) / split / class_name
            if folder.is_dir():
                counts[f"{split}/{class_name}"] = sum(
                    name.lower().endswith(ChestXray.suffixes)
                    for name in list_names(folder)
                )
    return counts


def is_whole(data_dir: Path) -> bool:
    """Return whether a folder holds the whole data set, by the number of its images."""
    try:
        counts = count_images(data_dir)
    except OSError:  # of a disk or a mounted folder that cannot be read at the moment
        return False
    return counts in (ChestXray.counts, ChestXray.mendeley_counts)
