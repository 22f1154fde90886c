"""An image of the user's own: read as the training images are, and checked."""

import sys

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from test_dicom import STORED, write_dicom
from test_images import IMAGES, two_halves

from cxr.batches import gather_images, make_batches
from cxr.dataset import list_images
from cxr.images import load_split
from cxr.inference import OutOfDistributionDetector, predict_image, read_user_image
from cxr.models import build_cnn


def save_rotated_by_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    two_halves("RGB", (50, 60, 70), (200, 210, 190)).save(path, exif=exif)


@pytest.mark.parametrize("name", [*IMAGES, "rotated.jpeg"])
def test_an_image_is_read_exactly_as_load_split_reads_it(tmp_path, name):
    if name in IMAGES:
        IMAGES[name]().save(tmp_path / name, quality=95)
    else:
        save_rotated_by_exif(tmp_path / name)
    files = pd.DataFrame({"path": [name]})
    loaded, table, _ = load_split(tmp_path, files, 32, "Loading")
    x, about = read_user_image(tmp_path / name, 32)
    assert x.dtype == np.uint8 and np.array_equal(x, loaded)
    assert (about["width"], about["height"]) == (table.width[0], table.height[0])
    assert about["width"] == (48 if name == "rotated.jpeg" else 64)
    assert not about["notes"]


@pytest.mark.parametrize("resize_mode", ["pad", "center_crop"])
def test_an_image_is_resized_in_the_mode_of_the_training_images(tmp_path, resize_mode):
    """Two halves, 64 × 48: center_crop keeps 24 columns of each, pad adds 8 rows."""
    two_halves("L", 50, 200).save(tmp_path / "a.png")
    stored = np.repeat(np.uint8([[50] * 32 + [200] * 32]), 48, 0)
    write_dicom(tmp_path / "a.dcm", stored)
    expected = np.zeros((32, 32), int)
    rows = slice(4, 28) if resize_mode == "pad" else slice(None)
    expected[rows] = [50] * 16 + [200] * 16
    x, about = read_user_image(tmp_path / "a.png", 32, resize_mode)
    assert np.array_equal(x[0, :, :, 0], expected)
    assert (about["width"], about["height"]) == (64, 48)
    x, about = read_user_image(tmp_path / "a.dcm", 32, resize_mode)
    assert np.array_equal(x[0, :, :, 0] > 0, expected > 100)
    assert (about["width"], about["height"]) == (64, 48)


def test_color_is_measured_where_it_is_visible(tmp_path):
    def color(image, name="a.png"):
        image.save(tmp_path / name)
        return read_user_image(tmp_path / name, 32)[1]["color"]

    gray_rgb = two_halves("RGB", (9, 9, 9), (200, 200, 200))
    assert color(two_halves("L", 0, 255)) == color(gray_rgb) == 0
    half_red = two_halves("RGB", (255, 0, 0), (9, 9, 9))
    assert color(half_red) == pytest.approx(0.5, abs=0.02)
    transparent_red = two_halves("RGBA", (255, 0, 0, 0), (9, 9, 9, 255))
    assert color(transparent_red) == 0
    palette = two_halves("RGB", (255, 0, 0), (0, 0, 255)).quantize()
    assert color(palette, "palette.png") > 0.9
    gray_jpeg = two_halves("RGB", (50, 50, 50), (200, 200, 200))
    assert color(gray_jpeg, "gray.jpeg") < 0.01


@pytest.mark.parametrize(
    "name",
    ["image.dcm", "IMAGE.DICOM", "IM000001"],  # the last as on a CD from a hospital
)
@pytest.mark.parametrize("has_preamble", [True, False])
def test_a_dicom_file_is_resized_by_area_means_like_others(
    tmp_path, name, has_preamble
):
    levels = np.array([[0, 0, 0.5], [1, 1, 1]])
    stored = np.repeat(np.repeat(STORED, 48, 0), 32, 1)
    path = write_dicom(
        tmp_path / name,
        stored,
        WindowCenter=2000.5,
        WindowWidth=2001,
        PatientAge="045Y",
    )
    if not has_preamble:
        path.write_bytes(path.read_bytes()[132:])
    x, about = read_user_image(path, 48)
    assert x.shape == (1, 48, 48, 1)
    assert (about["width"], about["height"], about["color"]) == (96, 96, 0)
    assert abs(x[0, 12::24, 8::16, 0] - 255 * levels).max() <= 1
    [note] = about["notes"]
    assert "45 years" in note


def test_a_dicom_file_of_many_frames_or_without_an_image_is_refused(tmp_path):
    many = np.zeros((3, 32, 32), np.uint8)
    write_dicom(tmp_path / "many.dcm", many, NumberOfFrames=3)
    whole = write_dicom(tmp_path / "whole.dcm", np.zeros((64, 64), np.uint8))
    (tmp_path / "truncated.dcm").write_bytes(whole.read_bytes()[:-500])
    (tmp_path / "text.dcm").write_text("this is no DICOM file at all, " * 20)
    without_pixels = whole.read_bytes().split(b"\xe0\x7f")[0]
    (tmp_path / "none.dcm").write_bytes(without_pixels)
    for name, words in (("many", "3 frames"), ("truncated", ""), ("text", "")):
        with pytest.raises(ValueError, match=rf"{name}\.dcm.*{words}"):
            read_user_image(tmp_path / f"{name}.dcm", 32)
    with pytest.raises(ValueError, match=r"none\.dcm"):
        read_user_image(tmp_path / "none.dcm", 32)


def test_a_dicom_file_whose_decoder_is_missing_names_the_package(tmp_path):
    import pydicom

    frame = pydicom.encaps.encapsulate([b"\xff\xd8 no image"])
    path = tmp_path / "image.dcm"
    write_dicom(path, STORED, pydicom.uid.JPEGLossless, PixelData=frame)
    # "." matches no end of line: it is one sentence.
    with pytest.raises(
        ValueError, match=r"image\.dcm.*pylibjpeg-libjpeg.*save it as PNG"
    ):
        read_user_image(path, 32)


def test_dicom_without_pydicom_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "image.dcm").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ModuleNotFoundError, match=r"image\.dcm.*pip install pydicom"):
        read_user_image(tmp_path / "image.dcm", 32)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    two_halves("L", 50, 200).save(tmp_path / "whole.jpeg")
    data = (tmp_path / "whole.jpeg").read_bytes()
    (tmp_path / "truncated.jpeg").write_bytes(data[:-40])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "letter.docx").write_bytes(b"PK, not an image")
    for name in ("truncated.jpeg", "empty.png", "letter.docx", "missing.png", ""):
        with pytest.raises(ValueError, match=name or tmp_path.name):
            read_user_image(tmp_path / name, 32)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300)
NIFTI = b"\x5c\x01\0\0" + bytes(340) + b"n+1\0" + bytes(100)


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("photo.heic", HEIC, "HEIC"),
        ("scan.pdf", b"%PDF-1.7\n" + bytes(99), "PDF"),
        ("scan.nii", NIFTI, "NIfTI"),
        ("notes.txt", b"a letter\n" * 50, "known"),
        ("photo.jpeg", b"a letter\n" * 50, "known"),
        ("image.png", b"", "empty"),
        ("image.dcm", b"", "empty"),
        ("letter.dcm", b"a letter\n" * 50, "DICOM"),
        ("image.dcm", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_the_reason_is_one_sentence_without_addresses_in_memory(
    tmp_path, name, data, words
):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"{name} cannot be read: .*{words}.*\. JPEG, PNG and"
    ) as refused:
        read_user_image(tmp_path / name, 32)
    assert not any(
        words in str(refused.value) for words in ("<", " at 0x", "\n", "attribute")
    )


def test_damaged_compressed_pixels_are_an_error_without_addresses_in_memory(tmp_path):
    import pydicom

    frame = pydicom.encaps.encapsulate([b"\xff\xd8 no image"])
    for syntax in (
        pydicom.uid.JPEG2000,
        pydicom.uid.RLELossless,
        pydicom.uid.JPEGBaseline8Bit,
    ):
        write_dicom(tmp_path / "image.dcm", STORED, syntax, PixelData=frame)
        message = (
            r"image\.dcm cannot be read: its pixel data cannot be decoded "
            r"\([^<\n]*\. JPEG, PNG"
        )
        with pytest.raises(ValueError, match=message):
            read_user_image(tmp_path / "image.dcm", 32)


@pytest.fixture(scope="module")
def trained(few_phantoms):
    """(model, detector, test images, training batches) on phantoms.

    The weights are random, which is enough to tell textures apart.
    """
    folder = few_phantoms / "chest_xray"
    files = list_images(folder)
    x, train_files, _ = load_split(folder, files[files.folder == "train"], 32, "train")
    x_test, _, _ = load_split(folder, files[files.folder == "test"], 32, "test")
    is_train = np.arange(len(train_files)) % 4 > 0
    train_files = train_files.assign(split=np.where(is_train, "train", "val"))
    keras.utils.set_random_seed(0)
    model = build_cnn(32)
    train_batches = make_batches("train", train_files, [x], 64)
    val_batches = make_batches("val", train_files, [x], 64)
    detector = OutOfDistributionDetector(
        model, train_batches, val_batches, train_files, outlier_fraction=0.05
    )
    return model, detector, x_test, train_batches


def test_the_distance_is_that_of_mahalanobis(trained, monkeypatch):
    """Three standard deviations along an axis of the covariance are a distance of 3.

    As long as shrinkage does little.
    """
    _, detector, _, batches = trained
    features = detector.features(gather_images(batches.arrays, batches.rows))
    covariance = np.linalg.inv(detector.gaussian.precision_)
    variances, axes = np.linalg.eigh(covariance)
    for number in (0, len(variances) // 2, len(variances) - 1):
        offset = 3 * np.sqrt(variances[number]) * axes[:, number]
        place = (features.mean(axis=0) + offset)[None]
        monkeypatch.setattr(detector, "features", lambda x, place=place: place)
        distance = detector.distances(np.zeros((1, 32, 32, 1), np.uint8))[0]
        assert distance == pytest.approx(3, rel=1e-3)


def test_noise_photos_and_rotated_images_are_detected_and_most_of_test_is_not(trained):
    _, detector, x, _ = trained
    distances = detector.reference_distances
    flagged = np.mean(distances > detector.threshold)
    assert flagged == pytest.approx(0.05, abs=1 / len(distances))  # to one image
    assert np.mean(detector.distances(x) > detector.threshold) < 0.25
    photos = [
        Image.fromarray(load_sample_image(name)).convert("L").resize((32, 32))
        for name in ("flower.jpg", "china.jpg")
    ]
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), np.uint8)
    outliers = {
        "noise": noise,
        "photos": np.stack(photos)[..., None],
        "rotated by 90 degrees": np.rot90(x[:40], 1, (1, 2)),
    }
    for name, images in outliers.items():
        assert np.mean(detector.distances(images) > detector.threshold) > 0.9, name


def test_at_most_so_many_images_are_used_drawn_by_the_seed(trained):
    _, detector, _, batches = trained
    inputs = keras.Input((32, 32, 1))
    features = keras.layers.Conv2D(4, 5, strides=4)(inputs)
    average = keras.layers.GlobalAveragePooling2D(name="average")(features)
    model = keras.Model(inputs, average)  # a small one, which compiles faster
    files = pd.DataFrame({"width": [130], "height": [100]})
    few, again, other = [
        OutOfDistributionDetector(
            model, batches, batches, files, seed=seed, max_images=9
        ).reference_distances
        for seed in (0, 0, 1)
    ]
    assert len(few) == 9 < len(detector.reference_distances)
    assert np.array_equal(few, again) and not np.array_equal(few, other)


def test_simple_checks_name_color_aspect_ratio_and_missing_contrast(trained):
    _, detector, x, _ = trained
    typical = x[int(np.argmin(detector.distances(x)))][None]
    about = {"width": 130, "height": 100, "color": 0.0, "notes": []}
    assert detector.reasons_against(typical, about) == []
    [reason] = detector.reasons_against(typical, about | {"color": 0.3})
    assert "color" in reason
    [reason] = detector.reasons_against(typical, about | {"width": 900})
    assert "aspect ratio" in reason and "9.00" in reason
    with_note = about | {"notes": ["a note about the header"]}
    assert detector.reasons_against(typical, with_note) == with_note["notes"]
    assert with_note["notes"] == ["a note about the header"]
    flat = np.full_like(typical, 90)
    reasons = detector.reasons_against(flat, about)
    assert any("contrast" in reason for reason in reasons)


@pytest.fixture
def show():
    """A function in place of the notebook's; it keeps what it is called with."""

    def remember(figure, name, title, color="black"):
        remember.calls.append((figure, name, title, color))

    remember.calls = []
    return remember


def test_an_outlier_gets_a_warning_and_no_class(trained, tmp_path, capsys, show):
    model, detector, _, _ = trained
    path = tmp_path / "flower.jpg"
    Image.fromarray(load_sample_image("flower.jpg")).save(path)
    predict_image(path, model, detector, 0.5, "stretch", show, "phantom radiographs")
    printed = capsys.readouterr().out
    assert printed.startswith("WARNING: flower.jpg")
    for words in ("in color", "nearer", "P(PNEUMONIA)", "phantom radiographs"):
        assert words in printed
    [(_, _, title, color)] = show.calls
    assert "no prediction" in title and color == "#B00020"
    for text in (printed.replace("P(PNEUMONIA)", ""), title):
        assert "PNEUMONIA" not in text and "NORMAL" not in text


def test_a_typical_image_is_classified_and_shown_with_its_map(
    trained, few_phantoms, capsys, show
):
    model, detector, x, _ = trained
    folder = few_phantoms / "chest_xray"
    paths = list_images(folder).query("folder == 'test'").path
    path = folder / paths.iloc[int(np.argmin(detector.distances(x)))]
    for threshold, class_name, color in (
        (0.0, "PNEUMONIA", "#D55E00"),
        (1.0, "NORMAL", "#0072B2"),
    ):
        predict_image(path, model, detector, threshold, "stretch", show, "phantoms")
        printed = capsys.readouterr().out
        assert "WARNING" not in printed and path.name in printed
        assert f": {class_name}" in printed and "decide about a patient" in printed
        figure, name, title, title_color = show.calls[-1]
        assert name == "own_image" and class_name in title and title_color == color
        image, heatmap = figure.axes[0].images  # the map lies over a second copy
        assert image.get_array().shape == heatmap.get_array().shape
        assert image.get_array().shape[1] > 2 * 32
