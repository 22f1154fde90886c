"""The data set in use: finding or drawing it, listing, identifying and checking it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.download import DownloadError, download_data
from cxr.labels import CLASS_NAMES
from cxr.phantoms import Phantom, write_phantoms
from cxr.release import ChestXray, count_images, find_folders, is_whole, list_names
from cxr.storage import prepare_folder, wrap_os_errors


def find_mounted() -> list[Path]:
    """Return where Colab, Kaggle or kagglehub may have put the data set already."""
    hub = Path(os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub").expanduser()
    versions = hub.glob(f"datasets/{ChestXray.slug}/versions/*/chest_xray")
    newest_first = sorted(
        versions, key=lambda path: path.parent.name.zfill(9), reverse=True
    )
    return [*map(Path, ChestXray.mounts), *newest_first]


def find_data(home: Path, data_dir: str) -> Path:
    """Return the folder with the data; download or draw them if there are none.

    In this order: the folder that is named, one that exists, a download, phantoms.

    Parameters
    ----------
    home : Path
        Folder of the notebook.
    data_dir : str
        The setting DATA_DIR, relative to `home`; "" for none.

    Raises
    ------
    StorageError
        If the data cannot be stored.
    """
    if data_dir:
        return home / data_dir
    target = home / "data" / "chest_xray"
    for folder in (target, *find_mounted()):
        try:
            counts = count_images(folder)
        except OSError as error:
            # A mounted folder, such as one of Google Drive, may fail for a while.
            print(f"{folder} cannot be read ({error.strerror or error}).")
            continue
        if set(ChestXray.mendeley_counts) <= set(counts) and all(counts.values()):
            total = sum(counts.values())
            print(f"Found {total:,} images in {folder}: nothing to download.")
            return folder
    try:
        download_data(target)
        return target
    except DownloadError as error:
        print(f"No download: {error}.")
    phantoms = home / "data" / "phantoms" / "chest_xray"
    if not phantoms.exists():
        prepare_folder(phantoms.parent, "No data, and the folder for phantoms", 100e6)
        with wrap_os_errors(phantoms.parent):
            write_phantoms(phantoms)
    return phantoms


def parse_name(name: str, label: int) -> tuple[str, str, bool]:
    """Read patient and finding from a file name.

    Patient numbers restart in each series of the data set. Whether `person5_bacteria`
    and `person5_virus` are one child cannot be known, so they count as one patient.

    Parameters
    ----------
    name : str
        Name of the file, without its folder.
    label : {0, 1}
        Class of its folder.

    Returns
    -------
    patient : str
        A file with an unknown name is a patient of its own.
    finding : {"normal", "bacterial", "viral", "unknown"}
    known : bool
        Whether the name is one of the chest X-ray set.
    """
    findings = {
        "NORMAL": "normal",
        "BACTERIA": "bacterial",
        "VIRUS": "viral",
        "bacteria": "bacterial",
        "virus": "viral",
    }
    version_3 = "(BACTERIA|VIRUS)-([0-9]+)-" if label else "(NORMAL)-([0-9]+)-"
    if match := re.match(version_3, name):
        return f"patient{match[2]}", findings[match[1]], True
    if label == 0:
        if match := re.match(r"(?:NORMAL2-)?IM-(\d+)", name):
            return f"IM-{int(match[1])}", "normal", True
        return f"normal {name}", "normal", False
    if match := re.match(r"person(\d+)_(bacteria|virus)", name):
        return f"person{int(match[1])}", findings[match[2]], True
    return f"pneumonia {name}", "unknown", False


def list_class(folder: Path) -> list[str]:
    """Return the names of the files in a class folder.

    Raises
    ------
    ValueError
        If the folder holds no files.
    """
    if names := list_names(folder):
        return names
    subfolders = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if subfolders:
        raise ValueError(
            f"The folder {folder.resolve()} holds subfolders "
            f"({join_names(subfolders, 3)}) but no files: move the images of this "
            "class out of the subfolders, directly into it."
        )
    raise ValueError(
        f"The folder {folder.resolve()} is empty: put images of this class into it."
    )


def join_names(names: Sequence[str], most: int) -> str:
    """Return the first names as a list in a sentence, and how many more there are."""
    listed = ", ".join(names[:most])
    if len(names) > most:
        listed += f" and {len(names) - most:,} more"
    return listed


def find_unused(
    data_dir: Path, splits: dict[str, str], classes: dict[str, dict[str, str]]
) -> list[str]:
    """Return the sorted paths below `data_dir` that `list_images` leaves out.

    Hidden entries are ignored. Beside the split folders only folders and images count,
    because texts and tables are often there.

    Parameters
    ----------
    data_dir : Path
    splits : {split: name of its folder}
    classes : {split: {class: name of its folder}}
    """
    unused = []
    for entry in os.scandir(data_dir):
        if entry.name in (*splits.values(), "__MACOSX"):
            continue
        if entry.is_dir() or entry.name.lower().endswith(ChestXray.suffixes):
            unused.append(entry.name)
    if "chest_xray" in unused:
        # Kaggle's archive holds a second copy of all images.
        copied = count_images(data_dir / "chest_xray")
        if copied == count_images(data_dir):
            unused.remove("chest_xray")
    for split, split_folder in splits.items():
        class_folders = classes[split].values()
        unused += [
            f"{split_folder}/{name}"
            for name in os.listdir(data_dir / split_folder)
            if name not in class_folders
        ]
        unused += [
            f"{split_folder}/{class_folder}/{entry.name}"
            for class_folder in class_folders
            for entry in os.scandir(data_dir / split_folder / class_folder)
            if entry.is_dir(follow_symlinks=False)
        ]
    return sorted(path for path in unused if "/." not in f"/{path}")


def explain_missing_class(
    data_dir: Path, split: str, split_folder: str, class_name: str
) -> str:
    """Return the error message for a class folder that does not exist."""
    nested = find_folders(data_dir / "chest_xray", ChestXray.split_folders)
    if split in nested:
        nested_split = data_dir / "chest_xray" / nested[split]
        if class_name in find_folders(nested_split, ChestXray.class_folders):
            return (
                f"DATA_DIR {data_dir.resolve()} is one folder too high: name the "
                "folder chest_xray in it."
            )
    missing = (data_dir / split_folder / class_name).resolve()
    return (
        f"DATA_DIR lacks the folder {missing}: it must hold "
        "{train,val,test}/{NORMAL,PNEUMONIA}."
    )


def check_encoding(data_dir: Path, paths: Sequence[str]) -> None:
    """Raise ValueError if a path is not UTF-8: no table could be written with it."""
    invalid = [
        path for path in paths if path != path.encode("utf-8", "replace").decode()
    ]
    if invalid:
        raise ValueError(
            f"{len(invalid)} file names in {data_dir.resolve()} are not UTF-8, the "
            f"first is {os.fsencode(invalid[0])!r}: rename them, or extract the "
            "archive again with a program that knows their encoding (such as unzip -O "
            "cp437)."
        )


def list_images(data_dir: str | Path) -> pd.DataFrame:
    """List the files of the data set in a fixed order.

    Every file in a class folder that is not hidden is listed, whether it is an image or
    not, so that no file disappears unnoticed. What is elsewhere is named and not used.

    Parameters
    ----------
    data_dir : str or Path
        Folder with {train,val,test}/{NORMAL,PNEUMONIA}; val may be missing.

    Returns
    -------
    DataFrame
        A row for each file. Columns: folder ("train", "val" or "test"), path (below
        `data_dir`), label (0 or 1), patient, finding, and known: whether the name is
        one of the chest X-ray set (see `has_dataset_names`). A file with an unknown
        name is a patient of its own.

    Raises
    ------
    FileNotFoundError, ValueError
        If a folder is missing or empty, a file name is not UTF-8, or a class has too
        few patients.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        reason = "does not exist: correct it"
        if data_dir.exists():
            reason = "is a file: unpack it first, and name the folder chest_xray"
        raise FileNotFoundError(
            f"DATA_DIR {data_dir.resolve()} {reason}, or leave DATA_DIR empty to get "
            "the data."
        )
    splits = find_folders(data_dir, ChestXray.split_folders)
    classes = {}
    rows = []
    for split in ChestXray.split_folders:
        if split == "val" and "val" not in splits:
            print(
                "There is no val folder (the original at Mendeley has none). It is not "
                "needed: section 4 makes a larger validation set."
            )
            continue
        split_folder = splits.get(split, split)
        classes[split] = find_folders(data_dir / split_folder, ChestXray.class_folders)
        for label, class_name in enumerate(ChestXray.class_folders):
            if class_name not in classes[split]:
                raise FileNotFoundError(
                    explain_missing_class(data_dir, split, split_folder, class_name)
                )
            class_folder = f"{split_folder}/{classes[split][class_name]}"
            rows += [
                (split, f"{class_folder}/{name}", label, *parse_name(name, label))
                for name in list_class(data_dir / class_folder)
            ]
        if split_folder.lower() != split:
            print(f"The folder {split_folder} is used as {split}.")
    columns = ["folder", "path", "label", "patient", "finding", "known"]
    files = pd.DataFrame(rows, columns=columns)
    unused = find_unused(data_dir, splits, classes)
    check_encoding(data_dir, [*files.path, *unused])
    if unused:
        print(
            f"NOT used: {join_names(unused, 5)}. Only files directly in the folders "
            "NORMAL and PNEUMONIA of train, val and test are used: move other images "
            "there to use them."
        )
    if not has_dataset_names(files):
        files["known"] = False
        files["finding"] = np.where(files.label == 1, "unknown", "normal")
    files["patient"] = files.patient.where(files.known, files.path)
    check_patients(files)
    return files


def has_dataset_names(files: pd.DataFrame) -> bool:
    """Return whether the file names are those of the chest X-ray set.

    Over 95% of the images and most files of each class must have such a name. Other
    programs use some of the names of normal images as well: IM-0001-0009-0001 is image
    9 of a series, whoever the patient is. In PNEUMONIA such a name is not one of the
    chest X-ray set.
    """
    has_image_name = files.path.str.lower().str.endswith(ChestXray.suffixes)
    images = files[files.known | has_image_name]
    known_by_class = files.known.groupby(files.label).mean()
    return bool(images.known.mean() > 0.95 and known_by_class.min() > 0.5)


def check_patients(files: pd.DataFrame) -> None:
    """Raise ValueError if a class of train and val has less than two patients."""
    for label, name in enumerate(CLASS_NAMES):
        class_files = files[(files.folder != "test") & (files.label == label)]
        patients = class_files.patient.nunique()
        if patients < 2:
            raise ValueError(
                f"train and val hold {len(class_files)} {name} image(s) of {patients} "
                "patient(s): at least 2 patients per class are needed, one to train on "
                f"and one to validate on. Add images to train/{name}."
            )


def identify_dataset(data_dir: str | Path, files: pd.DataFrame) -> str:
    """Return the kind of the data: "phantom", "chest-xray-pneumonia" or "other".

    Phantoms have a mark inside the file; the chest X-ray set is recognized by the names
    of its files (see `has_dataset_names`).
    """

    def is_phantom(path: str) -> bool:
        try:
            with open(Path(data_dir) / path, "rb") as file:
                return Phantom.mark in file.read(256)
        except OSError:
            return False  # `load_split` reports files that cannot be read

    if any(is_phantom(path) for path in files.path):
        return "phantom"
    return "chest-xray-pneumonia" if files.known.any() else "other"


def describe_data(
    data_dir: Path, files: pd.DataFrame, data_kind: str, release: str, official: bool
) -> str:
    """Describe the data, and say with which published scores theirs can be compared."""
    text = f"{data_dir} holds {len(files):,} files"
    if data_kind == "phantom":
        return (
            f"{text}: PHANTOM radiographs, drawn by this project. Their scores say "
            "nothing about patients."
        )
    if data_kind == "other":
        return (
            f"{text}. Their names are not those of the chest X-ray set, so each file "
            "counts as a patient of its own."
        )
    text += f" of the chest X-ray set, {release}"
    if release == ChestXray.mixed:
        return (
            f"{text}. One child may have two names, and be on both sides of a split: "
            "use a single release. Scores on these data cannot be compared with "
            "published ones."
        )
    if official:
        different = sum(len(ids.split()) for ids in ChestXray.kaggle_only.values())
        return (
            f"{text}, in the official split. Scores on its test folder can be compared "
            f"with those of {ChestXray.published[release]}: {different} of the "
            f"{ChestXray.counts['test/NORMAL']} NORMAL test images differ between "
            "Kaggle's copy and version 3."
        )
    return (
        f"{text}, but not with the official number of images (5,856, of which 624 for "
        "test): scores cannot be compared with published ones. If a download was "
        "interrupted, delete the folder and run this again."
    )


def check_unreadable(
    files: pd.DataFrame, unreadable_tables: list[pd.DataFrame]
) -> pd.DataFrame:
    """Print which files could not be read.

    Parameters
    ----------
    files : DataFrame
        All files, see `list_images`.
    unreadable_tables : list of DataFrames
        Columns path and problem, see `load_split`.

    Returns
    -------
    DataFrame
        The tables, joined.

    Raises
    ------
    ValueError
        If more than 1% of the files (more than 3 in a small set) are unreadable, or if
        a class is left with too few images.
    """
    unreadable = pd.concat(unreadable_tables, ignore_index=True)
    if len(unreadable) > max(3, 0.01 * len(files)):
        raise ValueError(
            f"{len(unreadable)} of {len(files)} files cannot be read, too many to "
            f"continue. The first is {unreadable.path[0]} ({unreadable.problem[0]}). "
            "Get the data again, or remove these files."
        )
    readable = files[~files.path.isin(unreadable.path)]
    check_patients(readable)
    for label, name in enumerate(CLASS_NAMES):
        is_test_class = (readable.folder == "test") & (readable.label == label)
        if not is_test_class.any():
            raise ValueError(
                f"No file in test/{name} can be read: replace "
                f"{', '.join(unreadable.path[:3])}."
            )
    end = ":" if len(unreadable) else "."
    print(f"{len(unreadable)} of {len(files):,} files could not be read{end}")
    for path, problem in unreadable.itertuples(index=False):
        print(f"- {path}: {problem}")
    return unreadable


def is_official(data_dir: str | Path, release: str) -> bool:
    """Return whether a folder holds one complete release in the official split."""
    return release in ChestXray.published and is_whole(Path(data_dir))


def identify_release(files: pd.DataFrame, data_kind: str) -> str:
    """Return which release of the chest X-ray set the file names belong to.

    Parameters
    ----------
    files : DataFrame
        See `list_images`.
    data_kind : str
        See `identify_dataset`.

    Returns
    -------
    str
        The name of a release in words, or "none" for other data.
    """
    if data_kind != "chest-xray-pneumonia":
        return "none"
    # Only names of version 3 give this kind of patient, see `parse_name`.
    is_version_3 = files.patient[files.known].str.startswith("patient")
    if is_version_3.all():
        return ChestXray.mendeley
    return ChestXray.mixed if is_version_3.any() else ChestXray.kaggle


def kaggle_only_mask(files: pd.DataFrame) -> np.ndarray:
    """Return which files are NORMAL test images of Kaggle's copy, but not of version 3.

    Kaggle's 624 test images were matched with the 28-pixel test set of MedMNIST, which
    was presumably made from version 3: 67 have no counterpart there. If less than half
    of the 67 names occur, it is another test folder, in which they are a coincidence.

    Parameters
    ----------
    files : DataFrame with n rows
        Its columns folder, label and path are used.

    Returns
    -------
    bool array (n,)
    """
    names = set()
    for series, image_ids in ChestXray.kaggle_only.items():
        for image_id in image_ids.split():
            number, dash, part = image_id.partition("-")
            names.add(f"{series}IM-{number:0>4}-0001{dash}{part}.jpeg")
    is_normal_test = (files.folder == "test") & (files.label == 0)
    # A list of file names: `Series.str` fails on an empty table.
    has_name = np.array([path.split("/")[-1] in names for path in files.path], bool)
    mask = is_normal_test.to_numpy(bool) & has_name
    return mask & (2 * mask.sum() > len(names))
