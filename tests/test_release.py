"""The release of the data set is identified, with the images only it has."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from cxr.dataset import (
    describe_data,
    identify_dataset,
    identify_release,
    is_official,
    kaggle_only_mask,
    list_images,
)
from cxr.release import ChestXray, count_images
from cxr.split import group_patients, split_by_patient

KAGGLE = "Kaggle's copy (of version 2)"
MENDELEY = "Mendeley's version 3"
MIXED = "mixed, with names of two releases"
# SHA-256 of the 67 names as they were found: sorted, one a line.
KAGGLE_ONLY_SHA256 = "3d985854f6e0a0d375ba8bc7a4b00c2e14d9221d75a72fd057dcc9dcfd99aa18"


def name_like_mendeley():
    """Return {folder: names} of 5,856 files named as in version 3.

    Each patient has two images. Every third image of pneumonia is viral.
    """
    counts = {
        "train/NORMAL": 1349,
        "train/PNEUMONIA": 3883,
        "test/NORMAL": 234,
        "test/PNEUMONIA": 390,
    }
    names = {}
    for place, (folder, count) in enumerate(counts.items(), start=1):
        findings = ["BACTERIA", "BACTERIA", "VIRUS"]
        if "NORMAL" in folder:
            findings = ["NORMAL"]
        names[folder] = []
        for image in range(count):
            patient = 1_000_000 * place + 7 * (image // 2)
            finding = findings[image % len(findings)]
            names[folder].append(f"{finding}-{patient}-{image % 2 + 1:04}.jpeg")
    return names


def possible_normal_names():
    """Return all names that Kaggle's NORMAL test images could have."""
    plain = [
        f"{series}IM-{number:04}-0001"
        for series in ("", "NORMAL2-")
        for number in range(1, 400)
    ]
    return [f"{name}{part}.jpeg" for name in plain for part in ("", "-0001", "-0002")]


def list_kaggle_only():
    """Return the 67 names of NORMAL test images that only Kaggle's copy has."""
    names = possible_normal_names()
    mask = kaggle_only_mask(make_table(names))
    return [name for name, is_kaggle_only in zip(names, mask) if is_kaggle_only]


def name_like_kaggle():
    """Return {folder: names} of 5,856 files named as in Kaggle's copy, with the 67."""
    kaggle_only = list_kaggle_only()
    others = [f"IM-{number:04}-0001.jpeg" for number in range(111)]
    others = [name for name in others if name not in kaggle_only]
    others += [
        f"NORMAL2-IM-{number:04}-0002.jpeg"
        for number in range(234 - len(kaggle_only) - len(others))
    ]
    pneumonia = [
        f"person{number // 2}_{('bacteria', 'virus')[number % 2]}_{number}.jpeg"
        for number in range(4273)
    ]
    normal = [f"IM-{number:04}-0001.jpeg" for number in range(115, 1464)]
    return {
        "train/NORMAL": normal[8:],
        "train/PNEUMONIA": pneumonia[398:],
        "val/NORMAL": normal[:8],
        "val/PNEUMONIA": pneumonia[390:398],
        "test/NORMAL": kaggle_only + others,
        "test/PNEUMONIA": pneumonia[:390],
    }


def make_table(names, folder="test", label=0, path="test/NORMAL"):
    """Return a table as of `list_images`, of files in one class folder."""
    paths = [f"{path}/{name}" for name in names]
    return pd.DataFrame({"folder": folder, "label": label, "path": paths})


def lay_out(folder, tree):
    for part, names in tree.items():
        (folder / part).mkdir(parents=True)
        for name in names:
            (folder / part / name).touch()
    return folder


def identify(folder):
    """Return (table of the files, kind, release, official), as section 1 does."""
    files = list_images(folder)
    kind = identify_dataset(folder, files)
    release = identify_release(files, kind)
    return files, kind, release, is_official(folder, release)


@pytest.fixture(scope="module")
def mendeley_folder(tmp_path_factory):
    return lay_out(
        tmp_path_factory.mktemp("mendeley") / "chest_xray", name_like_mendeley()
    )


@pytest.fixture(scope="module")
def kaggle_folder(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp("kaggle") / "chest_xray", name_like_kaggle())


def test_a_whole_tree_of_version_3_is_known_and_official(mendeley_folder):
    files, kind, release, official = identify(mendeley_folder)
    assert (len(files), kind, release, official) == (
        5856,
        "chest-xray-pneumonia",
        MENDELEY,
        True,
    )
    assert files.known.all() and not kaggle_only_mask(files).any()
    assert files.groupby(["folder", "finding"]).size().to_dict() == {
        ("train", "normal"): 1349,
        ("train", "bacterial"): 2589,
        ("train", "viral"): 1294,
        ("test", "normal"): 234,
        ("test", "bacterial"): 260,
        ("test", "viral"): 130,
    }
    assert (
        files.patient.nunique() == 675 + 1942 + 117 + 195
    )  # two images each, the last one of an odd number alone
    text = describe_data(mendeley_folder, files, kind, release, official)
    assert (
        "5,856 files" in text
        and "in the official split. " in text
        and "those of MedMNIST: 67 of the 234 NORMAL test images" in text
    )


def test_no_patient_of_version_3_is_on_both_sides_of_a_split(mendeley_folder):
    files = list_images(mendeley_folder)
    files = files[files.folder == "train"].reset_index(drop=True)
    assert (files.groupby("patient").size() > 1).sum() > 2000
    groups = group_patients(files.patient, np.arange(len(files)))
    split = split_by_patient(files, groups, 0.15, 0)
    assert set(split) == {"train", "val"}
    assert pd.Series(split).groupby(files.patient).nunique().max() == 1


def test_a_whole_tree_of_kaggle_is_known_and_holds_the_67(kaggle_folder):
    files, kind, release, official = identify(kaggle_folder)
    assert count_images(kaggle_folder) == ChestXray.counts
    assert (len(files), kind, release, official) == (
        5856,
        "chest-xray-pneumonia",
        KAGGLE,
        True,
    )
    assert (
        kaggle_only_mask(files).sum()
        == 67
        == kaggle_only_mask(files[files.folder == "test"]).sum()
    )
    assert (files[kaggle_only_mask(files)].path.str.startswith("test/NORMAL/")).all()
    assert "those of Kaggle notebooks: 67 of the 234" in describe_data(
        kaggle_folder, files, kind, release, official
    )


def test_the_67_names_are_those_that_were_found():
    mask = kaggle_only_mask(make_table(possible_normal_names()))
    assert mask.dtype == bool and mask.shape == (2394,)
    names = sorted(list_kaggle_only())
    assert sum(name.startswith("IM-") for name in names) == 7
    lines = "".join(f"{name}\n" for name in names)
    assert hashlib.sha256(lines.encode()).hexdigest() == KAGGLE_ONLY_SHA256
    assert {
        "IM-0022-0001.jpeg",
        "NORMAL2-IM-0173-0001-0002.jpeg",
        "NORMAL2-IM-0246-0001.jpeg",
    } < set(names)


def test_the_67_are_normal_test_images():
    names = list_kaggle_only()
    assert not kaggle_only_mask(make_table(names, folder="train")).any()
    assert not kaggle_only_mask(make_table(names, label=1)).any()
    # A few of them could not be read.
    mask = kaggle_only_mask(make_table([*names[3:], "scan.jpeg"]))
    assert mask.tolist() == [True] * 64 + [False]


def test_another_test_folder_has_none_of_the_67():
    """Such as phantoms, which have some of the names."""
    assert not kaggle_only_mask(make_table(list_kaggle_only()[:30])).any()
    assert kaggle_only_mask(make_table([])).shape == (0,)


def test_the_67_are_found_whatever_the_names_of_their_folders():
    mask = kaggle_only_mask(make_table(list_kaggle_only(), path="Testing/Normal"))
    assert mask.all()


def test_two_releases_in_one_folder_are_recognized(kaggle_folder, tmp_path):
    """Kaggle's train folder with the test folder of version 3: the counts are right."""
    folder = lay_out(
        tmp_path / "chest_xray",
        name_like_kaggle()
        | {
            part: names
            for part, names in name_like_mendeley().items()
            if "test" in part
        },
    )
    files, kind, release, official = identify(folder)
    assert (len(files), kind, release, official) == (
        5856,
        "chest-xray-pneumonia",
        MIXED,
        False,
    )
    text = describe_data(folder, files, kind, release, official)
    assert "may have two" in text and "use a single release" in text
    assert "cannot be compared" in text


def test_a_part_of_a_release_is_named_but_not_official(mendeley_folder, tmp_path):
    folder = lay_out(
        tmp_path / "chest_xray",
        {part: names[:20] for part, names in name_like_mendeley().items()},
    )
    files, kind, release, official = identify(folder)
    assert (release, official) == (MENDELEY, False)
    assert "version 3, but not with the official number" in describe_data(
        folder, files, kind, release, official
    )


@pytest.mark.parametrize("kind", ["phantom", "other"])
def test_other_data_are_of_no_release(kaggle_folder, kind):
    assert identify_release(list_images(kaggle_folder), kind) == "none"
