"""Which images belong together, by patient and by content, and on which side of a split they go."""

import hashlib

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold


def find_duplicates(x, files: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return (digests, groups): a digest of each image, and a table of the groups with identical pixels."""
    table = files.assign(
        digest=[
            hashlib.blake2b(
                np.ascontiguousarray(image).data, digest_size=16
            ).hexdigest()
            for image in x
        ]
    )
    groups = table.groupby("digest").agg(
        images=("path", "size"),
        patients=("patient", "nunique"),
        labels=("label", "nunique"),
        folders=("folder", "nunique"),
        first=("path", "first"),
    )
    return table.digest.to_numpy(), groups[groups.images > 1].sort_values(
        "first"
    ).reset_index(drop=True)


def group_patients(patients, digests) -> np.ndarray:
    """Return a group number for each image: one for a patient's images, and for patients that share an image."""
    patient = np.unique(patients, return_inverse=True)[1]
    digest = np.unique(digests, return_inverse=True)[1] + patient.max() + 1
    nodes = digest.max() + 1
    edges = coo_array((np.ones(len(patient)), (patient, digest)), (nodes, nodes))
    return connected_components(edges, directed=False)[1][patient]


def count_groups(labels: np.ndarray, groups: np.ndarray) -> int:
    """Return the number of groups (see `group_patients`) in the class that has fewer of them; labels and groups are (n,).

    Raises ValueError if that is 1: nothing can be learned from some of the patients and validated on others.
    """
    labels, fewest = np.asarray(labels), len(groups)
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        own = groups[labels == label]
        count = len(np.unique(own))
        if count < 2:
            raise ValueError(
                f"The {len(own):,} {name} images of train and val belong to {count} group of patients (patients who share "
                "identical images count as one group), and at least 2 groups a class are needed, one to learn from and one "
                f"to validate on. Add other images to train/{name}."
            )
        fewest = min(fewest, count)
    return fewest


def split_by_patient(
    files: pd.DataFrame, groups: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """Return "train" or "val" for each row of `files`, with about `share` of the images held out, stratified by finding.

    No group of `groups` is on both sides. Raises ValueError if either side would lack a class.
    """
    fewest = count_groups(files.label, groups)
    splitter = StratifiedGroupKFold(
        max(2, min(round(1 / share), fewest)), shuffle=True, random_state=seed
    )
    for _, held_out in splitter.split(
        files, files.finding if fewest >= 10 else files.label, groups
    ):
        part = np.where(np.isin(np.arange(len(files)), held_out), "val", "train")
        if files.label.groupby(part).nunique().min() == 2:
            return part
    raise ValueError(
        "No split by patient leaves images of both classes on both sides: there are too few patients (add images), or "
        "SPLIT_SEED is unlucky (change it in the settings cell)."
    )


def count_leaked(groups: np.ndarray, held_out: np.ndarray) -> int:
    """Return how many held-out images belong to a group that is also in the rest."""
    return int(np.isin(groups[held_out], groups[~held_out]).sum())
