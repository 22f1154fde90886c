"""Images are read correctly or refused with a reason; caches are never stale."""

import io
import itertools
import json
import math
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageOps

from cxr import images
from cxr.confounders import shortcut_features
from cxr.dataset import check_unreadable, list_images
from cxr.images import (
    cache_key,
    capture_decoder_messages,
    compact_readable,
    describe_arrays,
    first_readable_image,
    format_read_error,
    load_split,
    read_image,
    read_image_strict,
)


def two_halves(mode, dark, bright, size=(64, 48)):
    """Return an image whose left half is dark and whose right half is bright."""
    image = Image.new(mode, size, dark)
    image.paste(bright, (size[0] // 2, 0, *size))
    return image


def palette_image():
    return two_halves("RGB", (50, 50, 50), (200, 200, 200)).convert(
        "P", palette=Image.Palette.ADAPTIVE
    )


IMAGES = {
    "gray.jpeg": lambda: two_halves("L", 50, 200),
    "rgb.JPG": lambda: two_halves("RGB", (50, 50, 50), (200, 200, 200)),
    "cmyk.jpeg": lambda: two_halves("CMYK", (0, 0, 0, 205), (0, 0, 0, 55)),
    "gray.PNG": lambda: two_halves("L", 50, 200),
    "sixteen.png": lambda: Image.fromarray(
        np.repeat(np.array([[50 * 257] * 32 + [200 * 257] * 32], np.uint16), 48, 0)
    ),
    "rgba.png": lambda: two_halves("RGBA", (50, 50, 50, 255), (200, 200, 200, 255)),
    "palette.png": palette_image,
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_format_is_read_as_the_same_gray_levels(tmp_path, name):
    IMAGES[name]().save(tmp_path / name, quality=95)
    image, about = read_image(tmp_path / name, 32)
    assert image.shape == (32, 32) and image.dtype == np.uint8
    color = name.split(".")[0] not in ("gray", "sixteen")
    assert about == (64, 48, (tmp_path / name).stat().st_size, color)
    assert abs(image[:, :14].astype(int) - 50).max() <= 6
    assert abs(image[:, 18:].astype(int) - 200).max() <= 6


@pytest.mark.parametrize("name", IMAGES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    levels=npst.arrays(
        np.uint8, npst.array_shapes(min_dims=2, max_dims=2, min_side=16, max_side=32)
    ),
    turn=st.sampled_from([0, 1, 3, 6, 8]),
)
def test_any_small_image_is_read_as_the_right_array(
    tmp_path_factory, name, levels, turn
):
    """Any gray levels, in any mode and EXIF rotation of a file.

    At its own size an image is unchanged, at others it has the means of its areas.
    JPEG is lossy, so those images have a single level.
    """
    height, width = levels.shape
    if name.startswith("sixteen"):
        levels[0, 0] = 255  # dark pixels alone would be those of fewer bits
    if name.lower().endswith(("jpeg", "jpg")):
        levels = np.full_like(levels, levels[0, 0])
    size = (
        math.lcm(height, width)
        if math.lcm(height, width) <= 120
        else min(height, width)
    )
    folder = tmp_path_factory.getbasetemp() / "small"
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    in_mode(name, levels).save(folder / name, quality=100, exif=exif)
    image, about = read_image(folder / name, size)
    shown = {3: np.rot90(levels, 2), 6: np.rot90(levels, -1), 8: np.rot90(levels)}.get(
        turn, levels
    )
    assert (
        about[:2] == shown.shape[::-1]
        and image.shape == (size, size)
        and image.dtype == np.uint8
    )
    if height == width or levels.min() == levels.max():
        expected = shown if height == width else np.full((size, size), levels[0, 0])
        assert abs(image.astype(int) - expected).max() <= (
            3 if levels.min() == levels.max() else 0
        )
    assert int(levels.min()) - 3 <= image.min() and image.max() <= int(levels.max()) + 3


def in_mode(name, levels):
    """Return gray levels as an image in the mode that the name (of `IMAGES`) says."""
    kind = name.split(".")[0]
    if kind == "sixteen":
        return Image.fromarray(levels.astype(np.uint16) * 257)
    if kind == "cmyk":
        nothing = np.zeros_like(levels)
        return Image.fromarray(
            np.dstack([nothing, nothing, nothing, 255 - levels]), "CMYK"
        )
    if kind == "palette":
        image = Image.fromarray(levels, "P")
        image.putpalette([level for level in range(256) for _ in range(3)])
        return image
    return Image.fromarray(levels).convert(
        {"gray": "L", "rgb": "RGB", "rgba": "RGBA"}[kind]
    )


@pytest.mark.parametrize("size", [64, 96, 150])
def test_reduced_decoding_is_exact_in_place_and_close_in_value(tmp_path, size):
    """A smooth wave with known means, at sizes where decoders round up a lot."""
    for width, height in (
        (1001, 777),
        (1289, 1153),
        (2 * size + 1, 2 * size + 1),
        (8 * size + 1, 9 * size - 1),
        (2003, 700),
    ):
        across, down = np.linspace(0, 6, width), np.linspace(0, 4, height)
        wave = 128 + 60 * np.sin(across)[None] * np.cos(down)[:, None]
        Image.fromarray(wave.round().astype(np.uint8)).save(
            tmp_path / "wave.jpeg", quality=98
        )
        image, _ = read_image(tmp_path / "wave.jpeg", size)
        middle = (np.arange(size) + 0.5) / size
        expected = 128 + 60 * np.sin(6 * middle)[None] * np.cos(4 * middle)[:, None]
        assert abs(image - expected).mean() < 0.7, (width, height)


# Four upright stripes, each a quarter of the width of 40 × 20 pixels, resized to 10.
STRIPES = [20, 80, 140, 200]
# A pixel is 4 columns wide, so two of the pixels are on an edge between stripes.
RESIZED_STRIPES = [20, 20, 50, 80, 80, 140, 140, 170, 200, 200]
RESIZED = {  # the expected columns, and the rows that are not a bar
    "stretch": (RESIZED_STRIPES, range(10)),
    "pad": (RESIZED_STRIPES, range(2, 7)),  # 5 of 10 rows; the odd bar is below
    "center_crop": ([80] * 5 + [140] * 5, range(10)),  # columns 10 to 29
}


@pytest.mark.parametrize("resize_mode", RESIZED)
@pytest.mark.parametrize("name", ["stripes.png", "on its side.png"])
def test_each_resize_mode_gives_the_right_square(tmp_path, name, resize_mode):
    stripes = np.tile(np.repeat(STRIPES, 10), (20, 1)).astype(np.uint8)
    columns, rows = RESIZED[resize_mode]
    expected = np.zeros((10, 10), int)
    expected[rows] = columns
    if "side" in name:
        stripes = stripes.T
        expected = expected.T
    Image.fromarray(stripes).save(tmp_path / name)
    image, info = read_image(tmp_path / name, 10, resize_mode)
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)
    assert info[:2] == stripes.shape[::-1]
    files = pd.DataFrame({"path": [name]})
    x, table, _ = load_split(tmp_path, files, 10, "Loading", None, resize_mode)
    assert np.array_equal(x[0, :, :, 0], expected)
    assert (table.width[0], table.height[0]) == stripes.shape[::-1]


def test_a_square_image_is_the_same_in_each_resize_mode(tmp_path):
    noise_image(300, 300).save(tmp_path / "a.jpeg", quality=95)
    first, *others = (
        read_image(tmp_path / "a.jpeg", 64, resize_mode)[0].astype(int)
        for resize_mode in RESIZED
    )
    assert all(abs(first - other).max() <= 1 for other in others)


def test_a_very_long_image_is_still_there(tmp_path):
    Image.new("L", (4000, 16), 100).save(tmp_path / "thread.png")
    assert (read_image(tmp_path / "thread.png", 64, "pad")[0] > 0).sum() == 64
    assert read_image(tmp_path / "thread.png", 64, "center_crop")[0].min() == 100


def test_an_unknown_resize_mode_is_refused(tmp_path):
    Image.new("L", (40, 20), 100).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match="no resize_mode 'Pad': choose stretch, pad or center_crop"
    ):
        read_image(tmp_path / "a.png", 10, "Pad")


@pytest.mark.parametrize("resize_mode", ["pad", "center_crop"])
@pytest.mark.parametrize("size", [64, 96, 150])
def test_reduced_decoding_is_in_place_in_each_resize_mode(tmp_path, size, resize_mode):
    """A smooth wave with known values, at sizes where decoders round up a lot."""
    shapes = [(1001, 777), (1289, 1153), (777, 1001), (2003, 700)]
    for width, height in [*shapes, (8 * size + 1, 9 * size - 1)]:
        x_wave = np.sin(np.arange(width) / 200)
        y_wave = np.cos(np.arange(height) / 300)
        wave = 128 + 60 * x_wave[None] * y_wave[:, None]
        Image.fromarray(wave.round().astype(np.uint8)).save(
            tmp_path / "wave.jpeg", quality=98
        )
        image, _ = read_image(tmp_path / "wave.jpeg", size, resize_mode)
        side = (min if resize_mode == "center_crop" else max)(width, height)
        across, down = (
            (np.arange(size) + 0.5) / size * side + (length - side) / 2
            for length in (width, height)
        )
        expected = 128 + 60 * np.sin(across / 200)[None] * np.cos(down / 300)[:, None]
        inside_columns = (across > 0) & (across < width)
        inside_rows = (down > 0) & (down < height)
        is_inside = inside_columns[None] & inside_rows[:, None]
        # No gray level of the wave is below 68, so 0 is a bar.
        difference = abs(image - expected)[is_inside & (image > 0)].mean()
        # Between bars, the image begins at a whole pixel.
        tolerance = 0.7 if resize_mode == "center_crop" else 1.2
        assert difference < tolerance, (width, height)
        # A row beside a bar may be image or bar.
        assert (is_inside != (image > 0)).mean() <= 2 / size, (width, height)


def test_transparent_pixels_are_black(tmp_path):
    two_halves("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)).save(
        tmp_path / "a.png"
    )
    image, _ = read_image(tmp_path / "a.png", 32)
    assert image[:, :14].max() == 0 and image[:, 18:].min() == 255


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("length", [64, 700])
def test_exif_rotation_is_applied(tmp_path, turn, length):
    """Where a JPEG is decoded in full size, and where 701 / 8 is rounded up."""
    ramp = np.add.outer(np.arange(length), 2 * np.arange(length + 1)) * 80 // length
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(ramp.astype(np.uint8)).save(
        tmp_path / "a.jpeg", exif=exif, quality=98
    )
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpeg"))
    image, about = read_image(tmp_path / "a.jpeg", 32)
    assert about[:2] == shown.size
    assert (
        abs(
            image.astype(int) - np.asarray(shown.resize((32, 32), Image.Resampling.BOX))
        ).mean()
        < 2
    )


# {EXIF orientation: how Pillow makes the stored image from the upright one}
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("turn", STORED)
@pytest.mark.parametrize("resize_mode", ["stretch", "center_crop"])
def test_a_rotated_jpeg_is_in_place_whatever_its_size(tmp_path, turn, resize_mode):
    """A smooth wave with known values: half a pixel off would be 1.4 gray levels."""
    shapes = [(1001, 777), (777, 1001), (1289, 1153), (1025, 1025), (1024, 768)]
    for width, height in shapes:
        x_wave = np.sin(6 * (np.arange(width) + 0.5) / width)
        y_wave = np.cos(4 * (np.arange(height) + 0.5) / height)
        wave = 128 + 60 * x_wave[None] * y_wave[:, None]
        upright = Image.fromarray(wave.round().astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = turn
        stored = upright.transpose(STORED[turn])
        stored.save(tmp_path / "wave.jpeg", quality=98, exif=exif)
        shown = ImageOps.exif_transpose(Image.open(tmp_path / "wave.jpeg"))
        assert shown.size == upright.size
        image, info = read_image(tmp_path / "wave.jpeg", 64, resize_mode)
        across, down = ((np.arange(64) + 0.5) / 64 for _ in range(2))
        if resize_mode == "center_crop":
            side = min(width, height)
            across, down = (
                (part * side + (length - side) / 2) / length
                for part, length in ((across, width), (down, height))
            )
        expected = 128 + 60 * np.sin(6 * across)[None] * np.cos(4 * down)[:, None]
        assert abs(image - expected).mean() < 0.7, (width, height)
        assert info[:2] == (width, height)


def insert_segment(data, marker, content):
    """Return JPEG data with one more segment after the first two bytes."""
    return (
        data[:2]
        + bytes([0xFF, marker])
        + (2 + len(content)).to_bytes(2, "big")
        + content
        + data[2:]
    )


# Segments that are too short for what they say that they hold.
SHORT_SEGMENTS = {
    "APP0": (0xE0, b"JFIF\0\1"),
    "APP14": (0xEE, b"Adobe\0d"),
    "ICC": (0xE2, b"ICC_PROFILE\0"),
    "Photoshop": (0xED, b"Photoshop 3.0\x008BIM\4\4\0"),
    "nothing but short": (0xFE, b""),
}


@pytest.mark.parametrize("kind", SHORT_SEGMENTS)
def test_a_jpeg_with_a_short_segment_is_read_once_and_for_all_sections(tmp_path, kind):
    """OpenCV reads such a file. Section 3 must not open it again with Pillow."""
    two_halves("L", 50, 200).save(tmp_path / "good.jpeg", quality=95)
    damaged = insert_segment(
        (tmp_path / "good.jpeg").read_bytes(), *SHORT_SEGMENTS[kind]
    )
    (tmp_path / "a.jpeg").write_bytes(damaged)
    files = pd.DataFrame({"path": ["a.jpeg", "good.jpeg"]})
    for _ in range(2):
        x, table, unreadable = load_split(
            tmp_path, files, 32, "Loading", tmp_path / "cache"
        )
        assert unreadable.empty and np.array_equal(x[0], x[1])
        assert table.loc[0, ["width", "height", "bytes", "color"]].tolist() == [
            64,
            48,
            len(damaged),
            False,
        ]
        (tmp_path / "good.jpeg").touch()
    (tmp_path / "a.jpeg").unlink()
    values = shortcut_features(list(x), table)["file_size_and_color"]
    np.testing.assert_allclose(
        values[0],
        [math.log(len(damaged)), math.log(len(damaged) / 64 / 48), 0],
        rtol=1e-6,
    )


def test_a_jpeg_larger_than_pillow_allows_is_read_for_all_sections(
    tmp_path, monkeypatch
):
    """As one of 182 megapixels is: Pillow refuses more than twice MAX_IMAGE_PIXELS."""
    two_halves("RGB", (50, 50, 50), (200, 200, 200)).save(
        tmp_path / "a.jpeg", quality=95
    )
    two_halves("L", 50, 200).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.jpeg")
    x, table, unreadable = load_split(
        tmp_path, pd.DataFrame({"path": ["a.jpeg", "b.png"]}), 32, "Loading"
    )
    assert table[["path", "width", "height", "color"]].to_numpy().tolist() == [
        ["a.jpeg", 64, 48, True]
    ]
    assert (
        unreadable.path.tolist() == ["b.png"]
        and unreadable.problem.str.contains("exceeds limit of 3070 pixels").all()
    )
    assert shortcut_features(list(x), table)["file_size_and_color"][0, 2] == 1


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack requires a buffer of 4 bytes"),
        IndexError("index out of range"),
        AttributeError("no attribute 'tag'"),
        EOFError(),
        MemoryError(),
    ],
    ids=repr,
)
def test_a_file_is_named_whatever_a_decoder_raises(load, monkeypatch, error):
    read = images.read_image

    def fail(path, *arguments):
        if "test/NORMAL/image3" in str(path):
            raise error
        return read(path, *arguments)

    with monkeypatch.context() as trouble:
        trouble.setattr(images, "read_image", fail)
        x, table, unreadable, _ = load()
        assert len(x) == len(table) == 23 and unreadable.path.tolist() == [
            "test/NORMAL/image3.jpeg"
        ]
        assert unreadable.problem.str.contains(str(error) or type(error).__name__).all()
        assert load()[3] == (23 if isinstance(error, MemoryError) else 0), (
            "too little memory today may be enough tomorrow"
        )


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("resize_mode", ["stretch", "pad", "center_crop"])
def test_reduced_decoding_stays_within_two_gray_levels_of_full_decoding(
    drawn_tiny, resize_mode, size
):
    for path in sorted((drawn_tiny / "train/PNEUMONIA").iterdir()):
        original = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        height, width = original.shape
        new_height = new_width = size
        if resize_mode == "center_crop":
            side = min(height, width)
            original = original[(height - side) // 2 :, (width - side) // 2 :]
            original = original[:side, :side]
        if resize_mode == "pad":
            new_height = round(size * height / max(height, width))
            new_width = round(size * width / max(height, width))
        expected = np.zeros((size, size), int)
        top = (size - new_height) // 2
        left = (size - new_width) // 2
        expected[top:, left:][:new_height, :new_width] = cv2.resize(
            original, (new_width, new_height), interpolation=cv2.INTER_AREA
        )
        image, info = read_image(path, size, resize_mode)
        assert abs(image.astype(int) - expected).mean() < 2
        assert info[:2] == Image.open(path).size


BROKEN_FILES = {
    "empty.jpeg": lambda good: b"",
    "truncated.jpeg": lambda good: good[: len(good) // 2],
    "text.jpeg": lambda good: b"this is not an image",
    "page.jpeg": lambda good: b"<html>404</html>" * 100,
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_refused_with_a_reason(tmp_path, name):
    Image.effect_noise((300, 200), 50).save(tmp_path / "good.jpeg")
    (tmp_path / name).write_bytes(
        BROKEN_FILES[name]((tmp_path / "good.jpeg").read_bytes())
    )
    with pytest.raises((OSError, ValueError, SyntaxError), match=r"\w{4}"):
        read_image(tmp_path / name, 32)


def test_a_truncated_jpeg_is_found_even_where_opencv_says_nothing(
    tmp_path, monkeypatch
):
    """OpenCV 4 fills the missing part with gray, without an error; OpenCV 5 fails."""
    Image.effect_noise((300, 200), 50).save(tmp_path / "a.jpeg")
    (tmp_path / "a.jpeg").write_bytes((tmp_path / "a.jpeg").read_bytes()[:-400])
    monkeypatch.setattr(
        cv2, "imdecode", lambda data, flag: np.full((200, 300), 128, np.uint8)
    )
    with pytest.raises(OSError, match="truncated"):
        read_image(tmp_path / "a.jpeg", 32)


def test_a_jpeg_that_opencv_cannot_decode_is_refused(tmp_path, monkeypatch):
    Image.new("L", (40, 40), 100).save(tmp_path / "a.jpeg")
    monkeypatch.setattr(cv2, "imdecode", lambda data, flag: None)
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(tmp_path / "a.jpeg", 32)


@pytest.mark.parametrize(
    "levels",
    [
        np.full((8, 8), 65_536, np.int32),
        np.full((8, 8), -1, np.int32),
        np.full((8, 8), 0.5, np.float32),
    ],
)
def test_values_that_are_no_gray_levels_of_16_bits_are_refused(tmp_path, levels):
    Image.fromarray(levels).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"mode [IF] out of the range 0 to 65,535"):
        read_image(tmp_path / "a.tiff", 8)


def test_a_jpeg_with_bytes_after_its_end_is_still_read(tmp_path):
    Image.new("L", (40, 40), 100).save(tmp_path / "a.jpeg")
    with (tmp_path / "a.jpeg").open("ab") as file:
        file.write(b"trailer")
    assert abs(read_image(tmp_path / "a.jpeg", 32)[0].mean() - 100) < 2


def noise_image(width=420, height=360):
    """Return an image with detail everywhere, of 20 kB or more as JPEG."""
    noise = np.random.default_rng(5).normal(0, 1, (height, width))
    return Image.fromarray(
        np.clip(
            128 + 900 * cv2.GaussianBlur(noise, (0, 0), 6) + 8 * noise, 0, 255
        ).astype(np.uint8)
    )


def in_middle(data, new, removed=None):
    middle = len(data) // 2
    return (
        data[:middle]
        + new
        + data[middle + (len(new) if removed is None else removed) :]
    )


DAMAGES_INSIDE = {
    "zeros in the middle": lambda data: in_middle(data, bytes(4096)),
    "few zeros in the middle": lambda data: in_middle(data, bytes(512)),
    "noise in the middle": lambda data: in_middle(
        data, np.random.default_rng(0).bytes(4096)
    ),
    "a block lost": lambda data: in_middle(data, b"", 4096),
    "cut, with an end marker": lambda data: data[: len(data) * 6 // 10] + b"\xff\xd9",
    "zeros up to the end marker": lambda data: (
        data[: len(data) * 6 // 10] + bytes(len(data) * 4 // 10) + b"\xff\xd9"
    ),
    "line ends converted": lambda data: data.replace(b"\n", b"\r\n"),
    "line ends converted back": lambda data: data.replace(b"\r", b"\n"),
    "as text": lambda data: data.decode("utf-8", "replace").encode(),
}
JPEGS = {
    "gray": lambda: (noise_image(), {"quality": 92}),
    "small tables": lambda: (noise_image(), {"quality": 92, "optimize": True}),
    "restart markers": lambda: (
        noise_image(),
        {"quality": 92, "restart_marker_rows": 2},
    ),
    "progressive": lambda: (noise_image(), {"quality": 92, "progressive": True}),
    "color": lambda: (noise_image().convert("RGB"), {"quality": 92}),
    "CMYK, by Pillow": lambda: (noise_image().convert("CMYK"), {"quality": 92}),
}


@pytest.mark.parametrize("damage", DAMAGES_INSIDE)
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_is_damaged_inside_is_listed_and_no_other(
    tmp_path, capfd, kind, damage
):
    """Most of these are decoded without an error: libjpeg only warns."""
    image, options = JPEGS[kind]()
    image.save(tmp_path / "0.jpeg", **options)
    good = (tmp_path / "0.jpeg").read_bytes()
    damaged = DAMAGES_INSIDE[damage](good)
    assert len(good) > 20_000 and damaged != good
    for number in range(12):
        (tmp_path / f"{number}.jpeg").write_bytes(
            damaged if number in (3, 4, 9) else good
        )
    x, _, unreadable = load_split(
        tmp_path,
        pd.DataFrame({"path": [f"{number}.jpeg" for number in range(12)]}),
        64,
        "Loading",
    )
    assert (
        unreadable.path.tolist() == ["3.jpeg", "4.jpeg", "9.jpeg"]
        and unreadable.problem.str.contains(r"\w{4}").all()
    )
    assert (
        len(x) == 9
        and (x == read_image_strict(tmp_path / "0.jpeg", 64)[0][:, :, None]).all()
    )
    with pytest.raises((OSError, ValueError, SyntaxError), match=r"\w{4}"):
        read_image_strict(tmp_path / "3.jpeg", 64)
    assert "JPEG data" not in capfd.readouterr().err


def test_damage_is_found_behind_bytes_after_the_end(tmp_path):
    noise_image().save(tmp_path / "a.jpeg", quality=92)
    (tmp_path / "a.jpeg").write_bytes(
        in_middle((tmp_path / "a.jpeg").read_bytes(), bytes(4096)) + b"trailer" * 20
    )
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        read_image_strict(tmp_path / "a.jpeg", 64)


def test_what_a_device_leaves_before_the_end_marker_does_no_harm(tmp_path):
    noise_image().save(tmp_path / "a.jpeg", quality=92)
    good, (expected, _) = (
        (tmp_path / "a.jpeg").read_bytes(),
        read_image(tmp_path / "a.jpeg", 64),
    )
    (tmp_path / "a.jpeg").write_bytes(good[:-2] + b"\0\0" + good[-2:])
    assert np.array_equal(read_image_strict(tmp_path / "a.jpeg", 64)[0], expected)
    assert load_split(tmp_path, pd.DataFrame({"path": ["a.jpeg"]}), 64, "Loading")[
        2
    ].empty


def test_other_messages_are_passed_on_and_no_image_is_refused(
    image_folder, capfd, monkeypatch
):
    decode = cv2.imdecode

    def talk(data, flag):
        os.write(2, b"something else\n")
        return decode(data, flag)

    monkeypatch.setattr(cv2, "imdecode", talk)
    assert (
        len(load_split(image_folder, list_images(image_folder), 32, "Loading")[0]) == 24
    )
    assert capfd.readouterr().err.count("something else\n") >= 24


def test_stderr_is_as_before_after_loads_at_once_and_after_one_that_fails(
    image_folder, capfd
):
    def describe():
        return os.fstat(2).st_ino, len(os.listdir("/proc/self/fd"))

    files, before = list_images(image_folder), describe()
    threads = [
        threading.Thread(target=load_split, args=(image_folder, files, 32, "Loading"))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with (
        pytest.raises(ZeroDivisionError),
        capture_decoder_messages(),
        capture_decoder_messages(),
    ):
        raise ZeroDivisionError
    assert describe() == before
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


BITS = [8, 10, 12, 14, 16]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "white is 0.tiff", "a.jp2"])
def test_less_than_16_bits_stored_in_16_are_neither_black_nor_inverted(
    tmp_path, name, bits
):
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    stored = np.round(
        (1 - ramp if name.startswith("white") else ramp) * (2**bits - 1)
    ).astype(np.uint16)
    Image.fromarray(stored).save(
        tmp_path / name, **({"tiffinfo": {262: 0}} if name.startswith("white") else {})
    )
    image, _ = read_image(tmp_path / name, 64)
    assert abs(image - 255 * ramp).max() <= 1


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "alpha.png"])
def test_colors_of_16_bits_are_read_rightly_or_refused(tmp_path, name, bits):
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    channels = [np.round(ramp * (2**bits - 1)).astype(np.uint16)] * 3 + [
        np.full((64, 64), 65535, np.uint16)
    ] * name.startswith("alpha")
    cv2.imwrite(str(tmp_path / name), np.dstack(channels))
    if bits == 16:
        assert abs(read_image(tmp_path / name, 64)[0] - 255 * ramp).max() <= 1
    else:
        with pytest.raises(
            ValueError, match="16 bits that uses only the darkest quarter"
        ):
            read_image(tmp_path / name, 64)


@pytest.mark.parametrize("name", ["a.png", "a.jpeg"])
def test_an_image_of_a_few_pixels_is_refused(tmp_path, name):
    for width, height in ((1, 1), (15, 400), (400, 1)):
        Image.new("L", (width, height), 100).save(tmp_path / name)
        with pytest.raises(ValueError, match=f"{width} × {height} pixels are too few"):
            read_image(tmp_path / name, 32)
    Image.new("L", (16, 16), 100).save(tmp_path / name)
    assert abs(read_image(tmp_path / name, 32)[0].mean() - 100) < 2


OTHER_FILES = {
    "lfs.jpeg": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "git lfs pull",
    ),
    "annex.jpeg": (b"/annex/objects/SHA256E-s12--4d7a.jpeg\n", "git annex get"),
    "text.jpeg": (b"this is not an image", "^not an image in a known format$"),
    "empty.jpeg": (b"", "^the file is empty$"),
    "page.jpeg": (
        b"\n<!DOCTYPE html><html>404</html>",
        "^a web page, which cannot be read here: convert it to PNG$",
    ),
    "report.pdf": (b"%PDF-1.7\n...", "^a PDF file, .* PNG$"),
    "phone.heic": (
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "^a HEIC or AVIF image, .* PNG$",
    ),
    "scan.nii": (
        b"\x5c\1\0\0" + bytes(340) + b"n+1\0" + bytes(100),
        "^a NIfTI file, .* PNG$",
    ),
    "scan.nii.gz": (b"\x1f\x8b\x08\0" + bytes(100), "^a gzip archive .*NIfTI.* PNG$"),
    "image.dcm": (bytes(128) + b"DICM\2\0\0\0UL", "^a DICOM file, .* PNG$"),
    "old image.dcm": (
        b"\x08\0\5\0\x0a\0\0\0ISO_IR 100" + bytes(200),
        "^a DICOM file, .* PNG$",
    ),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_that_is_not_an_image_is_listed_with_a_helpful_reason(tmp_path, name):
    content, words = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    unreadable = load_split(tmp_path, pd.DataFrame({"path": [name]}), 32, "Loading")[2]
    assert (
        unreadable.problem.str.contains(words).all()
        and not unreadable.problem.str.contains("0x").any()
    )


def test_a_broken_link_is_listed_and_read_when_it_is_whole(image_folder, tmp_path):
    link, target = image_folder / "train/NORMAL/image9.jpeg", tmp_path / "objects"
    link.symlink_to(target)
    (image_folder / "train/NORMAL/loop.jpeg").symlink_to("loop.jpeg")
    files = list_images(image_folder)
    assert len(files) == 26
    for _ in range(2):
        unreadable = load_split(
            image_folder, files, 32, "Loading all", tmp_path / "cache"
        )[2]
        assert unreadable.path.tolist() == [
            "train/NORMAL/image9.jpeg",
            "train/NORMAL/loop.jpeg",
        ]
        assert (
            unreadable.problem.str.startswith("a broken link: ").all()
            and unreadable.problem.str.contains("git annex get").all()
        )
    Image.new("L", (70, 60), 255).save(target, "JPEG")
    x, table, unreadable = load_split(
        image_folder, files, 32, "Loading all", tmp_path / "cache"
    )
    assert unreadable.path.tolist() == ["train/NORMAL/loop.jpeg"]
    assert x[table.index[table.path == "train/NORMAL/image9.jpeg"][0]].min() > 250


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(), "OSError"),
        (ValueError("\n"), "ValueError"),
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (
            ValueError("in <_io.BytesIO object at 0x7f1a> at <X object at 0xab>"),
            "in at",
        ),
        (ValueError("a\nb"), "a"),
    ],
)
def test_a_reason_is_one_line_without_addresses(tmp_path, error, words):
    assert format_read_error(error, tmp_path / "a") == words


def test_the_first_readable_image_is_shown_in_full_size(image_folder, capfd):
    files = list_images(image_folder)
    (image_folder / files.path[0]).write_bytes(b"")
    (image_folder / files.path[1]).unlink()
    image = first_readable_image(image_folder, files.path)
    assert image.shape == (60, 72) and image.dtype == np.uint8
    assert abs(image.mean() - 70) < 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "No such file"),
        (
            lambda folder: [
                path.write_bytes(bytes(128) + b"DICM")
                for path in folder.rglob("*.jpeg")
            ],
            "a DICOM file, .*: convert it to PNG. Repair or",
        ),
        (
            lambda folder: [
                path.write_bytes(OTHER_FILES["lfs.jpeg"][0])
                for path in folder.rglob("*.jpeg")
            ],
            "git lfs pull",
        ),
        (
            lambda folder: [
                (path.unlink(), path.symlink_to("gone"))
                for path in folder.rglob("*.jpeg")
            ],
            "a broken link",
        ),
    ],
)
def test_without_a_readable_image_there_is_one_message(
    image_folder, capfd, spoil, words
):
    files = list_images(image_folder)
    capfd.readouterr()
    spoil(image_folder)
    with pytest.raises(
        ValueError,
        match=f"None of the 24 files .* The first is {files.path[0]}: .*{words}",
    ) as caught:
        first_readable_image(image_folder, files.path)
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_a_folder_of_dicom_files_leads_to_advice(tmp_path):
    """As a program exports them, with names that the chest X-ray set uses as well."""
    for place in ("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA"):
        (tmp_path / place).mkdir(parents=True)
        for number in range(4):
            (tmp_path / place / f"IM-0001-{number:04}-0001.dcm").write_bytes(
                bytes(128) + b"DICM" + bytes(100)
            )
    files = list_images(tmp_path)
    with pytest.raises(
        ValueError, match=r"None of the 16 .* a DICOM file, .*convert it to PNG"
    ) as caught:
        first_readable_image(tmp_path, files.path)
    assert "The first is train/NORMAL/IM-0001-0000-0001.dcm: " in str(caught.value)
    unreadable = load_split(tmp_path, files, 32, "Loading")[2]
    advice = r"16 of 16 files cannot be read.*\(a DICOM file, .*convert it to PNG"
    with pytest.raises(ValueError, match=advice):
        check_unreadable(files, [unreadable])


@pytest.mark.parametrize(
    "name",
    [
        "read_image_strict",
        "read_bytes",
        "read_jpeg_header",
        "choose_reduction",
        "decode_jpeg",
        "scale_to_8_bits",
        "resize_to_square",
        "pad_to_square",
        "crop_center_square",
    ],
)
def test_the_cache_key_depends_on_the_functions_that_read(
    image_folder, monkeypatch, name
):
    paths = ["train/NORMAL/image1.jpeg"]
    before = cache_key(image_folder, paths, 32, "stretch")
    assert cache_key(image_folder, paths, 32, "pad") != before
    monkeypatch.setattr(images, name, describe_arrays)
    assert cache_key(image_folder, paths, 32, "stretch") != before


def test_the_header_of_any_jpeg_is_measured_as_pillow_does():
    for mode in ("L", "RGB", "CMYK"):
        for how in (
            {},
            {"progressive": True},
            {"optimize": True},
            {"comment": b"x" * 3000},
            {"exif": b"Exif\0\0" + b"\xff\xc0" * 90},
        ):
            stream = io.BytesIO()
            Image.new(mode, (301, 207)).save(stream, "JPEG", **how)
            data = stream.getvalue()
            header = None if mode == "CMYK" else (301, 207, mode == "RGB")
            assert images.read_jpeg_header(data) == header
            assert all(
                images.read_jpeg_header(data[:end]) in (None, header)
                for end in range(len(data))
            )


def test_unreadable_files_are_listed_and_the_rest_keeps_its_order(tiny):
    files = list_images(tiny)
    train = files[files.folder == "train"].reset_index(drop=True)
    (tiny / train.path[3]).write_bytes(b"")
    (tiny / train.path[20]).write_bytes((tiny / train.path[20]).read_bytes()[:5000])
    (tiny / train.path[21]).unlink()
    x, table, unreadable = load_split(tiny, train, 32, "train")
    assert unreadable.path.tolist() == train.path[[3, 20, 21]].tolist()
    assert [
        "empty" in unreadable.problem[3],
        "truncated" in unreadable.problem[20],
        "No such file" in unreadable.problem[21],
    ] == [True] * 3
    assert (
        len(x) == len(table) == len(train) - 3
        and table.path.tolist() == train.path.drop([3, 20, 21]).tolist()
    )
    for image, path, width in zip(x, table.path, table.width):
        expected, size = read_image(tiny / path, 32)
        assert np.array_equal(image[:, :, 0], expected) and width == size[0]


@pytest.fixture
def image_folder(tmp_path):
    """A folder with 24 images, each of a single gray level."""
    for split, count in (("train", 8), ("test", 4)):
        for number, name in enumerate(("NORMAL", "PNEUMONIA")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for image in range(count):
                gray = Image.new("L", (70 + image, 60), 20 + 25 * image + 10 * number)
                gray.save(tmp_path / "set" / split / name / f"image{image}.jpeg")
    return tmp_path / "set"


@pytest.fixture
def load(image_folder, tmp_path, monkeypatch):
    """A function that loads through the cache, and compares with a load without one.

    It returns (x, files, unreadable, number of images decoded).
    """
    decoded = []
    decode = cv2.imdecode

    def count_and_decode(data, flag):
        decoded.append(len(data))
        return decode(data, flag)

    monkeypatch.setattr(cv2, "imdecode", count_and_decode)

    def load(size=32, resize_mode="stretch"):
        files = list_images(image_folder)
        decoded.clear()
        x, table, unreadable = load_split(
            image_folder, files, size, "Loading all", tmp_path / "cache", resize_mode
        )
        count = len(decoded)
        true_x, true_table, true_unreadable = load_split(
            image_folder, files, size, "Loading all", None, resize_mode
        )
        assert np.array_equal(x, true_x)
        assert table.equals(true_table)
        assert unreadable.path.equals(true_unreadable.path)
        return x, table, unreadable, count

    return load


def test_the_second_load_comes_from_the_cache_and_is_read_only(load, capsys):
    first = load()
    again = load()
    assert (first[3], again[3]) == (24, 0)
    assert "24 images from the cache" in capsys.readouterr().out
    assert np.array_equal(first[0], again[0]) and again[1].equals(first[1])
    for x in (first[0], again[0]):
        with pytest.raises(ValueError, match="read-only"):
            x[0, 0, 0, 0] = 1


def list_caches(tmp_path):
    """Return the folders of the cache, finished or not."""
    return [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_cache_that_windows_cannot_remove_does_not_block_the_next_one(
    load, image_folder, capsys, monkeypatch
):
    """Windows does not remove a mapped file, as that of the images loaded before."""
    before = load()[0]
    kept = before.copy()
    replace_same_size_and_time(image_folder)
    with monkeypatch.context() as windows:
        windows.setattr(shutil, "rmtree", lambda folder, **_: None)
        after = load()[0]
    assert (
        "No cache" not in capsys.readouterr().out
        and np.array_equal(before, kept)
        and not np.array_equal(after, kept)
    )
    assert load()[3] == 0


def replace_same_size_and_time(folder):
    path, donor = (
        folder / "train/NORMAL/image1.jpeg",
        folder / "train/NORMAL/image2.jpeg",
    )
    before = path.stat()
    content = bytearray(path.read_bytes())
    shutil.copy(donor, path.with_name("new"))
    new = path.with_name("new").read_bytes()
    path.with_name("new").write_bytes(
        new[:-2] + b"\0" * (len(content) - len(new)) + new[-2:]
        if len(new) <= len(content)
        else new
    )
    path.with_name("new").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "added": lambda folder: shutil.copy(
        folder / "train/NORMAL/image1.jpeg", folder / "train/NORMAL/a.jpeg"
    ),
    "removed": lambda folder: (folder / "train/NORMAL/image1.jpeg").unlink(),
    "renamed": lambda folder: (folder / "train/NORMAL/image1.jpeg").rename(
        folder / "train/NORMAL/z.jpeg"
    ),
    "touched": lambda folder: (folder / "train/NORMAL/image1.jpeg").touch(),
    "replaced": lambda folder: Image.new("L", (70, 60), 255).save(
        folder / "train/NORMAL/image1.jpeg"
    ),
    "replaced, same size and time": replace_same_size_and_time,
    "two swapped": lambda folder: [
        (folder / f"train/NORMAL/{a}").rename(folder / f"train/NORMAL/{b}")
        for a, b in (
            ("image1.jpeg", "x"),
            ("image2.jpeg", "image1.jpeg"),
            ("x", "image2.jpeg"),
        )
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_is_never_stale(load, image_folder, change):
    load()
    CHANGES[change](image_folder)
    count = load()[3]
    assert count == len([path for path in image_folder.rglob("*") if path.is_file()])
    assert load()[3] == 0


def test_another_size_has_a_cache_of_its_own(load):
    load(32)
    assert load(40)[3] == 24 and load(32)[3] == load(40)[3] == 0


def test_each_resize_mode_has_a_cache_of_its_own(load):
    loaded = [load(32, resize_mode)[::3] for resize_mode in (*RESIZED, *RESIZED)]
    assert [count for _, count in loaded] == [24, 24, 24, 0, 0, 0]
    stretched = loaded[0][0]
    padded = loaded[1][0]
    assert stretched.min() > 0
    assert (padded[:, 0] == 0).all()  # a bar, as the images are wider than high


@pytest.mark.parametrize(
    "name",
    ["read_image", "decode_image", "shrink", "decode_with_pillow", "read_images"],
)
def test_a_changed_loader_invalidates_the_cache(load, image_folder, monkeypatch, name):
    """As when a reader edits a function of the notebook: here it inverts its images."""
    jpeg = image_folder / "test/NORMAL/image0.jpeg"
    Image.open(jpeg).save(jpeg.with_suffix(".png"))
    jpeg.unlink()
    before, files, *_ = load()
    is_changed = np.ones(len(files), bool)
    if name == "decode_with_pillow":
        is_changed = files.path.str.endswith("png").to_numpy()
    expected = np.where(is_changed[:, None, None, None], 255 - before, before)
    original = getattr(images, name)

    def invert(*arguments):
        result = original(*arguments)
        if name == "read_images":
            arguments[2][:] = 255 - arguments[2]
            return result
        if isinstance(result, np.ndarray):
            return 255 - result
        return (255 - result[0], *result[1:])

    with monkeypatch.context() as edited:
        edited.setattr(images, name, invert)
        for decoded in (23, 0):  # the PNG file is decoded by Pillow
            x, _, _, count = load()
            assert np.array_equal(x, expected) and count == decoded
    x, _, _, count = load()
    assert np.array_equal(x, before)
    assert count == 23, "after the change back, the cache is made again"


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "truncated": lambda place: damage(place / "images.bin", lambda old: old[:-1000]),
    "one bit turned": lambda place: damage(
        place / "images.bin",
        lambda old: old[:5000] + bytes([old[5000] ^ 1]) + old[5001:],
    ),
    "zeros after a crash": lambda place: damage(
        place / "images.bin", lambda old: old[:4096] + bytes(len(old) - 4096)
    ),
    "no images": lambda place: (place / "images.bin").unlink(),
    "record cut": lambda place: damage(
        place / "record.json", lambda old: old[: len(old) // 2]
    ),
    "record empty": lambda place: damage(place / "record.json", lambda old: b""),
    "record of something else": lambda place: damage(
        place / "record.json", lambda old: b"[1, 2]"
    ),
    "record with fewer rows": lambda place: damage(
        place / "record.json",
        lambda old: json.dumps(
            {**json.loads(old), "rows": json.loads(old)["rows"][:-1]}
        ).encode(),
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_cache_is_never_trusted(load, tmp_path, kind):
    load()
    (place,) = list_caches(tmp_path)
    DAMAGES[kind](place)
    assert load()[3] == 24 and load()[3] == 0


SLOW_LOAD = """if True:
    import sys, time
    import cv2
    from cxr.dataset import list_images
    from cxr.images import load_split
    decode = cv2.imdecode
    cv2.imdecode = lambda *arguments: time.sleep(0.05) or decode(*arguments)
    load_split(sys.argv[1], list_images(sys.argv[1]), 32, "Loading all", sys.argv[2])"""


def test_a_load_that_is_killed_leaves_nothing_that_looks_whole(
    load, image_folder, tmp_path
):
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_LOAD, image_folder, tmp_path / "cache"],
        stdout=subprocess.DEVNULL,
    )
    while not list((tmp_path / "cache").glob("*.unfinished/images.bin")):
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert load()[3] == 24
    assert [path.suffix == ".unfinished" for path in list_caches(tmp_path)] == [False]


def test_broken_files_are_remembered_but_passing_trouble_of_the_disk_is_not(
    load, image_folder, monkeypatch
):
    (image_folder / "test/NORMAL/image0.jpeg").write_bytes(b"not an image")

    def failing(path, mode):
        if "image3" in str(path):
            raise OSError(5, "Input/output error")
        return open(path, mode)

    with monkeypatch.context() as trouble:
        trouble.setattr("cxr.images.open", failing, raising=False)
        unreadable = load()[2]
        assert (
            len(unreadable) == 5
            and unreadable.problem.str.contains("Input/output error").sum() == 4
        )
    x, table, unreadable, count = load()
    assert (
        count == 23
        and unreadable.path.tolist() == ["test/NORMAL/image0.jpeg"]
        and len(x) == len(table) == 23
    )
    assert load()[3] == 0, "a file that is not an image stays in the cache"


def test_images_after_a_broken_one_move_up():
    x = np.arange(3000, dtype=np.uint16)[:, None]
    problems = [
        "bad" if number % 7 == 0 or number > 2900 else "" for number in range(3000)
    ]
    count = compact_readable(x, [(1, 1, problem) for problem in problems])
    assert x[:count, 0].tolist() == [
        number for number in range(3000) if not problems[number]
    ]


def test_without_room_for_a_cache_the_images_are_kept_in_memory_and_this_is_said(
    image_folder, tmp_path, capsys
):
    files = list_images(image_folder)
    (tmp_path / "file").write_text("in the way")
    blocked = load_split(image_folder, files, 32, "Loading all", tmp_path / "file")
    assert "No cache: CACHE_DIR" in capsys.readouterr().out
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (10_000, hard)
    )  # the disk is full after 10 kB
    try:
        full = load_split(image_folder, files, 32, "Loading all", tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "is full" in capsys.readouterr().out and not list_caches(tmp_path)
    assert (
        len(blocked[0]) == 24
        and np.array_equal(blocked[0], full[0])
        and not full[0].flags.writeable
    )


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(
    image_folder, tmp_path, capsys, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: usage._replace(free=24 * 32**2 - 1)
    )
    x, *_ = load_split(
        image_folder, list_images(image_folder), 32, "Loading all", tmp_path / "cache"
    )
    told = capsys.readouterr().out
    assert (
        "No cache: " in told and "GB of disk left" in told and "kept in memory" in told
    )
    assert len(x) == 24 and not list_caches(tmp_path)


def test_a_file_that_is_missing_for_a_while_is_read_when_it_is_back(
    image_folder, tmp_path
):
    files, path = list_images(image_folder), image_folder / "train/NORMAL/image1.jpeg"
    path.rename(tmp_path / "aside")
    x, _, unreadable = load_split(
        image_folder, files, 32, "Loading all", tmp_path / "cache"
    )
    assert len(x) == 23 and unreadable.path.tolist() == ["train/NORMAL/image1.jpeg"]
    (tmp_path / "aside").rename(path)
    x, _, unreadable = load_split(
        image_folder, files, 32, "Loading all", tmp_path / "cache"
    )
    assert len(x) == 24 and unreadable.empty


def test_two_loads_at_once_read_the_files_once(image_folder, tmp_path, capsys):
    results = []
    files = list_images(image_folder)

    def one():
        results.append(
            load_split(image_folder, files, 32, "Loading all", tmp_path / "cache")[0]
        )

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().out.count("from the cache") == 2 and all(
        np.array_equal(results[0], x) for x in results
    )


def test_an_interrupted_load_stops_at_once(image_folder, monkeypatch, tmp_path):
    """Ctrl-C must not wait for the rest of a hundred thousand images."""
    files = list_images(image_folder)
    many = files.loc[files.index.repeat(1000)].reset_index(drop=True)
    read = []
    since_begin = itertools.count()
    has_begun = threading.Event()

    class ProgressBar(images.tqdm):
        def update(self, n=1):
            # All tasks are handed out now. An interrupt before that can block Python's
            # own thread pool forever.
            has_begun.set()
            return super().update(n)

    def interrupt(path, size, resize_mode):
        time.sleep(0.001)  # as long as reading an image takes
        read.append(path)
        # Several times, because an interrupt within a destructor is lost.
        if has_begun.is_set() and next(since_begin) in (100, 4000, 8000):
            os.kill(os.getpid(), signal.SIGINT)
        info = images.FileInfo(size, size, 1000, False)
        return np.zeros((size, size), np.uint8), info

    monkeypatch.setattr(images, "tqdm", ProgressBar)
    monkeypatch.setattr(images, "read_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_split(image_folder, many, 32, "Loading all", tmp_path / "cache")
    assert len(read) < 12_000 and not list_caches(tmp_path)


MEASURE = """if True:
    import json, resource, sys
    import pandas
    from cxr.images import load_split

    def memory(name):
        status = open("/proc/self/status").read()
        return int(status.split(f"{name}:")[1].split()[0]) * 1024

    files = pandas.DataFrame({"path": [f"{number}.jpeg" for number in range(5000)]})
    folder, limit, cache = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
    if limit:
        limit += memory("VmData")
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    x, table, unreadable = load_split(folder, files, 256, "Loading", cache)
    total = 0
    for start in range(0, len(x), 100):
        total += int(x[start : start + 100].sum(dtype="uint64"))
    print()
    print(json.dumps([x.nbytes, total, len(unreadable), memory("VmHWM")]))"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """5,000 names of one image of 300 × 280 pixels: 328 MB as 256 × 256 arrays."""
    folder = tmp_path_factory.mktemp("many")
    Image.new("L", (300, 280), 100).save(folder / "one", "JPEG")
    for number in range(5000):
        os.link(folder / "one", folder / f"{number}.jpeg")
    return folder


def measure_load(folder, limit, cache=""):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, folder, str(limit), str(cache)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_is_the_arrays_and_less_than_300_megabytes(many):
    size, total, unreadable, peak = measure_load(many, 0)
    assert size == 5000 * 256**2 and total == 100 * size and not unreadable
    assert peak < size + 300e6


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="needs Linux: a limit to the memory that does not count mapped files",
)
def test_a_folder_larger_than_the_memory_is_mapped(many, tmp_path):
    """328 MB of images, with a limit of 200 MB: written to the cache, then from it."""
    for _ in range(2):
        size, total, unreadable, _ = measure_load(many, 200_000_000, tmp_path / "cache")
        assert size == 5000 * 256**2 and total == 100 * size and not unreadable
    with pytest.raises(AssertionError, match="MemoryError"):
        measure_load(many, 200_000_000)


def test_images_that_cannot_fit_into_the_memory_are_refused_with_advice(
    image_folder, tmp_path, monkeypatch, capsys
):
    """24 images of 100 × 100 pixels, and a machine with 300,000 bytes."""
    sizes = {"SC_PAGE_SIZE": 100, "SC_PHYS_PAGES": 3000}
    monkeypatch.setattr("cxr.images.os.sysconf", sizes.get)
    files = list_images(image_folder)

    def load(size, *cache):
        return load_split(image_folder, files, size, "Loading all", *cache)[0]

    advice = (
        r"24 images of 100 × 100 pixels need 0.0 GB.* CACHE_DIR .*smaller IMAGE_SIZE"
    )
    with pytest.raises(MemoryError, match=advice):
        load(100)
    assert len(load(100, tmp_path / "cache")) == 24
    assert len(load(90)) == 24  # 194,400 bytes
    # Windows does not tell the size of its memory, but refuses what exceeds it.
    monkeypatch.delattr(os, "sysconf")
    advice = r"pixels need 240000000.0 GB.* CACHE_DIR .*smaller IMAGE_SIZE"
    with pytest.raises(MemoryError, match=advice):
        load(100_000_000)


WINDOWS = """if True:
    import os, sys
    import keras  # which has code of its own for each system
    for name in list(sys.modules):
        if name.startswith("filelock"):  # JAX may have imported it
            del sys.modules[name]
    sys.modules["fcntl"] = None
    for name in ("sysconf", "pread", "posix_fallocate"):
        delattr(os, name)

    import importlib
    from pathlib import Path

    def list_open_files():
        descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        opened = [os.readlink(path) for path in descriptors if os.path.islink(path)]
        maps = open("/proc/self/maps")
        mapped = [line.split(None, 5)[-1].strip() for line in maps]
        return [Path(path) for path in opened + mapped]

    def refuse(event, arguments):
        if event not in ("os.rename", "os.truncate", "os.remove") or not is_watching:
            return
        for path in arguments[:2]:
            path = Path(path) if isinstance(path, (str, Path)) else Path()
            if path.name == ".lock" or not path.is_absolute():
                continue
            opened = list_open_files()
            if found := [file for file in opened if file.is_relative_to(path)]:
                print("refused:", event, path, found, file=sys.stderr, flush=True)
                os._exit(3)

    is_watching = []
    sys.addaudithook(refuse)
    for path in sorted(Path(sys.argv[1]).glob("*.py")):
        importlib.import_module(f"cxr.{path.stem}")
    from cxr.dataset import list_images
    from cxr.images import load_split, read_image_strict
    from cxr.storage import write_atomically
    folder, cache = Path(sys.argv[2]), Path(sys.argv[3])
    is_watching.append(True)
    write_atomically(cache.with_name("record"), "one")
    write_atomically(cache.with_name("record"), "two")
    files = list_images(folder)
    for cache_dir in (None, cache, cache):
        x, table, unreadable = load_split(folder, files, 64, "Loading", cache_dir)
        assert len(x) == len(table) == len(files) - 1
        assert unreadable.problem.str.startswith("Corrupt JPEG data").all()
        expected, _ = read_image_strict(folder / table.path[0], 64)
        assert (x[0, :, :, 0] == expected).all()"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="reads from /proc what is open and mapped"
)
@pytest.mark.long
def test_a_system_without_what_windows_lacks_is_enough(tiny, tmp_path):
    """No file is renamed, removed or cut while it is open, which Windows refuses."""
    damaged = tiny / list_images(tiny).path[5]
    damaged.write_bytes(in_middle(damaged.read_bytes(), bytes(512)))
    package = os.path.dirname(images.__file__)
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, package, tiny, tmp_path / "cache"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("from the cache") == 1


def test_a_folder_without_a_readable_image_gives_no_images(tmp_path):
    (tmp_path / "a.jpeg").write_bytes(b"not an image")
    files = pd.DataFrame({"path": ["a.jpeg"]})
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        x, table, unreadable = load_split(tmp_path, files, 32, "Loading", cache)
        assert (
            x.shape == (0, 32, 32, 1)
            and len(table) == 0
            and unreadable.path.tolist() == ["a.jpeg"]
        )
    assert load_split(tmp_path, files[:0], 32, "Loading", tmp_path / "cache")[
        0
    ].shape == (0, 32, 32, 1)


def test_arrays_are_described_in_megabytes_and_cases():
    table = describe_arrays(
        train=(np.zeros((3, 1000, 500, 1), np.uint8), np.array([1, 0, 1], np.uint8)),
        val=(np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.uint8)),
    )
    assert table.loc["train"].tolist() == [
        "(3, 1000, 500, 1) uint8",
        "1.5 MB",
        "(3,) uint8",
        "2 of 3",
    ]
    assert table.loc["val", "class 1, PNEUMONIA"] == "0 of 0"


def test_a_folder_without_images_has_a_table_like_the_others(tiny):
    """The original at Mendeley has no val folder; joined columns must stay numbers."""
    files = list_images(tiny)
    tables = [
        load_split(tiny, files[files.folder == split], 16, split)[1]
        for split in ("train", "elsewhere")
    ]
    assert len(tables[1]) == 0 and pd.concat(tables).width.dtype == tables[
        0
    ].width.dtype == np.dtype("int64")
