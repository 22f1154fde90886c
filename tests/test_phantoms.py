"""Phantoms: the same seed draws the same bytes, and the folder looks like the real set."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(notebook, tiny, tmp_path):
    notebook.write_phantoms(tmp_path / "again", 24, 4, 8, seed=2)
    notebook.write_phantoms(tmp_path / "other", 24, 4, 8, seed=3)
    assert contents(tiny) == contents(tmp_path / "again")
    assert not set(contents(tiny).values()) & set(contents(tmp_path / "other").values())


def test_layout_names_and_sizes_are_those_of_the_real_set(notebook, phantoms):
    files = notebook.list_images(phantoms / "chest_xray")
    assert files.known.all()
    assert files.groupby("split").size().to_dict() == {"train": 420, "val": 16, "test": 160}
    assert {re.match(r"[A-Z2]+-?[IM]*|person", path.split("/")[-1])[0] for path in files.path} == {"IM-", "NORMAL2-IM", "person"}
    assert files.groupby("patient").size().max() > 1
    assert not set(files.patient[files.split == "train"]) & set(files.patient[files.split == "test"])
    sizes = np.array([Image.open(phantoms / "chest_xray" / path).size for path in files.path])
    assert sizes[:, 0].min() >= 384 and sizes[:, 0].max() <= 2916 and sizes[:, 1].min() >= 127 and sizes[:, 1].max() <= 2713
    assert sizes[:, 0].std() > 200


def test_masks_show_disease_where_there_is_some(phantoms):
    for path in sorted((phantoms / "masks/test").rglob("*.png"))[::4]:
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        image = cv2.imread(str((phantoms / "chest_xray/test" / path.relative_to(phantoms / "masks/test")).with_suffix(".jpeg")), 0)
        assert mask.shape == image.shape
        assert mask.any() == ("PNEUMONIA" in path.parts)


def test_every_phantom_carries_its_mark(notebook, phantoms):
    for path in sorted((phantoms / "chest_xray").rglob("*.jpeg"))[::10]:
        assert notebook.Phantom.mark in path.read_bytes()[:100]
        assert Image.open(path).info["comment"] == notebook.Phantom.mark


def test_a_folder_that_exists_is_not_touched(notebook, tiny):
    before = contents(tiny)
    with pytest.raises(FileExistsError, match="exists already"):
        notebook.write_phantoms(tiny, 4, 2, 2)
    assert contents(tiny) == before


def test_an_interrupted_drawing_leaves_no_folder_that_looks_whole(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr("cv2.imencode", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        notebook.write_phantoms(tmp_path / "chest_xray", 4, 2, 2)
    assert not (tmp_path / "chest_xray").exists()


def test_the_command_draws_the_same_as_the_notebook(tiny, tmp_path):
    command = [sys.executable, ROOT / "data/make_phantoms.py", tmp_path / "new/chest_xray", "--train=24", "--val=4", "--test=8", "--seed=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "show no patient" in done.stdout
    assert contents(tmp_path / "new/chest_xray") == contents(tiny)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode != 0 and "exists already" in again.stderr and "Traceback" not in again.stderr
