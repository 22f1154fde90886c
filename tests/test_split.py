"""Which images belong together, and that no patient is on both sides of a split."""

import shutil

import numpy as np
import pandas as pd
import pytest

from cxr.dataset import list_images
from cxr.images import load_split
from cxr.split import count_leaked, find_duplicates, group_patients, split_by_patient


def test_the_split_shares_no_patient_and_keeps_the_proportions(phantoms):
    files = list_images(phantoms / "chest_xray")
    files = files[files.folder != "test"].reset_index(drop=True)
    groups = pd.factorize(files.patient)[0]
    part = split_by_patient(files, groups, 0.15, seed=0)
    held_out = part == "val"
    assert not set(files.patient[held_out]) & set(files.patient[~held_out])
    assert held_out.mean() == pytest.approx(0.15, abs=0.04)
    for finding in ("normal", "bacterial", "viral"):
        assert (files.finding[held_out] == finding).mean() == pytest.approx(
            (files.finding == finding).mean(), abs=0.05
        )
    assert np.array_equal(part, split_by_patient(files, groups, 0.15, seed=0))
    assert not np.array_equal(part, split_by_patient(files, groups, 0.15, seed=1))


def make_files(*labels):
    """A table of images, each of a patient of its own, with these labels."""
    return pd.DataFrame(
        {"label": labels, "finding": [("normal", "viral")[label] for label in labels]}
    )


@pytest.mark.parametrize("seed", range(10))
def test_few_patients_are_split_by_class_whatever_their_finding(seed):
    """Of three sick and three healthy patients one each is held out; by finding, the only bacterial one would sometimes come along."""
    files = make_files(0, 0, 0, 1, 1, 1).assign(
        finding=["normal"] * 3 + ["bacterial", "viral", "viral"]
    )
    held_out = split_by_patient(files, np.arange(6), 0.15, seed) == "val"
    assert held_out[:3].sum() == held_out[3:].sum() == 1


def test_a_patient_of_few_keeps_his_images_together():
    """Three sick patients with two images each, and three healthy ones: a third of each class is held out."""
    files = make_files(1, 1, 1, 1, 1, 1, 0, 0, 0)
    held_out = (
        split_by_patient(files, np.array([0, 0, 1, 1, 2, 2, 3, 4, 5]), 0.1, seed=0)
        == "val"
    )
    assert (
        held_out[:6].sum() == 2
        and held_out[6:].sum() == 1
        and (held_out[:6:2] == held_out[1:6:2]).all()
    )


def test_a_class_with_one_patient_cannot_be_on_both_sides():
    with pytest.raises(
        ValueError,
        match=r"The 2 NORMAL images .* belong to 1 group of patients .* Add other images to train/NORMAL",
    ):
        split_by_patient(
            make_files(1, 1, 1, 0, 0), np.array([0, 1, 2, 3, 3]), 0.2, seed=0
        )


def test_groups_that_are_shared_by_the_classes_may_leave_no_split():
    """Two sick and two healthy groups, one of them the same: whichever side it is on, the other side lacks a class."""
    files, groups = make_files(0, 0, 0, 1, 1, 1), np.array([0, 0, 1, 0, 0, 1])
    assert set(split_by_patient(files, groups, 0.5, seed=0)) == {
        "train",
        "val",
    }  # each group has both classes
    lopsided = make_files(0, 1, 0, 1), np.array([0, 0, 1, 2])
    for seed in range(5):
        try:
            part = split_by_patient(*lopsided, 0.5, seed=seed)
        except ValueError as error:
            assert (
                "No split by patient leaves images of both classes on both sides: there are too few"
                in str(error)
            )
        else:
            assert lopsided[0].label.groupby(part).nunique().min() == 2


def test_one_picture_under_all_names_of_a_class_is_one_group(tiny):
    """Its files have many patients by name, and one by content."""
    normal = sorted(tiny.glob("train/NORMAL/*")) + sorted(tiny.glob("val/NORMAL/*"))
    for path in normal[1:]:
        shutil.copy(normal[0], path)
    files = list_images(tiny)
    x, files, _ = load_split(tiny, files[files.folder != "test"], 32, "Loading")
    assert files[files.label == 0].patient.nunique() > 2
    groups = group_patients(files.patient, find_duplicates(x, files)[0])
    with pytest.raises(
        ValueError,
        match=rf"The {len(normal)} NORMAL images .* 1 group of patients \(patients who share identical images",
    ):
        split_by_patient(files, groups, 0.2, seed=0)


def test_patients_that_share_an_image_stay_together():
    groups = group_patients(["a", "a", "b", "c", "d"], ["1", "2", "2", "3", "4"])
    assert (
        groups[0] == groups[1] == groups[2]
        and len({groups[0], groups[3], groups[4]}) == 3
    )


def test_leaks_are_counted():
    groups, held_out = (
        np.array([0, 0, 1, 1, 2]),
        np.array([True, False, True, True, False]),
    )
    assert count_leaked(groups, held_out) == 1


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
    digests, groups = find_duplicates(x, files)
    assert groups[["images", "patients", "labels", "folders"]].to_numpy().tolist() == [
        [2, 1, 1, 2],
        [2, 2, 2, 1],
    ]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    assert len(find_duplicates(x[1:3], files[1:3])[1]) == 0
