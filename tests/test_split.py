"""Images are grouped by patient and content; no patient is on both sides of a split."""

import shutil

import numpy as np
import pandas as pd
import pytest

from cxr.dataset import list_images
from cxr.images import load_split
from cxr.split import count_leaked, find_duplicates, group_patients, split_by_patient


def test_the_split_shares_no_patient_and_keeps_the_proportions(few_phantoms):
    files = list_images(few_phantoms / "chest_xray")
    files = files[files.folder != "test"].reset_index(drop=True)
    groups = pd.factorize(files.patient)[0]
    split = split_by_patient(files, groups, 0.15, seed=0)
    is_val = split == "val"
    assert not set(files.patient[is_val]) & set(files.patient[~is_val])
    assert is_val.mean() == pytest.approx(0.15, abs=0.04)
    for finding in ("normal", "bacterial", "viral"):
        fraction = (files.finding == finding).mean()
        val_fraction = (files.finding[is_val] == finding).mean()
        assert val_fraction == pytest.approx(fraction, abs=0.05)
    assert np.array_equal(split, split_by_patient(files, groups, 0.15, seed=0))
    assert not np.array_equal(split, split_by_patient(files, groups, 0.15, seed=1))


def make_files(*labels):
    """Return a table of images with these labels."""
    findings = [("normal", "viral")[label] for label in labels]
    return pd.DataFrame({"label": labels, "finding": findings})


@pytest.mark.parametrize("seed", range(10))
def test_few_patients_are_stratified_by_class_not_by_finding(seed):
    """Of three patients per class one is held out, although one finding has only one.

    Stratified by finding, some seeds would hold out the only bacterial patient too.
    """
    files = make_files(0, 0, 0, 1, 1, 1)
    files["finding"] = ["normal"] * 3 + ["bacterial", "viral", "viral"]
    is_val = split_by_patient(files, np.arange(6), 0.15, seed) == "val"
    assert is_val[:3].sum() == is_val[3:].sum() == 1


def test_the_images_of_a_patient_stay_together_in_a_small_set():
    """Three patients per class, those with pneumonia with two images each."""
    files = make_files(1, 1, 1, 1, 1, 1, 0, 0, 0)
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 4, 5])
    is_val = split_by_patient(files, groups, 0.1, seed=0) == "val"
    assert is_val[:6].sum() == 2
    assert is_val[6:].sum() == 1
    assert (is_val[:6:2] == is_val[1:6:2]).all()


@pytest.mark.parametrize("validation_fraction", [0.02, 0.15, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_two_patients_per_class_leave_no_part_of_the_split_empty(
    seed, validation_fraction
):
    files = make_files(0, 0, 1, 1)
    split = split_by_patient(files, np.arange(4), validation_fraction, seed)
    assert sorted(split[:2]) == sorted(split[2:]) == ["train", "val"]


def test_a_class_with_one_patient_cannot_be_on_both_sides():
    message = (
        r"The 2 NORMAL images .* belong to 1 group of patients .*"
        "Add other images to train/NORMAL"
    )
    with pytest.raises(ValueError, match=message):
        split_by_patient(
            make_files(1, 1, 1, 0, 0), np.array([0, 1, 2, 3, 3]), 0.2, seed=0
        )


def test_groups_with_images_of_both_classes_can_be_split():
    files = make_files(0, 0, 0, 1, 1, 1)
    groups = np.array([0, 0, 1, 0, 0, 1])
    assert set(split_by_patient(files, groups, 0.5, seed=0)) == {"train", "val"}


def test_groups_that_the_classes_share_may_allow_no_split():
    """Each class has two groups, one of them in common: some splits lack a class."""
    files = make_files(0, 1, 0, 1)
    for seed in range(5):
        try:
            split = split_by_patient(files, np.array([0, 0, 1, 2]), 0.5, seed=seed)
        except ValueError as error:
            assert "No split by patient has images of both classes" in str(error)
        else:
            assert files.label.groupby(split).nunique().min() == 2


def test_one_image_under_all_names_of_a_class_is_one_group(tiny):
    """By name these files have many patients, by content one."""
    normal = sorted(tiny.glob("train/NORMAL/*")) + sorted(tiny.glob("val/NORMAL/*"))
    for path in normal[1:]:
        shutil.copy(normal[0], path)
    files = list_images(tiny)
    x, files, _ = load_split(tiny, files[files.folder != "test"], 32, "Loading")
    assert files[files.label == 0].patient.nunique() > 2
    groups = group_patients(files.patient, find_duplicates(x, files)[0])
    message = rf"The {len(normal)} NORMAL images .* 1 group of patients \(patients who "
    with pytest.raises(ValueError, match=f"{message}share identical images"):
        split_by_patient(files, groups, 0.2, seed=0)


def test_patients_that_share_an_image_stay_together():
    groups = group_patients(["a", "a", "b", "c", "d"], ["1", "2", "2", "3", "4"])
    assert groups[0] == groups[1] == groups[2]
    assert len({groups[0], groups[3], groups[4]}) == 3


def test_leaks_are_counted():
    groups = np.array([0, 0, 1, 1, 2])
    is_val = np.array([True, False, True, True, False])
    assert count_leaked(groups, is_val) == 1


def test_duplicates_are_found_with_their_contradictions():
    x = np.zeros((4, 8, 8, 1), np.uint8)
    x[2:] = 7
    files = pd.DataFrame(
        {
            "path": ["a", "b", "c", "d"],
            "patient": ["p", "p", "q", "r"],
            "label": [0, 0, 0, 1],
            "folder": ["train", "test", "train", "train"],
        }
    )
    hashes, groups = find_duplicates(x, files)
    assert groups[["images", "patients", "labels", "folders"]].to_numpy().tolist() == [
        [2, 1, 1, 2],
        [2, 2, 2, 1],
    ]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]
    assert len(find_duplicates(x[1:3], files[1:3])[1]) == 0
