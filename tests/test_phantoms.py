"""Phantoms are reproducible, and their folder looks like the real set."""

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
    write_phantoms(tmp_path / "other", 6, 2, 2, seed=3)
    assert contents(tiny) == contents(tmp_path / "again")
    assert not set(contents(tiny).values()) & set(contents(tmp_path / "other").values())


def test_layout_names_and_sizes_are_those_of_the_real_set(few_phantoms):
    files = list_images(few_phantoms / "chest_xray")
    assert files.known.all()
    assert files.groupby("folder").size().to_dict() == {
        "train": 180,
        "val": 16,
        "test": 60,
    }
    names = [path.split("/")[-1] for path in files.path]
    series = {re.match(r"[A-Z2]+-?[IM]*|person", name)[0] for name in names}
    assert series == {"IM-", "NORMAL2-IM", "person"}
    assert files.groupby("patient").size().max() > 1
    train_patients = set(files.patient[files.folder == "train"])
    assert not train_patients & set(files.patient[files.folder == "test"])
    sizes = [Image.open(few_phantoms / "chest_xray" / path).size for path in files.path]
    widths, heights = np.transpose(sizes)
    assert widths.min() >= 384 and widths.max() <= 2916
    assert heights.min() >= 127 and heights.max() <= 2713
    assert widths.std() > 200


def test_masks_show_disease_where_there_is_some(few_phantoms):
    for path in sorted((few_phantoms / "masks/test").rglob("*.png"))[::4]:
        image_path = (
            few_phantoms / "chest_xray" / path.relative_to(few_phantoms / "masks")
        )
        image = cv2.imread(str(image_path.with_suffix(".jpeg")), cv2.IMREAD_GRAYSCALE)
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == image.shape
        assert mask.any() == ("PNEUMONIA" in path.parts)


def test_every_phantom_carries_its_mark(few_phantoms):
    for path in sorted((few_phantoms / "chest_xray").rglob("*.jpeg"))[::10]:
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
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("cv2.imencode", fail)
    with pytest.raises(OSError, match="no space"):
        write_phantoms(tmp_path / "chest_xray", 4, 2, 2)
    assert not (tmp_path / "chest_xray").exists()


def test_the_command_draws_the_same_as_the_function(tiny, tmp_path):
    def run(folder, *options):
        command = [sys.executable, "-m", "cxr.phantoms", folder, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    numbers = ["--train=24", "--val=4", "--test=8", "--seed=2"]
    folder = tmp_path / "new/chest_xray"
    masks = tmp_path / "masks"
    done = run(folder, *numbers, "--masks", masks)
    assert done.returncode == 0
    assert "36 phantom radiographs, which show no patient" in done.stdout
    assert contents(folder) == contents(tiny)
    names = {path.with_suffix("") for path in contents(folder)}
    assert {path.with_suffix("") for path in contents(masks)} == names
    again = run(folder, *numbers)
    assert again.returncode != 0
    assert "exists already" in again.stderr and "Traceback" not in again.stderr


def test_the_command_refuses_negative_numbers(tmp_path):
    command = [sys.executable, "-m", "cxr.phantoms", tmp_path / "new", "--train=-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "0 or more" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("module", ["cxr.phantoms", "cxr.download"])
def test_the_commands_print_their_usage_at_once(tmp_path, module):
    """Without importing what takes seconds, and from any folder."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (
        done.returncode == 0
        and done.stdout.startswith("usage: ")
        and not list(tmp_path.iterdir())
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
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
