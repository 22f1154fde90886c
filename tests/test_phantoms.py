"""Phantoms: the same seed draws the same bytes, and the folder looks like the real set."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr.dataset import list_images
from cxr.phantoms import Phantom, write_phantoms


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny, tmp_path):
    write_phantoms(tmp_path / "again", 24, 4, 8, seed=2)
    write_phantoms(tmp_path / "other", 24, 4, 8, seed=3)
    assert contents(tiny) == contents(tmp_path / "again")
    assert not set(contents(tiny).values()) & set(contents(tmp_path / "other").values())


def test_layout_names_and_sizes_are_those_of_the_real_set(phantoms):
    files = list_images(phantoms / "chest_xray")
    assert files.known.all()
    assert files.groupby("folder").size().to_dict() == {
        "train": 420,
        "val": 16,
        "test": 160,
    }
    assert {
        re.match(r"[A-Z2]+-?[IM]*|person", path.split("/")[-1])[0]
        for path in files.path
    } == {"IM-", "NORMAL2-IM", "person"}
    assert files.groupby("patient").size().max() > 1
    assert not set(files.patient[files.folder == "train"]) & set(
        files.patient[files.folder == "test"]
    )
    sizes = np.array(
        [Image.open(phantoms / "chest_xray" / path).size for path in files.path]
    )
    assert (
        sizes[:, 0].min() >= 384
        and sizes[:, 0].max() <= 2916
        and sizes[:, 1].min() >= 127
        and sizes[:, 1].max() <= 2713
    )
    assert sizes[:, 0].std() > 200


def test_masks_show_disease_where_there_is_some(phantoms):
    for path in sorted((phantoms / "masks/test").rglob("*.png"))[::4]:
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        image = cv2.imread(
            str(
                (
                    phantoms
                    / "chest_xray/test"
                    / path.relative_to(phantoms / "masks/test")
                ).with_suffix(".jpeg")
            ),
            0,
        )
        assert mask.shape == image.shape
        assert mask.any() == ("PNEUMONIA" in path.parts)


def test_every_phantom_carries_its_mark(phantoms):
    for path in sorted((phantoms / "chest_xray").rglob("*.jpeg"))[::10]:
        assert Phantom.mark in path.read_bytes()[:100]
        assert Image.open(path).info["comment"] == Phantom.mark


def test_a_folder_that_exists_is_not_touched(tiny):
    before = contents(tiny)
    with pytest.raises(FileExistsError, match="exists already"):
        write_phantoms(tiny, 4, 2, 2)
    assert contents(tiny) == before


def test_an_interrupted_drawing_leaves_no_folder_that_looks_whole(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "cv2.imencode", lambda *_: (_ for _ in ()).throw(OSError("no space left"))
    )
    with pytest.raises(OSError, match="no space"):
        write_phantoms(tmp_path / "chest_xray", 4, 2, 2)
    assert not (tmp_path / "chest_xray").exists()


def test_the_command_draws_the_same_as_the_function(tiny, tmp_path):
    numbers = ["--train=24", "--val=4", "--test=8", "--seed=2"]
    command = [
        sys.executable,
        "-m",
        "cxr.phantoms",
        tmp_path / "new/chest_xray",
        *numbers,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (
        done.returncode == 0
        and "36 phantom radiographs, which show no patient" in done.stdout
    )
    assert contents(tmp_path / "new/chest_xray") == contents(tiny)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (
        again.returncode != 0
        and "exists already" in again.stderr
        and "Traceback" not in again.stderr
    )
    masked = [*command[:3], tmp_path / "third", *numbers, "--masks", tmp_path / "masks"]
    assert subprocess.run(masked, capture_output=True, check=False).returncode == 0
    assert contents(tmp_path / "third") == contents(tiny)
    names = {path.with_suffix("") for path in contents(tmp_path / "third")}
    assert {path.with_suffix("") for path in contents(tmp_path / "masks")} == names
    refused = subprocess.run(
        [*command[:3], tmp_path / "none", "--train=-1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        refused.returncode == 2
        and "0 or more" in refused.stderr
        and not (tmp_path / "none").exists()
    )


@pytest.mark.parametrize("module", ["cxr.phantoms", "cxr.download"])
def test_the_commands_say_how_to_use_them_at_once(tmp_path, module):
    """That is, without importing what takes seconds; also where the user stands in another folder."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (
        told.returncode == 0
        and told.stdout.startswith("usage: ")
        and not list(tmp_path.iterdir())
    )
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert {"argparse", "cxr", "tqdm"} <= imported
    assert (
        not {
            "keras",
            "tensorflow",
            "pandas",
            "matplotlib",
            "sklearn",
            "scipy",
            "pydantic",
        }
        & imported
    )
