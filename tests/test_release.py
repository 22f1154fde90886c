"""Which release of the set a folder holds, and what follows from it."""

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

KAGGLE, MENDELEY, MIXED = (
    "Kaggle's copy (of version 2)",
    "Mendeley's version 3",
    "mixed, with names of two releases",
)
# SHA-256 of the 67 names as they were found, sorted, a line each: not from the code that lists them
DIGEST = "3d985854f6e0a0d375ba8bc7a4b00c2e14d9221d75a72fd057dcc9dcfd99aa18"


def name_thirds():
    """{folder: names} of 5,856 files named as in version 3: two images for each patient, and every third sick child also as viral."""
    counts = {
        "train/NORMAL": 1349,
        "train/PNEUMONIA": 3883,
        "test/NORMAL": 234,
        "test/PNEUMONIA": 390,
    }
    names = {}
    for place, (folder, count) in enumerate(counts.items()):
        kinds = ("NORMAL",) if "NORMAL" in folder else ("BACTERIA", "BACTERIA", "VIRUS")
        names[folder] = [
            f"{kinds[image % len(kinds)]}-{1_000_000 * (place + 1) + 7 * (image // 2)}-{image % 2 + 1:04}.jpeg"
            for image in range(count)
        ]
    return names


def name_tests():
    """All names that Kaggle's healthy test films could have: two series, some with two images or a third number."""
    plain = [
        f"{series}IM-{number:04}-0001"
        for series in ("", "NORMAL2-")
        for number in range(1, 400)
    ]
    return [f"{name}{part}.jpeg" for name in plain for part in ("", "-0001", "-0002")]


def name_kaggles():
    """{folder: names} of 5,856 files named as at Kaggle, with the 67 among the healthy of test."""
    rare = [
        name
        for name, marked in zip(name_tests(), kaggle_only_mask(tabulate(name_tests())))
        if marked
    ]
    others = [
        f"IM-{number:04}-0001.jpeg"
        for number in range(111)
        if f"IM-{number:04}-0001.jpeg" not in rare
    ]
    others += [
        f"NORMAL2-IM-{number:04}-0002.jpeg"
        for number in range(234 - len(rare) - len(others))
    ]
    sick = [
        f"person{number // 2}_{('bacteria', 'virus')[number % 2]}_{number}.jpeg"
        for number in range(4273)
    ]
    healthy = [f"IM-{number:04}-0001.jpeg" for number in range(115, 1464)]
    return {
        "train/NORMAL": healthy[8:],
        "train/PNEUMONIA": sick[398:],
        "val/NORMAL": healthy[:8],
        "val/PNEUMONIA": sick[390:398],
        "test/NORMAL": rare + others,
        "test/PNEUMONIA": sick[:390],
    }


def tabulate(names, folder="test/NORMAL"):
    return pd.DataFrame({"path": [f"{folder}/{name}" for name in names]})


def lay_out(folder, tree):
    for part, names in tree.items():
        (folder / part).mkdir(parents=True)
        for name in names:
            (folder / part / name).touch()
    return folder


def judge(folder):
    """What section 1 finds out: (table of the files, kind, release, official)."""
    files = list_images(folder)
    kind = identify_dataset(folder, files)
    release = identify_release(files, kind)
    return files, kind, release, is_official(folder, release)


@pytest.fixture(scope="module")
def third(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp("third") / "chest_xray", name_thirds())


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp("second") / "chest_xray", name_kaggles())


def test_a_whole_tree_of_version_3_is_known_and_official(third):
    files, kind, release, official = judge(third)
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
    told = describe_data(third, files, kind, release, official)
    assert (
        "5,856 files" in told
        and "in the official split. " in told
        and "those of MedMNIST: 67 of the 234 healthy test films" in told
    )


def test_no_patient_of_version_3_is_on_both_sides_of_a_split(third):
    files = list_images(third)
    pool = files[files.folder == "train"].reset_index(drop=True)
    part = split_by_patient(
        pool, group_patients(pool.patient, np.arange(len(pool))), 0.15, 0
    )
    sides = pd.Series(part).groupby(pool.patient).nunique()
    assert (
        (pool.groupby("patient").size() > 1).sum() > 2000
        and sides.max() == 1
        and set(part) == {"train", "val"}
    )


def test_a_whole_tree_of_kaggle_is_known_and_holds_the_67(second):
    files, kind, release, official = judge(second)
    assert count_images(second) == ChestXray.counts
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
        second, files, kind, release, official
    )


def test_the_67_names_are_those_that_were_found():
    marked = kaggle_only_mask(tabulate(name_tests()))
    names = sorted(name for name, one in zip(name_tests(), marked) if one)
    assert (
        marked.dtype == bool
        and marked.shape == (2394,)
        and sum(name.startswith("IM-") for name in names) == 7
    )
    assert (
        hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
        == DIGEST
    )
    assert {
        "IM-0022-0001.jpeg",
        "NORMAL2-IM-0173-0001-0002.jpeg",
        "NORMAL2-IM-0246-0001.jpeg",
    } < set(names)


def test_the_67_are_films_of_test_and_another_test_folder_has_none():
    names = [
        name
        for name, one in zip(name_tests(), kaggle_only_mask(tabulate(name_tests())))
        if one
    ]
    assert (
        not kaggle_only_mask(tabulate(names, "train/NORMAL")).any()
        and not kaggle_only_mask(tabulate(names, "test/PNEUMONIA")).any()
    )
    assert kaggle_only_mask(tabulate([*names[3:], "scan.jpeg"])).tolist() == [
        True
    ] * 64 + [False]  # a few could not be read
    assert not kaggle_only_mask(tabulate(names[:30])).any()  # as phantoms are named
    assert kaggle_only_mask(tabulate([])).shape == (0,)


def test_two_releases_in_one_folder_are_told(second, tmp_path):
    """Kaggle's train folder with the test folder of version 3: in number as it should be."""
    folder = lay_out(
        tmp_path / "chest_xray",
        name_kaggles()
        | {part: names for part, names in name_thirds().items() if "test" in part},
    )
    files, kind, release, official = judge(folder)
    assert (len(files), kind, release, official) == (
        5856,
        "chest-xray-pneumonia",
        MIXED,
        False,
    )
    told = describe_data(folder, files, kind, release, official)
    assert "may have two" in told and "Use one;" in told and "no published ones" in told


def test_a_part_of_a_release_is_named_but_not_official(third, tmp_path):
    folder = lay_out(
        tmp_path / "chest_xray",
        {part: names[:20] for part, names in name_thirds().items()},
    )
    files, kind, release, official = judge(folder)
    assert (release, official) == (MENDELEY, False)
    assert "version 3, but not in the official numbers" in describe_data(
        folder, files, kind, release, official
    )


@pytest.mark.parametrize("kind", ["phantom", "other"])
def test_other_data_are_of_no_release(second, kind):
    assert identify_release(list_images(second), kind) == "none"
