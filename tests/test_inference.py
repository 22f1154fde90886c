"""A picture of one's own: read as the training images are, whatever format it has, and warned of where it is unlike them."""

import sys

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from test_dicom import STORED, write_dicom
from test_images import PICTURES, halves

from cxr.batches import gather_images, make_batches
from cxr.dataset import list_images
from cxr.images import load_split
from cxr.inference import OutOfDistributionDetector, predict_image, read_user_image
from cxr.models import build_cnn


def turned_by_a_camera(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    halves("RGB", (50, 60, 70), (200, 210, 190)).save(path, exif=exif)


@pytest.mark.parametrize("name", [*PICTURES, "turned.jpeg"])
def test_a_picture_is_read_exactly_as_load_split_reads_it(tmp_path, name):
    PICTURES[name]().save(
        tmp_path / name, quality=95
    ) if name in PICTURES else turned_by_a_camera(tmp_path / name)
    loaded, table, _ = load_split(
        tmp_path, pd.DataFrame({"path": [name]}), 32, "Loading"
    )
    x, about = read_user_image(tmp_path / name, 32)
    assert x.dtype == np.uint8 and np.array_equal(x, loaded)
    assert (about["width"], about["height"]) == (table.width[0], table.height[0])
    assert (
        about["width"] == (48 if name == "turned.jpeg" else 64) and not about["notes"]
    )


@pytest.mark.parametrize("resize_mode", ["pad", "center_crop"])
def test_a_picture_follows_the_geometry_of_the_training_images(tmp_path, resize_mode):
    """Two halves, 64 × 48: in the middle square each has 24 columns; between bars the film is 24 rows high, of 32."""
    halves("L", 50, 200).save(tmp_path / "a.png")
    write_dicom(
        tmp_path / "a.dcm", np.repeat(np.uint8([[50] * 32 + [200] * 32]), 48, 0)
    )
    expected = np.zeros((32, 32), int)
    expected[slice(4, 28) if resize_mode == "pad" else slice(None)] = [50] * 16 + [
        200
    ] * 16
    x, about = read_user_image(tmp_path / "a.png", 32, resize_mode)
    assert np.array_equal(x[0, :, :, 0], expected) and (
        about["width"],
        about["height"],
    ) == (64, 48)
    film, about = read_user_image(tmp_path / "a.dcm", 32, resize_mode)
    assert (about["width"], about["height"]) == (64, 48) and np.array_equal(
        film[0, :, :, 0] > 0, expected > 100
    )


def test_color_is_what_is_seen_of_it(tmp_path):
    def color(picture, name="a.png"):
        picture.save(tmp_path / name)
        return read_user_image(tmp_path / name, 32)[1]["color"]

    assert (
        color(halves("L", 0, 255))
        == color(halves("RGB", (9, 9, 9), (200, 200, 200)))
        == 0
    )
    assert color(halves("RGB", (255, 0, 0), (9, 9, 9))) == pytest.approx(0.5, abs=0.02)
    assert (
        color(halves("RGBA", (255, 0, 0, 0), (9, 9, 9, 255))) == 0
    )  # red, but nobody sees it
    assert (
        color(halves("RGB", (255, 0, 0), (0, 0, 255)).quantize(), "palette.png") > 0.9
    )
    assert color(halves("RGB", (50, 50, 50), (200, 200, 200)), "gray.jpeg") < 0.01


@pytest.mark.parametrize(
    "name", ["film.dcm", "FILM.DICOM", "IM000001"]
)  # the last as on a CD from a hospital
@pytest.mark.parametrize("preamble", [True, False])
def test_a_dicom_file_is_shrunk_by_area_means_like_others(tmp_path, name, preamble):
    levels = [[0, 0, 0.5], [1, 1, 1]]
    stored = np.repeat(np.repeat(STORED, 48, 0), 32, 1)
    path = write_dicom(
        tmp_path / name,
        stored,
        WindowCenter=2000.5,
        WindowWidth=2001,
        PatientAge="045Y",
    )
    if not preamble:
        path.write_bytes(path.read_bytes()[132:])
    x, about = read_user_image(path, 48)
    assert x.shape == (1, 48, 48, 1) and (
        about["width"],
        about["height"],
        about["color"],
    ) == (96, 96, 0)
    assert abs(x[0, 12::24, 8::16, 0] - 255 * np.asarray(levels)).max() <= 1
    assert len(about["notes"]) == 1 and "45 years" in about["notes"][0]


def test_a_dicom_file_of_many_frames_without_picture_or_cut_off_is_an_error(tmp_path):
    many = write_dicom(
        tmp_path / "many.dcm", np.zeros((3, 32, 32), np.uint8), NumberOfFrames=3
    )
    whole = write_dicom(tmp_path / "whole.dcm", np.zeros((64, 64), np.uint8))
    (tmp_path / "cut.dcm").write_bytes(whole.read_bytes()[:-500])
    (tmp_path / "text.dcm").write_text("this is no DICOM file at all, " * 20)
    (tmp_path / "none.dcm").write_bytes(whole.read_bytes().split(b"\xe0\x7f")[0])
    for path, word in (
        (many, "3 frames"),
        *[(tmp_path / f"{name}.dcm", "") for name in ("cut", "text", "none")],
    ):
        with pytest.raises(ValueError, match=rf"{path.name}.*{word}"):
            read_user_image(path, 32)


def test_a_dicom_file_whose_decoder_is_missing_says_which_package_it_takes(tmp_path):
    import pydicom

    frame = pydicom.encaps.encapsulate([b"\xff\xd8 no picture"])
    write_dicom(
        tmp_path / "film.dcm", STORED, pydicom.uid.JPEGLossless, PixelData=frame
    )
    with pytest.raises(
        ValueError, match=r"film\.dcm.*pylibjpeg-libjpeg.*save it as PNG"
    ):  # "." is no line end: one sentence
        read_user_image(tmp_path / "film.dcm", 32)


def test_dicom_without_pydicom_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "film.dcm").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ModuleNotFoundError, match=r"film\.dcm.*pip install pydicom"):
        read_user_image(tmp_path / "film.dcm", 32)


def test_what_cannot_be_read_is_named(tmp_path):
    halves("L", 50, 200).save(tmp_path / "whole.jpeg")
    (tmp_path / "cut.jpeg").write_bytes((tmp_path / "whole.jpeg").read_bytes()[:-40])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "letter.docx").write_bytes(b"PK, not a picture")
    for name in ("cut.jpeg", "empty.png", "letter.docx", "missing.png", ""):
        with pytest.raises(ValueError, match=name or tmp_path.name):
            read_user_image(tmp_path / name, 32)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300)
NIFTI = b"\x5c\x01\0\0" + bytes(340) + b"n+1\0" + bytes(100)


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("photo.heic", HEIC, "a HEIC or AVIF picture"),
        ("scan.pdf", b"%PDF-1.7\n" + bytes(99), "a PDF file"),
        ("scan.nii", NIFTI, "a NIfTI file"),
        ("notes.txt", b"a letter\n" * 50, "no picture of a known kind"),
        ("photo.jpeg", b"a letter\n" * 50, "no picture of a known kind"),
        ("film.png", b"", "empty"),
        ("film.dcm", b"", "empty"),
        ("letter.dcm", b"a letter\n" * 50, "no DICOM file"),
        ("film.dcm", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
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
        word in str(refused.value) for word in ("<", " at 0x", "\n", "attribute")
    )


def test_damaged_compressed_pixels_are_an_error_without_addresses_in_memory(tmp_path):
    import pydicom

    frame = pydicom.encaps.encapsulate([b"\xff\xd8 no picture"])
    for syntax in (
        pydicom.uid.JPEG2000,
        pydicom.uid.RLELossless,
        pydicom.uid.JPEGBaseline8Bit,
    ):
        write_dicom(tmp_path / "film.dcm", STORED, syntax, PixelData=frame)
        with pytest.raises(
            ValueError,
            match=r"film\.dcm cannot be read: its pixel data cannot be decoded \([^<\n]*\. JPEG, PNG",
        ):
            read_user_image(tmp_path / "film.dcm", 32)


@pytest.fixture(scope="module")
def judge(phantoms):
    """(a network, what is familiar to it, test images) on phantoms; its weights are random, which is enough to tell textures."""
    files = list_images(phantoms / "chest_xray")
    train, test = [
        load_split(phantoms / "chest_xray", files[files.folder == split], 32, split)
        for split in ("train", "test")
    ]
    pool = train[1].assign(split=np.where(np.arange(len(train[1])) % 4, "train", "val"))
    keras.utils.set_random_seed(0)
    model = build_cnn(32)
    fit, holdout = [
        make_batches(part, pool, [train[0]], 64) for part in ("train", "val")
    ]
    return (
        model,
        OutOfDistributionDetector(model, fit, holdout, pool, share=0.05),
        test[0],
        fit,
    )


def test_the_distance_is_that_of_mahalanobis(judge, monkeypatch):
    """Along each axis of the cloud: a step of one standard deviation is a distance of 1, as long as shrinkage does little."""
    familiar, fit = judge[1], judge[3]
    features = familiar.pool(gather_images(fit.arrays, fit.rows))
    spread, axes = np.linalg.eigh(np.linalg.inv(familiar.cloud.precision_))
    for number in (0, len(spread) // 2, len(spread) - 1):
        place = features.mean(axis=0) + 3 * np.sqrt(spread[number]) * axes[:, number]
        monkeypatch.setattr(familiar, "pool", lambda x, place=place: place[None])
        assert familiar.distances(np.zeros((1, 32, 32, 1), np.uint8))[
            0
        ] == pytest.approx(3, rel=1e-3)


def test_noise_photos_and_a_chest_on_its_side_are_warned_of_and_most_of_test_is_not(
    judge,
):
    _, familiar, x, _ = judge
    assert np.mean(familiar.reference_distances > familiar.threshold) == pytest.approx(
        0.05, abs=0.01
    )
    assert np.mean(familiar.distances(x) > familiar.threshold) < 0.25
    photos = [
        Image.fromarray(load_sample_image(name)).convert("L").resize((32, 32))
        for name in ("flower.jpg", "china.jpg")
    ]
    outsiders = {
        "noise": np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), np.uint8),
        "photos": np.stack(photos)[..., None],
        "on the side": np.rot90(x[:40], 1, (1, 2)),
    }
    for name, pictures in outsiders.items():
        assert np.mean(familiar.distances(pictures) > familiar.threshold) > 0.9, name


def test_at_most_so_many_images_are_looked_at_drawn_by_the_seed(judge):
    model, familiar, _, fit = judge
    files = pd.DataFrame({"width": [130], "height": [100]})
    few, again, other = [
        OutOfDistributionDetector(
            model, fit, fit, files, most=9, seed=seed
        ).reference_distances
        for seed in (0, 0, 1)
    ]
    assert (
        len(few) == 9 < len(familiar.reference_distances)
        and np.array_equal(few, again)
        and not np.array_equal(few, other)
    )


def test_plain_checks_name_color_shape_and_flat_pictures(judge):
    _, familiar, x, _ = judge
    usual = x[int(np.argmin(familiar.distances(x)))][None]
    fine = {"width": 130, "height": 100, "color": 0.0, "notes": []}
    assert familiar.reasons_against(usual, fine) == []
    assert "color" in familiar.reasons_against(usual, fine | {"color": 0.3})[0]
    assert "wide" in familiar.reasons_against(usual, fine | {"width": 900})[0]
    assert familiar.reasons_against(
        usual, fine | {"notes": ["its header says so"]}
    ) == ["its header says so"]
    assert any(
        "one gray" in reason
        for reason in familiar.reasons_against(np.full_like(usual, 90), fine)
    )


def test_a_flower_is_warned_of_in_words_and_in_the_title(
    judge, phantoms, tmp_path, capsys
):
    model, familiar, x, _ = judge
    Image.fromarray(load_sample_image("flower.jpg")).save(tmp_path / "flower.jpg")
    predict_image(
        tmp_path / "flower.jpg",
        model,
        familiar,
        0.5,
        tmp_path,
        "own",
        "phantom radiographs",
    )
    said = capsys.readouterr().out
    assert (
        said.startswith("WARNING: flower.jpg")
        and "in color" in said
        and "farther than" in said
        and "P(PNEUMONIA)" in said
    )
    files = list_images(phantoms / "chest_xray").query("split == 'test'")
    path = (
        phantoms / "chest_xray" / files.path.iloc[int(np.argmin(familiar.distances(x)))]
    )
    predict_image(
        path, model, familiar, 0.5, tmp_path, "phantom", "phantom radiographs"
    )
    said = capsys.readouterr().out
    assert (
        "WARNING" not in said and path.name in said and "decide about a patient" in said
    )
    assert (
        Image.open(tmp_path / "figures" / "own_picture.png").width > 500
    )  # the film, and beside it its map
