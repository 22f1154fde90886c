"""Listing folders and reading pictures: every file is read rightly or named."""

import math
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageOps


def halves(mode, dark, bright, size=(64, 48)):
    """A picture whose left half is dark and whose right half is bright."""
    picture = Image.new(mode, size, dark)
    picture.paste(bright, (size[0] // 2, 0, *size))
    return picture


def palette_picture():
    return halves("RGB", (50, 50, 50), (200, 200, 200)).convert("P", palette=Image.Palette.ADAPTIVE)


PICTURES = {
    "grey.jpeg": lambda: halves("L", 50, 200),
    "rgb.JPG": lambda: halves("RGB", (50, 50, 50), (200, 200, 200)),
    "cmyk.jpeg": lambda: halves("CMYK", (0, 0, 0, 205), (0, 0, 0, 55)),
    "grey.PNG": lambda: halves("L", 50, 200),
    "sixteen.png": lambda: Image.fromarray(np.repeat(np.array([[50 * 257] * 32 + [200 * 257] * 32], np.uint16), 48, 0)),
    "rgba.png": lambda: halves("RGBA", (50, 50, 50, 255), (200, 200, 200, 255)),
    "palette.png": palette_picture,
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_kind_of_picture_is_read_as_the_same_grey_levels(notebook, tmp_path, name):
    PICTURES[name]().save(tmp_path / name, quality=95)
    image, size = notebook.read_image(tmp_path / name, 32)
    assert image.shape == (32, 32) and image.dtype == np.uint8 and size == (64, 48)
    assert abs(image[:, :14].astype(int) - 50).max() <= 6
    assert abs(image[:, 18:].astype(int) - 200).max() <= 6


@pytest.mark.parametrize("name", PICTURES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(levels=npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)),
       turn=st.sampled_from([0, 1, 3, 6, 8]))
def test_any_small_picture_comes_out_as_the_right_array(notebook, tmp_path_factory, name, levels, turn):
    """Grey levels in any mode a file can have, turned as EXIF says: at its own size it is itself, at others its area means.

    JPEG is lossy, so a picture of one level stands for it there.
    """
    height, width = levels.shape
    if name.lower().endswith(("jpeg", "jpg")):
        levels = np.full_like(levels, levels[0, 0])
    size = math.lcm(height, width) if math.lcm(height, width) <= 120 else min(height, width)
    folder = tmp_path_factory.getbasetemp() / "small"
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    in_mode(name, levels).save(folder / name, quality=100, exif=exif)
    image, shape = notebook.read_image(folder / name, size)
    shown = {3: np.rot90(levels, 2), 6: np.rot90(levels, -1), 8: np.rot90(levels)}.get(turn, levels)
    assert shape == shown.shape[::-1] and image.shape == (size, size) and image.dtype == np.uint8
    if height == width or levels.min() == levels.max():
        expected = shown if height == width else np.full((size, size), levels[0, 0])
        assert abs(image.astype(int) - expected).max() <= (3 if levels.min() == levels.max() else 0)
    assert int(levels.min()) - 3 <= image.min() and image.max() <= int(levels.max()) + 3


def in_mode(name, levels):
    """The grey levels as a picture in the mode that the name of `PICTURES` says."""
    kind = name.split(".")[0]
    if kind == "sixteen":
        return Image.fromarray(levels.astype(np.uint16) * 257)
    if kind == "cmyk":
        nothing = np.zeros_like(levels)
        return Image.fromarray(np.dstack([nothing, nothing, nothing, 255 - levels]), "CMYK")
    if kind == "palette":
        picture = Image.fromarray(levels, "P")
        picture.putpalette([level for level in range(256) for _ in range(3)])
        return picture
    return Image.fromarray(levels).convert({"grey": "L", "rgb": "RGB", "rgba": "RGBA"}[kind])


@pytest.mark.parametrize("size", [64, 96, 150])
def test_reduced_decoding_is_exact_in_place_and_close_in_value(notebook, tmp_path, size):
    """A smooth wave, whose area means are known, at sizes where decoders round up by most of a pixel."""
    for width, height in ((1001, 777), (1289, 1153), (2 * size + 1, 2 * size + 1), (8 * size + 1, 9 * size - 1), (2003, 700)):
        across, down = np.linspace(0, 6, width), np.linspace(0, 4, height)
        picture = 128 + 60 * np.sin(across)[None] * np.cos(down)[:, None]
        Image.fromarray(picture.round().astype(np.uint8)).save(tmp_path / "wave.jpeg", quality=98)
        image, _ = notebook.read_image(tmp_path / "wave.jpeg", size)
        middle = (np.arange(size) + 0.5) / size
        expected = 128 + 60 * np.sin(6 * middle)[None] * np.cos(4 * middle)[:, None]
        assert abs(image - expected).mean() < 0.7, (width, height)


def test_transparent_pixels_are_black(notebook, tmp_path):
    halves("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)).save(tmp_path / "a.png")
    image, _ = notebook.read_image(tmp_path / "a.png", 32)
    assert image[:, :14].max() == 0 and image[:, 18:].min() == 255


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("length", [64, 700])
def test_exif_rotation_is_applied(notebook, tmp_path, turn, length):
    """At the size where a JPEG is decoded whole, and where the decoder reduces it (and rounds 701 / 8 up)."""
    ramp = np.add.outer(np.arange(length), 2 * np.arange(length + 1)) * 80 // length
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "a.jpeg", exif=exif, quality=98)
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpeg"))
    image, size = notebook.read_image(tmp_path / "a.jpeg", 32)
    assert size == shown.size
    assert abs(image.astype(int) - np.asarray(shown.resize((32, 32), Image.Resampling.BOX))).mean() < 2


def test_reduced_decoding_stays_within_two_grey_levels_of_full_decoding(notebook, phantoms):
    paths = sorted((phantoms / "chest_xray/train/PNEUMONIA").iterdir())[:25]
    for path in paths:
        full = cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (96, 96), interpolation=cv2.INTER_AREA)
        image, size = notebook.read_image(path, 96)
        assert abs(image.astype(int) - full).mean() < 2
        assert size == Image.open(path).size


BROKEN = {
    "empty.jpeg": lambda good: b"",
    "truncated.jpeg": lambda good: good[: len(good) // 2],
    "text.jpeg": lambda good: b"this is no picture",
    "page.jpeg": lambda good: b"<html>404</html>" * 100,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_a_reason(notebook, tmp_path, name):
    Image.effect_noise((300, 200), 50).save(tmp_path / "good.jpeg")
    (tmp_path / name).write_bytes(BROKEN[name]((tmp_path / "good.jpeg").read_bytes()))
    with pytest.raises((OSError, ValueError, SyntaxError), match=r"\w{4}"):
        notebook.read_image(tmp_path / name, 32)


def test_a_jpeg_with_bytes_after_its_end_is_still_read(notebook, tmp_path):
    Image.new("L", (40, 40), 100).save(tmp_path / "a.jpeg")
    with (tmp_path / "a.jpeg").open("ab") as file:
        file.write(b"trailer")
    assert abs(notebook.read_image(tmp_path / "a.jpeg", 32)[0].mean() - 100) < 2


def test_unreadable_files_are_listed_and_the_rest_keeps_its_order(notebook, tiny):
    files = notebook.list_images(tiny)
    train = files[files.split == "train"].reset_index(drop=True)
    (tiny / train.path[3]).write_bytes(b"")
    (tiny / train.path[20]).write_bytes((tiny / train.path[20]).read_bytes()[:5000])
    (tiny / train.path[21]).unlink()
    x, table, broken = notebook.load_split(tiny, train, 32, "train")
    assert broken.path.tolist() == train.path[[3, 20, 21]].tolist()
    assert ["empty" in broken.problem[3], "truncated" in broken.problem[20], "No such file" in broken.problem[21]] == [True] * 3
    assert len(x) == len(table) == len(train) - 3 and table.path.tolist() == train.path.drop([3, 20, 21]).tolist()
    for image, path, width in zip(x, table.path, table.width):
        expected, size = notebook.read_image(tiny / path, 32)
        assert np.array_equal(image[:, :, 0], expected) and width == size[0]
    notebook.check_unreadable(files, broken)


def test_too_many_unreadable_files_stop_the_run_with_the_first_name(notebook, tiny):
    paths = sorted((tiny / "train/PNEUMONIA").iterdir())
    for path in paths[:4]:
        path.write_bytes(b"junk")
    files = notebook.list_images(tiny)
    broken = notebook.load_split(tiny, files, 32, "test")[2]
    with pytest.raises(ValueError, match=f"4 of 36 files.*{paths[0].name}"):
        notebook.check_unreadable(files, broken)
    many = pd.concat([files] * 40, ignore_index=True).assign(path=lambda table: [f"{n} {path}" for n, path in enumerate(table.path)])
    lost = pd.DataFrame({"path": many.path[:15], "problem": "the file is empty"})
    with pytest.raises(ValueError, match="15 of 1440"):
        notebook.check_unreadable(many, lost)
    notebook.check_unreadable(many, lost[:14])  # 1 % of them is 14.4


def test_files_that_are_hidden_do_not_count_and_others_are_never_dropped(notebook, tiny):
    before = len(notebook.list_images(tiny))
    (tiny / "train/NORMAL/.DS_Store").write_bytes(b"x")
    (tiny / "train/NORMAL/._IM-0001-0001.jpeg").write_bytes(b"x")
    (tiny / "train/NORMAL/notes.txt").write_bytes(b"x")
    files = notebook.list_images(tiny)
    assert len(files) == before + 1 and "train/NORMAL/notes.txt" in set(files.path)


def test_a_folder_that_is_missing_or_empty_is_named(notebook, tiny):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        notebook.list_images(tiny / "nowhere")
    for path in (tiny / "test/NORMAL").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"test/NORMAL is empty"):
        notebook.list_images(tiny)
    (tiny / "test/NORMAL").rmdir()
    with pytest.raises(FileNotFoundError, match=r"lacks the folder .*test/NORMAL"):
        notebook.list_images(tiny)


def test_a_missing_val_folder_is_told_and_accepted(notebook, tiny, capsys):
    shutil.rmtree(tiny / "val")
    assert set(notebook.list_images(tiny).split) == {"train", "test"}
    assert "no val folder" in capsys.readouterr().out


def test_one_image_a_class_is_too_little_and_said_so(notebook, tiny):
    files = notebook.list_images(tiny)
    one_each = files.groupby(["split", "label"]).head(1)
    one_each = one_each[one_each.split != "val"]
    with pytest.raises(ValueError, match="1 NORMAL image"):
        notebook.check_patients(one_each)


@pytest.mark.parametrize(("name", "label", "expected"), [
    ("IM-0115-0001.jpeg", 0, ("IM-115", "normal", True)),
    ("NORMAL2-IM-0383-0001-0002.jpeg", 0, ("IM-383", "normal", True)),
    ("person1_bacteria_2.jpeg", 1, ("person1", "bacterial", True)),
    ("person1000_virus_1681.jpeg", 1, ("person1000", "viral", True)),
    ("scan7.png", 1, ("pneumonia scan7.png", "unknown", False)),
])
def test_file_names_give_patient_and_finding(notebook, name, label, expected):
    assert notebook.parse_name(name, label) == expected


def test_the_kind_of_data_is_read_from_the_files(notebook, tiny):
    assert notebook.identify_data(tiny, notebook.list_images(tiny)) == "phantom"
    for path in tiny.rglob("*.jpeg"):
        Image.new("L", (40, 40), 100).save(path)
    assert notebook.identify_data(tiny, notebook.list_images(tiny)) == "chest-xray-pneumonia"
    for number, path in enumerate(sorted(tiny.rglob("*.jpeg"))):
        path.rename(path.with_name(f"scan{number}.jpeg"))
    assert notebook.identify_data(tiny, notebook.list_images(tiny)) == "other"


def test_a_folder_one_too_high_is_told_apart(notebook, tiny):
    with pytest.raises(FileNotFoundError, match="one folder too high"):
        notebook.list_images(tiny.parent)


def test_pictures_of_one_size_only_can_be_plotted(notebook, tiny):
    files = notebook.list_images(tiny)
    figure = notebook.plot_shapes(files.assign(width=224, height=224), "all of one size")
    assert figure.get_suptitle() == "all of one size"
    notebook.plt.close(figure)


def test_a_truncated_jpeg_is_found_even_where_opencv_says_nothing(notebook, tmp_path, monkeypatch):
    """OpenCV 4 fills the missing part with grey and reports no error; OpenCV 5 gives nothing back."""
    Image.effect_noise((300, 200), 50).save(tmp_path / "a.jpeg")
    (tmp_path / "a.jpeg").write_bytes((tmp_path / "a.jpeg").read_bytes()[:-400])
    monkeypatch.setattr(cv2, "imdecode", lambda data, flag: np.full((200, 300), 128, np.uint8))
    with pytest.raises(OSError, match="truncated"):
        notebook.read_image(tmp_path / "a.jpeg", 32)
