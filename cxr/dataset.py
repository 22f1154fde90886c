"""The data set at hand: found or drawn, listed, named for what it is, and what is wrong with its files."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.download import DownloadError, download_data
from cxr.phantoms import Phantom, write_phantoms
from cxr.release import ChestXray, count_images, find_folders, is_whole, list_names
from cxr.storage import prepare_folder, wrap_os_errors


def find_mounted() -> list[Path]:
    """Return the places where Colab, Kaggle or kagglehub may have put the data set already."""
    hub = Path(os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub").expanduser()
    versions = hub.glob(f"datasets/{ChestXray.slug}/versions/*/chest_xray")
    return [
        *map(Path, ChestXray.mounts),
        *sorted(versions, key=lambda path: path.parent.name.zfill(9), reverse=True),
    ]


def find_data(home: Path, data_dir: str) -> Path:
    """Return the folder to read: the one named, else one that is there, else a download (or StorageError), else phantoms."""
    if data_dir:
        return home / data_dir
    target = home / "data" / "chest_xray"
    for folder in (target, *find_mounted()):
        try:
            found = count_images(folder)
        except OSError as error:  # a mounted folder, such as one of Google Drive, may fail for a while
            print(f"{folder} cannot be read ({error.strerror or error}).")
            continue
        if set(ChestXray.mendeley_counts) <= set(found) and all(found.values()):
            print(
                f"Found {sum(found.values()):,} images in {folder}: nothing to download."
            )
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
    """Return (patient, finding, known) from a file name; an unknown name is its own patient, its finding "unknown".

    The patient is (folder, bare number), the coarser reading: numbers restart in each series of the set, and whether
    `person5_bacteria` and `person5_virus` are one child cannot be known, so they are kept together.
    """
    if match := re.match(
        "(BACTERIA|VIRUS)-([0-9]+)-" if label else "(NORMAL)-([0-9]+)-", name
    ):  # version 3 at Mendeley
        return (
            f"patient{match[2]}",
            {"NORMAL": "normal", "BACTERIA": "bacterial", "VIRUS": "viral"}[match[1]],
            True,
        )
    if label == 0:
        match = re.match(r"(?:NORMAL2-)?IM-(\d+)", name)
        return (
            (f"IM-{int(match[1])}" if match else f"normal {name}"),
            "normal",
            bool(match),
        )
    match = re.match(r"person(\d+)_(bacteria|virus)", name)
    if match:
        return (
            f"person{int(match[1])}",
            {"bacteria": "bacterial", "virus": "viral"}[match[2]],
            True,
        )
    return f"pneumonia {name}", "unknown", False


def list_class(folder: Path) -> list[str]:
    """Return the names of the files in a class folder; raise ValueError, naming it, if there are none."""
    if names := list_names(folder):
        return names
    inner = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if inner:
        listed = ", ".join(inner[:3]) + (
            f" and {len(inner) - 3:,} more" if len(inner) > 3 else ""
        )
        raise ValueError(
            f"The folder {folder.resolve()} holds subfolders ({listed}) but no files: move the images of that class "
            "out of them, right into it."
        )
    raise ValueError(
        f"The folder {folder.resolve()} is empty: put images of that class into it."
    )


def find_unused(
    folder: Path, splits: dict[str, str], classes: dict[str, dict[str, str]]
) -> list[str]:
    """Return the sorted paths below `folder` of what `list_images` leaves out, except hidden entries.

    `splits`: {split: its folder}, `classes`: {split: {class: its folder}}. Beside the splits only folders and images count, as
    texts and tables often lie there.
    """
    unused = [
        entry.name
        for entry in os.scandir(folder)
        if entry.name not in (*splits.values(), "__MACOSX")
        and (entry.is_dir() or entry.name.lower().endswith(ChestXray.suffixes))
    ]
    if "chest_xray" in unused and count_images(folder / "chest_xray") == count_images(
        folder
    ):
        unused.remove(
            "chest_xray"
        )  # Kaggle's archive holds a copy of all images in itself
    for split, name in splits.items():
        own = classes[split].values()
        unused += [
            f"{name}/{entry}" for entry in os.listdir(folder / name) if entry not in own
        ]
        unused += [
            f"{name}/{one}/{entry.name}"
            for one in own
            for entry in os.scandir(folder / name / one)
            if entry.is_dir(follow_symlinks=False)
        ]
    return sorted(path for path in unused if "/." not in f"/{path}")


def list_images(folder: str | Path) -> pd.DataFrame:
    """Return a DataFrame of the files, in a fixed order: split, path below `folder`, label, patient, finding, known.

    A file that is not hidden is listed, picture or not, so that none can vanish unnoticed; what lies elsewhere is named.
    `known` is whether the name is one of the chest X-ray set; if not, the file is its own patient (see `has_dataset_names`).
    Raises FileNotFoundError or ValueError, naming the folder that is missing or empty, or a name that is no text.
    """
    folder, rows = Path(folder), []
    if not folder.is_dir():
        reason = (
            "is a file: unpack it first, and name the folder chest_xray"
            if folder.exists()
            else "does not exist: correct it"
        )
        raise FileNotFoundError(
            f"DATA_DIR {folder.resolve()} {reason}, or leave it empty to get the data."
        )
    splits, classes = find_folders(folder, ChestXray.split_folders), {}
    for split in ChestXray.split_folders:
        if split == "val" and "val" not in splits:
            print(
                "There is no val folder (the original at Mendeley has none): section 4 makes a better one anyway."
            )
            continue
        classes[split] = find_folders(
            folder / splits.get(split, split), ChestXray.class_folders
        )
        for label, name in enumerate(ChestXray.class_folders):
            if name not in classes[split]:
                inner = find_folders(folder / "chest_xray", ChestXray.split_folders)
                if split in inner and name in find_folders(
                    folder / "chest_xray" / inner[split], ChestXray.class_folders
                ):
                    raise FileNotFoundError(
                        f"DATA_DIR {folder.resolve()} is one folder too high: name the folder chest_xray in it."
                    )
                raise FileNotFoundError(
                    f"DATA_DIR lacks the folder {(folder / splits.get(split, split) / name).resolve()}: "
                    "it must hold {train,val,test}/{NORMAL,PNEUMONIA}."
                )
            place = f"{splits[split]}/{classes[split][name]}"
            rows += [
                (split, f"{place}/{file}", label, *parse_name(file, label))
                for file in list_class(folder / place)
            ]
        if splits[split].lower() != split:
            print(f"The folder {splits[split]} is used as {split}.")
    files = pd.DataFrame(
        rows, columns=["folder", "path", "label", "patient", "finding", "known"]
    )
    unused = find_unused(folder, splits, classes)
    if odd := [
        path
        for path in (*files.path, *unused)
        if path != path.encode("utf-8", "replace").decode()
    ]:
        raise ValueError(
            f"{len(odd)} file names in {folder.resolve()} are not UTF-8, the first is {os.fsencode(odd[0])!r}: rename them, "
            "or extract the archive anew with a program that knows their encoding (such as unzip -O cp437)."
        )
    if unused:
        print(
            f"NOT used: {', '.join(unused[:5])}{f' and {len(unused) - 5:,} more' if len(unused) > 5 else ''}. Only files right in "
            "the folders NORMAL and PNEUMONIA of train, val and test are: move there what should be used."
        )
    if not has_dataset_names(files):
        files["known"] = False
        files["finding"] = np.where(files.label == 1, "unknown", "normal")
    files["patient"] = files.patient.where(files.known, files.path)
    check_patients(files)
    return files


def has_dataset_names(files: pd.DataFrame) -> bool:
    """Return whether the file names are those of the chest X-ray set: over 95 % of the images', and most of the files' in each class.

    Other programs use some of these names, too: IM-0001-0009-0001 is image 9 of a series, whoever the patient is. They use them
    for both classes, so in PNEUMONIA such a name gives them away.
    """
    images = files[
        files.known | files.path.str.lower().str.endswith(ChestXray.suffixes)
    ]
    return (
        images.known.mean() > 0.95
        and files.known.groupby(files.label).mean().min() > 0.5
    )


def check_patients(files: pd.DataFrame):
    """Raise ValueError if one class of the train and val folders has too few patients to learn from and validate on."""
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        own = files[(files.folder != "test") & (files.label == label)]
        if own.patient.nunique() < 2:
            raise ValueError(
                f"train and val hold {len(own)} {name} image(s) of {own.patient.nunique()} patient(s): at least 2 "
                f"patients a class are needed, one to learn from and one to validate on. Add images to train/{name}."
            )


def identify_dataset(folder: str | Path, files: pd.DataFrame) -> str:
    """Return "phantom", "chest-xray-pneumonia" or "other", by what the files say and how they are named (see `has_dataset_names`)."""

    def is_phantom(path):
        try:
            with open(Path(folder) / path, "rb") as file:
                return Phantom.mark in file.read(256)
        except OSError:
            return (
                False  # reading it is section 2's job, and so is saying that it failed
            )

    if any(is_phantom(path) for path in files.path):
        return "phantom"
    return "chest-xray-pneumonia" if files.known.any() else "other"


def describe_data(
    data_dir: Path, files: pd.DataFrame, kind: str, release: str, official: bool
) -> str:
    """Return in words which data these are, and with which published scores those on them can be compared, if with any."""
    text = f"{data_dir} holds {len(files):,} files"
    if kind == "phantom":
        return f"{text}: PHANTOM radiographs, drawn by this project. No score below says anything about patients."
    if kind == "other":
        return f"{text} whose names are not those of the chest X-ray set: each file counts as a patient of its own."
    text += f" of the chest X-ray set, {release}"
    if release == ChestXray.mixed:
        return f"{text}: a child may have two, and be on both sides of a split. Use one; scores below compare with no published ones."
    if official:
        return (
            f"{text}, in the official split. Scores on its test folder can be compared with those of {ChestXray.published[release]}: "
            f"{sum(len(words.split()) for words in ChestXray.kaggle_only.values())} of the {ChestXray.counts['test/NORMAL']} healthy "
            "test films differ between Kaggle's copy and version 3."
        )
    return (
        f"{text}, but not in the official numbers (5,856, of which 624 for test): "
        "scores below cannot be compared with published ones. If a download was cut short, delete the folder and run again."
    )


def check_unreadable(files: pd.DataFrame, broken: list[pd.DataFrame]) -> pd.DataFrame:
    """Name the files that could not be read and return them as one table.

    Raises ValueError if they are more than a few (1 %, or 3 in a small set), or if a class is left without images.
    """
    unreadable = pd.concat(broken, ignore_index=True)
    if len(unreadable) > max(3, 0.01 * len(files)):
        raise ValueError(
            f"{len(unreadable)} of {len(files)} files cannot be read, too many to go on; the first is "
            f"{unreadable.path[0]} ({unreadable.problem[0]}). Get the data again, or remove these files."
        )
    good = files[~files.path.isin(unreadable.path)]
    check_patients(good)
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        if not len(good[(good.folder == "test") & (good.label == label)]):
            raise ValueError(
                f"No file in test/{name} can be read: replace {', '.join(unreadable.path[:3])}."
            )
    print(
        f"{len(unreadable)} of {len(files):,} files could not be read{':' if len(unreadable) else '.'}"
    )
    print(
        "".join(
            f"- {path}: {problem}\n"
            for path, problem in unreadable.itertuples(index=False)
        ),
        end="",
    )
    return unreadable


def is_official(folder: str | Path, release: str) -> bool:
    """Say whether a folder holds one release of the chest X-ray set in the official split, whole."""
    return release in ChestXray.published and is_whole(Path(folder))


def identify_release(files: pd.DataFrame, kind: str) -> str:
    """Return in words which release the names of the files are of (see `list_images`, `identify_dataset`), or "none" for other data."""
    if kind != "chest-xray-pneumonia":
        return "none"
    third = files.patient[files.known].str.startswith(
        "patient"
    )  # a number that only the names of version 3 tell
    return (
        ChestXray.mendeley
        if third.all()
        else ChestXray.mixed
        if third.any()
        else ChestXray.kaggle
    )


def kaggle_only_mask(files: pd.DataFrame) -> np.ndarray:
    """Return which of the files are healthy test films that Kaggle's copy has and version 3 has not: bool (n,).

    Found by matching Kaggle's 624 test films with the 28-pixel test set of MedMNIST, presumably made from version 3: 557 have a
    twin there, 67 have none. Where most of the 67 are missing it is another test folder, with some of the names by chance.
    """
    names = [
        (series, *word.partition("-"))
        for series, words in ChestXray.kaggle_only.items()
        for word in words.split()
    ]
    own = files.path.isin(
        {
            f"test/NORMAL/{series}IM-{number:0>4}-0001{dash}{part}.jpeg"
            for series, number, dash, part in names
        }
    )
    return (own & (2 * own.sum() > len(names))).to_numpy()
