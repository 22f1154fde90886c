"""Grouping images by patient and content, and splitting them by group."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from cxr.labels import CLASS_NAMES


def find_duplicates(
    images: Iterable[np.ndarray], files: pd.DataFrame
) -> tuple[np.ndarray, pd.DataFrame]:
    """Find images with identical pixels.

    Parameters
    ----------
    images : iterable of n arrays
    files : DataFrame with n rows
        Their columns path, patient, label and folder are used.

    Returns
    -------
    hashes : array of n str
        A hash of the pixels of each image.
    groups : DataFrame
        One row for each group of identical images: how many images, patients, labels
        and folders it has, and the path of its first image.
    """
    hashes = [
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest()
        for image in images
    ]
    table = files.assign(hash=hashes)
    groups = table.groupby("hash").agg(
        images=("path", "size"),
        patients=("patient", "nunique"),
        labels=("label", "nunique"),
        folders=("folder", "nunique"),
        first=("path", "first"),
    )
    duplicates = groups[groups.images > 1].sort_values("first").reset_index(drop=True)
    return table.hash.to_numpy(), duplicates


def group_patients(
    patients: Sequence[str] | pd.Series, hashes: Sequence[str] | np.ndarray
) -> np.ndarray:
    """Number the groups of images that must stay on one side of a split.

    Images of one patient form a group, and so do patients who share an identical image.

    Parameters
    ----------
    patients, hashes : sequences of n str
        Patient and pixel hash (see `find_duplicates`) of each image.

    Returns
    -------
    int array (n,)
    """
    # A graph with patients and hashes as nodes, and an edge for each image.
    patient_nodes = np.unique(patients, return_inverse=True)[1]
    hash_nodes = np.unique(hashes, return_inverse=True)[1] + patient_nodes.max() + 1
    count = hash_nodes.max() + 1
    edges = (np.ones(len(patient_nodes)), (patient_nodes, hash_nodes))
    graph = coo_array(edges, (count, count))
    return connected_components(graph, directed=False)[1][patient_nodes]


def count_groups(labels: np.ndarray, groups: np.ndarray) -> int:
    """Return the number of groups in the class that has fewer of them.

    Parameters
    ----------
    labels, groups : int arrays (n,)
        Class and group (see `group_patients`) of each image.

    Raises
    ------
    ValueError
        If a class has less than two groups: a class with one group of patients cannot
        be both trained on and validated on.
    """
    labels = np.asarray(labels)
    fewest = len(groups)
    for label, name in enumerate(CLASS_NAMES):
        class_groups = groups[labels == label]
        count = len(np.unique(class_groups))
        if count < 2:
            raise ValueError(
                f"The {len(class_groups):,} {name} images of train and val belong to "
                f"{count} group of patients (patients who share identical images count "
                "as one group). At least 2 groups per class are needed, one to train "
                f"on and one to validate on. Add other images to train/{name}."
            )
        fewest = min(fewest, count)
    return fewest


def split_by_patient(
    files: pd.DataFrame, groups: np.ndarray, validation_fraction: float, seed: int
) -> np.ndarray:
    """Split images into "train" and "val", so that no group is on both sides.

    Parameters
    ----------
    files : DataFrame with n rows
        Its columns label and finding are used: the split is stratified by finding.
    groups : int array (n,)
        Group of each image, see `group_patients`.
    validation_fraction : float
        Approximate fraction of the images in "val".
    seed : int

    Returns
    -------
    array of n str, "train" or "val"

    Raises
    ------
    ValueError
        If there is no split with both classes on both sides.
    """
    fewest = count_groups(files.label.to_numpy(), groups)
    # One fold is the validation set. There cannot be more folds than groups.
    folds = max(2, min(round(1 / validation_fraction), fewest))
    strata = files.finding if fewest >= 10 else files.label
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for _, val_rows in splitter.split(files, strata, groups):
        is_val = np.isin(np.arange(len(files)), val_rows)
        split = np.where(is_val, "val", "train")
        if files.label.groupby(split).nunique().min() == 2:
            return split
    raise ValueError(
        "No split by patient has images of both classes in training and validation: "
        "add images of more patients, or change SPLIT_SEED in the settings cell."
    )


def count_leaked(groups: np.ndarray, is_val: np.ndarray) -> int:
    """Return how many validation images belong to a group that is also in training."""
    return int(np.isin(groups[is_val], groups[~is_val]).sum())
