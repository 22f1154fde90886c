"""A picture of one's own: read as the training images are, whatever format it has, and warned of where it is unlike them."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_reading import PICTURES, halves


def turned_by_a_camera(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    halves("RGB", (50, 60, 70), (200, 210, 190)).save(path, exif=exif)


@pytest.mark.parametrize("name", [*PICTURES, "turned.jpeg"])
def test_a_picture_is_read_exactly_as_load_split_reads_it(notebook, tmp_path, name):
    PICTURES[name]().save(tmp_path / name, quality=95) if name in PICTURES else turned_by_a_camera(tmp_path / name)
    loaded, table, _ = notebook.load_split(tmp_path, pd.DataFrame({"path": [name]}), 32, "Loading")
    x, about = notebook.read_picture(tmp_path / name, 32)
    assert x.dtype == np.uint8 and np.array_equal(x, loaded)
    assert (about["width"], about["height"]) == (table.width[0], table.height[0])
    assert about["width"] == (48 if name == "turned.jpeg" else 64) and not about["notes"]


def test_colour_is_what_is_seen_of_it(notebook, tmp_path):
    def colour(picture, name="a.png"):
        picture.save(tmp_path / name)
        return notebook.read_picture(tmp_path / name, 32)[1]["colour"]

    assert colour(halves("L", 0, 255)) == colour(halves("RGB", (9, 9, 9), (200, 200, 200))) == 0
    assert colour(halves("RGB", (255, 0, 0), (9, 9, 9))) == pytest.approx(0.5, abs=0.02)
    assert colour(halves("RGBA", (255, 0, 0, 0), (9, 9, 9, 255))) == 0  # red, but nobody sees it
    assert colour(halves("RGB", (255, 0, 0), (0, 0, 255)).quantize(), "palette.png") > 0.9
    assert colour(halves("RGB", (50, 50, 50), (200, 200, 200)), "grey.jpeg") < 0.01


def write_dicom(path, stored, **tags):
    """Write an array as an uncompressed DICOM file, with these tags set and those that are None removed."""
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = pydicom.uid.generate_uid()
    bits = stored.dtype.itemsize * 8
    header.Rows, header.Columns = stored.shape[-2:] if stored.ndim < 3 or stored.shape[-1] > 3 else stored.shape[:2]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = bits, bits, bits - 1
    header.PixelRepresentation, header.Modality = int(stored.dtype.kind == "i"), "DX"
    header.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(header, name, value)
    header.save_as(path, enforce_file_format=True)
    return path


STORED = np.array([[0, 1000, 2000], [3000, 3500, 4000]], np.uint16)
DICOMS = {
    "plain": ({}, STORED / 4000),
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, 1 - STORED / 4000),
    "window": ({"WindowCenter": 2000.5, "WindowWidth": 2001}, [[0, 0, 0.5], [1, 1, 1]]),
    "two windows": ({"WindowCenter": [2000.5, 1], "WindowWidth": [4001, 2]}, [[0, 0.25, 0.5], [0.75, 0.875, 1]]),
    "exact window": ({"WindowCenter": 2000, "WindowWidth": 8000, "VOILUTFunction": "LINEAR_EXACT"}, 0.25 + STORED / 8000),
    "sigmoid": ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"}, 1 / (1 + np.exp(-(STORED - 2000.0) / 1000))),
    "slope": ({"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3000.5, "WindowWidth": 8001}, STORED / 4000),
    "inverted window": ({"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 2000.5, "WindowWidth": 2001},
                        [[1, 1, 0.5], [0, 0, 0]]),
}


@pytest.mark.parametrize("name", DICOMS)
def test_dicom_grey_levels_are_those_that_its_tags_ask_for(notebook, tmp_path, name):
    tags, levels = DICOMS[name]
    path = write_dicom(tmp_path / "film.dcm", np.repeat(np.repeat(STORED, 48, 0), 32, 1), **tags)
    x, about = notebook.read_picture(path, 96)
    assert (about["width"], about["height"], about["colour"], about["notes"]) == (96, 96, 0, [])
    assert abs(x[0, 24::48, 16::32, 0] - 255 * np.asarray(levels)).max() <= 1


def test_dicom_look_up_table_signed_values_and_colour(notebook, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4, 0, 8])
    table.add_new("LUTData", "OW", np.array([0, 200, 50, 255], np.uint16).tobytes())
    steps = np.repeat(np.arange(4, dtype=np.uint16)[None].repeat(32, 0), 8, 1)
    x, _ = notebook.read_picture(write_dicom(tmp_path / "a.dcm", steps, VOILUTSequence=[table]), 32)
    assert x[0, 5, 4::8, 0].tolist() == [0, 200, 50, 255]
    signed = np.repeat([[-1000, 1000]], 32, 0).repeat(16, 1).astype(np.int16)
    x, _ = notebook.read_picture(write_dicom(tmp_path / "b.dcm", signed, WindowCenter=0.5, WindowWidth=4001), 32)
    assert x[0, 0, [0, -1], 0].tolist() == [64, 191]
    rgb = np.full((32, 32, 3), 90, np.uint8)
    path = write_dicom(tmp_path / "c.dcm", rgb, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    assert np.unique(notebook.read_picture(path, 32)[0]).tolist() == [90]
    nameless = path.rename(tmp_path / "IM000001")  # as on a CD from a hospital
    assert np.unique(notebook.read_picture(nameless, 32)[0]).tolist() == [90]


@pytest.mark.parametrize("tags, word", [
    ({"PatientAge": "045Y"}, "45 years"), ({"PatientBirthDate": "19800630", "StudyDate": "20200629"}, "39 years"),
    ({"ViewPosition": "LL"}, "side"), ({"Modality": "MR"}, "MR"), ({"BodyPartExamined": "KNEE"}, "KNEE"),
    ({"PatientAge": "003Y", "ViewPosition": "PA", "BodyPartExamined": "CHEST"}, ""), ({"PatientAge": "030M"}, "")])
def test_what_a_dicom_header_says_against_it_is_passed_on(notebook, tmp_path, tags, word):
    notes = notebook.read_picture(write_dicom(tmp_path / "film.dcm", np.eye(32, dtype=np.uint8), **tags), 32)[1]["notes"]
    assert len(notes) == bool(word) and all(word in note for note in notes)


def test_a_dicom_file_of_many_frames_without_picture_or_cut_off_is_an_error(notebook, tmp_path):
    many = write_dicom(tmp_path / "many.dcm", np.zeros((3, 32, 32), np.uint8), NumberOfFrames=3)
    whole = write_dicom(tmp_path / "whole.dcm", np.zeros((64, 64), np.uint8))
    (tmp_path / "cut.dcm").write_bytes(whole.read_bytes()[:-500])
    (tmp_path / "text.dcm").write_text("this is no DICOM file at all, " * 20)
    (tmp_path / "none.dcm").write_bytes(whole.read_bytes().split(b"\xe0\x7f")[0])
    for path, word in ((many, "3 frames"), *[(tmp_path / f"{name}.dcm", "") for name in ("cut", "text", "none")]):
        with pytest.raises(ValueError, match=rf"{path.name}.*{word}"):
            notebook.read_picture(path, 32)


def test_dicom_without_pydicom_says_what_to_install(notebook, tmp_path, monkeypatch):
    (tmp_path / "film.dcm").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"film\.dcm.*pip install pydicom"):
        notebook.read_picture(tmp_path / "film.dcm", 32)


def test_what_cannot_be_read_is_named(notebook, tmp_path):
    halves("L", 50, 200).save(tmp_path / "whole.jpeg")
    (tmp_path / "cut.jpeg").write_bytes((tmp_path / "whole.jpeg").read_bytes()[:-40])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "letter.docx").write_bytes(b"PK, not a picture")
    for name in ("cut.jpeg", "empty.png", "letter.docx", "missing.png", ""):
        with pytest.raises(ValueError, match=name or tmp_path.name):
            notebook.read_picture(tmp_path / name, 32)


@pytest.fixture(scope="module")
def judge(notebook, phantoms):
    """(a network, what is familiar to it, test images) on phantoms; its weights are random, which is enough to tell textures."""
    import keras
    files = notebook.list_images(phantoms / "chest_xray")
    train, test = [notebook.load_split(phantoms / "chest_xray", files[files.split == split], 32, split) for split in ("train", "test")]
    pool = train[1].assign(part=np.where(np.arange(len(train[1])) % 4, "fit", "holdout"))
    keras.utils.set_random_seed(0)
    model = notebook.build_cnn(32)
    fit, holdout = [notebook.make_batches(part, pool, [train[0]], 64) for part in ("fit", "holdout")]
    return model, notebook.Familiar(model, fit, holdout, pool, share=0.05), test[0]


def test_the_distance_is_that_of_mahalanobis(notebook, judge):
    """Along each axis of the cloud: a step of one standard deviation is a distance of 1, as long as shrinkage does little."""
    familiar = judge[1]
    spread, axes = np.linalg.eigh(np.linalg.inv(familiar.precision))
    for number in (0, len(spread) // 2, len(spread) - 1):
        place = familiar.middle + 3 * np.sqrt(spread[number]) * axes[:, number]
        familiar_at = type("Placed", (), {"pool": lambda self, x, place=place: place[None], "middle": familiar.middle,
                                          "precision": familiar.precision})()
        assert notebook.Familiar.measure(familiar_at, np.zeros((1, 32, 32, 1), np.uint8))[0] == pytest.approx(3, rel=1e-3)


def test_noise_and_turned_chests_are_warned_of_and_most_of_test_is_not(notebook, judge):
    model, familiar, x = judge
    assert np.mean(familiar.usual > familiar.cut) == pytest.approx(0.05, abs=0.01)
    assert np.mean(familiar.measure(x) > familiar.cut) < 0.25
    outsiders = notebook.list_outsiders(x[:40], 0)
    assert np.array_equal(outsiders["of test, as they are"], x[:40])
    for name in ("of test, lying on the side", "noise", "photo of a flower", "photo of a temple"):
        assert np.mean(familiar.measure(outsiders[name]) > familiar.cut) > 0.9, name
    table = notebook.judge_outsiders(model, familiar, outsiders)
    assert table["warned of"]["noise"] == "100%" and table["pictures"]["photo of a flower"] == 1


def test_plain_checks_name_colour_shape_and_flat_pictures(notebook, judge):
    _, familiar, x = judge
    usual = x[int(np.argmin(familiar.measure(x)))][None]
    fine = {"width": 130, "height": 100, "colour": 0.0, "notes": []}
    assert familiar.find_reasons(usual, fine) == []
    assert "colour" in familiar.find_reasons(usual, fine | {"colour": 0.3})[0]
    assert "wide" in familiar.find_reasons(usual, fine | {"width": 900})[0]
    assert familiar.find_reasons(usual, fine | {"notes": ["its header says so"]}) == ["its header says so"]
    assert any("one grey" in reason for reason in familiar.find_reasons(np.full_like(usual, 90), fine))


def test_a_flower_is_warned_of_in_words_and_in_the_title(notebook, judge, phantoms, tmp_path, capsys):
    model, familiar, x = judge
    Image.fromarray(notebook.load_sample_image("flower.jpg")).save(tmp_path / "flower.jpg")
    notebook.show_picture(tmp_path / "flower.jpg", model, familiar, 0.5, tmp_path, "own", "phantom radiographs")
    said = capsys.readouterr().out
    assert said.startswith("WARNING: flower.jpg") and "in colour" in said and "farther than" in said and "P(PNEUMONIA)" in said
    files = notebook.list_images(phantoms / "chest_xray").query("split == 'test'")
    path = phantoms / "chest_xray" / files.path.iloc[int(np.argmin(familiar.measure(x)))]
    notebook.show_picture(path, model, familiar, 0.5, tmp_path, "phantom", "phantom radiographs")
    said = capsys.readouterr().out
    assert "WARNING" not in said and path.name in said and "decide about a patient" in said
    assert Image.open(tmp_path / "figures" / "own_picture.png").width > 600


def test_the_button_is_for_people_and_reads_both_kinds_of_uploads(notebook, monkeypatch):
    assert notebook.read_upload({"a.png": {"metadata": {}, "content": b"12"}}) == [("a.png", b"12")]
    assert notebook.read_upload(({"name": "a.png", "content": memoryview(b"12")},)) == [("a.png", b"12")]
    for name in ("COLAB_RELEASE_TAG", "JPY_SESSION_NAME", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    assert not notebook.has_front_end()
    notebook.offer_upload(None)  # nobody is there: nothing is shown, nothing waits
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert notebook.has_front_end()


def test_an_uploaded_file_reaches_the_cell_and_a_broken_one_is_a_sentence(notebook, monkeypatch, capsys):
    ipywidgets = pytest.importorskip("ipywidgets")
    made, seen = [], []
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    monkeypatch.setattr(ipywidgets, "FileUpload", lambda **rest: made.append(ipywidgets.Textarea()) or made[-1])
    monkeypatch.setitem(notebook.offer_upload.__globals__, "display", lambda *shown: None)
    monkeypatch.setitem(notebook.offer_upload.__globals__, "read_upload", lambda value: [("../x.png", value.encode())])

    def show(path):
        seen.append((path.name, path.read_bytes()))
        raise ValueError("x.png cannot be read")

    notebook.offer_upload(show)
    made[0].value = "bytes"
    assert seen == [("x.png", b"bytes")] and "cannot be read" in capsys.readouterr().out
