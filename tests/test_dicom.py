"""DICOM files get the gray levels of the standard, or are refused with a reason."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from cxr.dicom import read_dicom

pydicom = pytest.importorskip("pydicom")

STORED = np.array([[0, 1000, 2000], [3000, 3500, 4000]], np.uint16)


def write_dicom(path, stored, syntax=pydicom.uid.ExplicitVRLittleEndian, **tags):
    """Write an array as a DICOM file with these tags; None leaves a tag empty."""
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = (
        pydicom.uid.ComputedRadiographyImageStorage
    )
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = (
        pydicom.uid.generate_uid()
    )
    bits = stored.dtype.itemsize * 8
    is_color = stored.ndim == 3 and stored.shape[-1] <= 3
    header.Rows, header.Columns = stored.shape[:2] if is_color else stored.shape[-2:]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = bits
    header.BitsStored = bits
    header.HighBit = bits - 1
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    header.Modality = "DX"
    header.PixelData = stored.tobytes()
    with pydicom.config.disable_value_validation():
        for name, value in tags.items():
            setattr(header, name, value)
        header.save_as(path, enforce_file_format=True)
    return path


def look_up_table(descriptor, data, kind="OW"):
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", descriptor)
    table.add_new("LUTData", kind, data)
    return [table]


def view_code(value, meaning):
    code = pydicom.Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = "SCT"
    code.CodeMeaning = meaning
    return [code]


def nest(*names, **tags):
    """Return nested sequences of one item each; the innermost holds the tags."""
    item = pydicom.Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    for name in reversed(names):
        outer = pydicom.Dataset()
        setattr(outer, name, [item])
        item = outer
    return item[names[0]].value


def levels_of(folder, stored, **tags):
    """Return the gray levels, int (height, width), of an array with these tags."""
    gray, _ = read_dicom(write_dicom(folder / "image.dcm", stored, **tags).read_bytes())
    assert gray.dtype == np.uint8 and gray.shape == stored.shape
    return gray.astype(int)


SIGMOID = 1 / (1 + np.exp(-(STORED - 2000.0) / 1000))
WINDOW = {"WindowCenter": 2000.5, "WindowWidth": 2001}
DICOMS = {
    "plain": ({}, STORED / 4000),
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, 1 - STORED / 4000),
    "window": (WINDOW, [[0, 0, 0.5], [1, 1, 1]]),
    "two windows": (
        {"WindowCenter": [2000.5, 1], "WindowWidth": [4001, 2]},
        [[0, 0.25, 0.5], [0.75, 0.875, 1]],
    ),
    "exact window": (
        {"WindowCenter": 2000, "WindowWidth": 8000, "VOILUTFunction": "LINEAR_EXACT"},
        0.25 + STORED / 8000,
    ),
    "exact, narrow": (
        {"WindowCenter": 1000, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"},
        [[0, 0.5, 1], [1, 1, 1]],
    ),
    "sigmoid": (
        {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"},
        SIGMOID,
    ),
    "function without value": (
        WINDOW | {"VOILUTFunction": None},
        [[0, 0, 0.5], [1, 1, 1]],
    ),
    "slope": (
        {
            "RescaleSlope": 2,
            "RescaleIntercept": -1000,
            "WindowCenter": 3000.5,
            "WindowWidth": 8001,
        },
        STORED / 4000,
    ),
    "slope without value": (
        WINDOW | {"RescaleSlope": None, "RescaleIntercept": -1000},
        [[0, 0, 0], [0.5, 0.75, 1]],
    ),
    "intercept without value": (
        WINDOW | {"RescaleSlope": 2, "RescaleIntercept": None},
        [[0, 0.5, 1], [1, 1, 1]],
    ),
    "slope and intercept without value": (
        {"RescaleSlope": None, "RescaleIntercept": None},
        STORED / 4000,
    ),
    "inverted window": (
        WINDOW | {"PhotometricInterpretation": "MONOCHROME1"},
        [[1, 1, 0.5], [0, 0, 0]],
    ),
    "window of width 1": (
        {"WindowCenter": 2000.5, "WindowWidth": 1},
        [[0, 0, 0], [1, 1, 1]],
    ),
    "window without value": (
        {"WindowCenter": None, "WindowWidth": None},
        STORED / 4000,
    ),
    "window around 0": (
        {"WindowCenter": 0, "WindowWidth": 8001},
        0.5 + (STORED + 0.5) / 8000,
    ),
    "empty list of tables": (WINDOW | {"VOILUTSequence": []}, [[0, 0, 0.5], [1, 1, 1]]),
    "table without values": (
        WINDOW | {"VOILUTSequence": [pydicom.Dataset()]},
        [[0, 0, 0.5], [1, 1, 1]],
    ),
    "neither table nor window": (
        {"VOILUTSequence": [pydicom.Dataset()], "ModalityLUTSequence": []},
        STORED / 4000,
    ),
    "padding": ({"PixelPaddingValue": 4000}, [[0, 2 / 7, 4 / 7], [6 / 7, 1, 0]]),
    "padding, inverted": (
        {"PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"},
        [[0, 1, 2 / 3], [1 / 3, 1 / 6, 0]],
    ),
    "padding, a range": (
        {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 3400},
        [[0, 1 / 3, 2 / 3], [1, 0, 0]],
    ),
    "padding, window": (WINDOW | {"PixelPaddingValue": 4000}, [[0, 0, 0.5], [1, 1, 0]]),
    "exact, narrow, with a small slope": (
        {
            "RescaleSlope": 1 / 4000,
            "RescaleIntercept": 0,
            "WindowCenter": 0.5,
            "WindowWidth": 1,
            "VOILUTFunction": "LINEAR_EXACT",
        },
        STORED / 4000,
    ),
    "sigmoid, narrow, with a small slope": (
        {
            "RescaleSlope": 0.001,
            "RescaleIntercept": 0,
            "WindowCenter": 2,
            "WindowWidth": 0.5,
            "VOILUTFunction": "SIGMOID",
        },
        1 / (1 + np.exp(-4 * (STORED / 1000 - 2) / 0.5)),
    ),
    "linear, width 2, with a small slope": (
        {
            "RescaleSlope": 0.001,
            "RescaleIntercept": 0,
            "WindowCenter": 2.5,
            "WindowWidth": 2,
        },
        [[0, 0, 0.5], [1, 1, 1]],
    ),
    "identity": ({"PresentationLUTShape": "IDENTITY"}, STORED / 4000),
    "inverse": ({"PresentationLUTShape": "INVERSE"}, 1 - STORED / 4000),
    "inverse, window": (
        WINDOW | {"PresentationLUTShape": "INVERSE"},
        [[1, 1, 0.5], [0, 0, 0]],
    ),
    "inverse, padding": (
        {"PresentationLUTShape": "INVERSE", "PixelPaddingValue": 4000},
        [[1, 5 / 7, 3 / 7], [1 / 7, 0, 0]],
    ),
    "inverse of MONOCHROME1, as the standard demands": (
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
        1 - STORED / 4000,
    ),
    "padding without value": ({"PixelPaddingValue": None}, STORED / 4000),
}


@pytest.mark.parametrize("name", DICOMS)
def test_gray_levels_are_those_that_its_tags_ask_for(tmp_path, name):
    tags, levels = DICOMS[name]
    assert (
        abs(levels_of(tmp_path, STORED, **tags) - 255 * np.asarray(levels)).max() <= 1
    )


@pytest.mark.parametrize(
    "center, width",
    [(2048, 4096), (100.5, 1), (7, 2), (-300, 900), (31000, 1.5), (60000, 65535)],
)
def test_a_window_gives_what_the_pseudo_code_of_the_standard_gives(
    tmp_path, center, width
):
    """PS3.3, C.11.2.1.2.1: the default function LINEAR, with y from 0 to 255."""

    def see(x):
        if x <= center - 0.5 - (width - 1) / 2:
            return 0
        if x > center - 0.5 + (width - 1) / 2:
            return 255
        return ((x - (center - 0.5)) / (width - 1) + 0.5) * 255

    near = [center + step for step in (-2, -1, 0, 1, 2)]
    stored = np.clip([[*near, 0, 1, 5000, 65535, center - width / 3]], 0, 65535).astype(
        np.uint16
    )
    levels = levels_of(tmp_path, stored, WindowCenter=center, WindowWidth=width)
    assert abs(levels - [[see(float(value)) for value in stored[0]]]).max() <= 0.5


def test_signed_values_and_a_window(tmp_path):
    stored = np.array([[-1000, 1000]], np.int16)
    assert levels_of(tmp_path, stored, WindowCenter=0.5, WindowWidth=4001).tolist() == [
        [64, 191]
    ]


# {name: (descriptor (entries, first value, bits), data, stored values, gray levels)}
TABLES = {
    "8 bits in words": (
        [4, 0, 8],
        np.array([0, 200, 50, 255], np.uint16).tobytes(),
        [0, 1, 2, 3],
        [0, 200, 50, 255],
    ),
    "8 bits in bytes": (
        [4, 0, 8],
        bytes([0, 200, 50, 255]),
        [0, 1, 2, 3],
        [0, 200, 50, 255],
    ),
    "8 bits in bytes, an odd number": (
        [3, 0, 8],
        bytes([0, 200, 50, 0]),
        [0, 1, 2, 3],
        [0, 200, 50, 50],
    ),
    "8 bits, 1024 entries": (
        [1024, 0, 8],
        (np.arange(1024) // 4).astype(np.uint16).tobytes(),
        [0, 400, 1023, 9999],
        [0, 100, 255, 255],
    ),
    "from a value on": (
        [4, 100, 8],
        bytes([10, 200, 50, 255]),
        [0, 100, 101, 65535],
        [10, 10, 200, 255],
    ),
    "16 bits": (
        [4, 0, 16],
        np.array([0, 25700, 51400, 65535], np.uint16).tobytes(),
        [0, 1, 2, 3],
        [0, 100, 200, 255],
    ),
    "16 bits, the last one unused": (
        [4, 0, 16],
        np.array([0, 25700, 0, 32767], np.uint16).tobytes(),
        [0, 1, 2, 3],
        [0, 100, 0, 127],
    ),
    "12 bits, called 12": (
        [4, 0, 12],
        np.array([0, 1606, 3212, 4095], np.uint16).tobytes(),
        [0, 1, 2, 3],
        [0, 100, 200, 255],
    ),
    "12 bits, called 16": (
        [4, 0, 16],
        np.array([0, 1606, 3212, 4095], np.uint16).tobytes(),
        [0, 1, 2, 3],
        [0, 100, 200, 255],
    ),
    "16 bits, called 8": (
        [4, 0, 8],
        np.array([0, 25700, 51400, 65535], np.uint16).tobytes(),
        [0, 1, 2, 3],
        [0, 100, 200, 255],
    ),
    "bytes, called 16 bits": (
        [4, 0, 16],
        bytes([0, 100, 200, 255]),
        [0, 1, 2, 3],
        [0, 100, 200, 255],
    ),
    "65536 entries": (
        [0, 0, 16],
        np.arange(65536, dtype=np.uint16).tobytes(),
        [0, 25700, 51400, 65535],
        [0, 100, 200, 255],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_look_up_table_gives_its_entries(tmp_path, name):
    descriptor, data, stored, levels = TABLES[name]
    stored = np.array([stored], np.uint16)
    assert levels_of(
        tmp_path, stored, VOILUTSequence=look_up_table(descriptor, data)
    ).tolist() == [levels]


@pytest.mark.parametrize("ends", [{}, {"WindowCenter": 2000.5, "WindowWidth": 4001}])
def test_the_values_of_a_modality_table_are_seen_through_the_window(tmp_path, ends):
    table = look_up_table(
        [4, 0, 12], np.array([0, 1000, 2000, 4000], np.uint16).tobytes()
    )
    levels = levels_of(
        tmp_path, np.array([[0, 1, 2, 3]], np.uint16), ModalityLUTSequence=table, **ends
    )
    assert abs(levels - [[0, 63.75, 127.5, 255]]).max() <= 0.5


def test_a_table_comes_before_a_window_and_after_a_slope(tmp_path):
    table = look_up_table([4, 0, 8], [0, 200, 50, 255], "US")
    both = levels_of(
        tmp_path,
        np.array([[0, 2, 4, 6]], np.uint16),
        VOILUTSequence=table,
        RescaleSlope=0.5,
        RescaleIntercept=0,
        **WINDOW,
    )
    assert both.tolist() == [[0, 200, 50, 255]]


@pytest.mark.parametrize(
    "kind, color, level",
    [
        ("RGB", (90, 90, 90), 90),
        ("RGB", (200, 0, 0), 0.299 * 200),
        ("YBR_FULL", (90, 128, 128), 90),
    ],
)
def test_color_becomes_its_luminance(tmp_path, kind, color, level):
    stored = np.tile(np.uint8(color), (8, 8, 1))
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        SamplesPerPixel=3,
        PhotometricInterpretation=kind,
        PlanarConfiguration=0,
    )
    assert abs(read_dicom(path.read_bytes())[0] - level).max() <= 0.5


@pytest.mark.parametrize("overlay", [0, 1 << 12, 1 << 15])
@pytest.mark.parametrize("syntax", ["native", "JPEG 2000"])
def test_overlay_bits_above_bits_stored_are_no_gray(tmp_path, overlay, syntax):
    stored = np.repeat(np.repeat(STORED, 16, 0), 16, 1)
    marked = stored.copy()
    marked[::3] |= np.uint16(overlay)
    tags = {"BitsStored": 12, "HighBit": 11}
    if syntax == "JPEG 2000":
        coded = io.BytesIO()
        Image.fromarray(marked).save(coded, "JPEG2000", irreversible=False, no_jp2=True)
        tags |= {
            "syntax": pydicom.uid.JPEG2000Lossless,
            "PixelData": pydicom.encaps.encapsulate([coded.getvalue()]),
        }
    assert abs(levels_of(tmp_path, marked, **tags) - stored / 4000 * 255).max() <= 0.5


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_is_read(tmp_path, implicit):
    path = write_dicom(tmp_path / "image.dcm", STORED, **WINDOW)
    header = pydicom.dcmread(path)
    bare = pydicom.Dataset(header)
    pydicom.dcmwrite(
        path, bare, implicit_vr=implicit, little_endian=True, enforce_file_format=False
    )
    assert path.read_bytes()[128:132] != b"DICM"
    assert (
        abs(
            read_dicom(path.read_bytes())[0]
            - np.array([[0, 0, 127.5], [255, 255, 255]])
        ).max()
        <= 0.5
    )


REFUSED = {
    "window of width 0": (WINDOW | {"WindowWidth": 0}, "Window Width"),
    "window narrower than 1": (WINDOW | {"WindowWidth": 0.5}, "Window Width"),
    "width 1 for values 0.001 apart": (
        {
            "RescaleSlope": 0.001,
            "RescaleIntercept": 0,
            "WindowCenter": 2,
            "WindowWidth": 1,
        },
        "0.001 apart",
    ),
    "width below 1 for values 0.001 apart": (
        {
            "RescaleSlope": 0.001,
            "RescaleIntercept": 0,
            "WindowCenter": 2,
            "WindowWidth": 0.8,
        },
        "Window",
    ),
    "exact, width 0": (
        WINDOW | {"WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
        "Window Width",
    ),
    "sigmoid, width 0": (
        WINDOW | {"WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        "Window Width",
    ),
    "a header without kind": (
        {"PhotometricInterpretation": None},
        "lacks PhotometricInterpretation",
    ),
    "no size": ({"Rows": None, "Columns": None}, "lacks Rows, Columns"),
    "pixels cut off": ({"PixelData": bytes(6)}, "pixel data are damaged"),
    "no pixels": ({"PixelData": b""}, "no image .its pixel data are missing"),
    "negative window": (
        WINDOW | {"WindowWidth": -5, "VOILUTFunction": "LINEAR_EXACT"},
        "Window Width",
    ),
    "unknown function": (WINDOW | {"VOILUTFunction": "CUBIC"}, "CUBIC"),
    "table cut off": (
        {"VOILUTSequence": look_up_table([256, 0, 8], bytes(100))},
        "100 of 256 entries",
    ),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_correctly_is_refused(tmp_path, name):
    tags, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        levels_of(tmp_path, STORED, **tags)


def test_a_window_that_is_no_number_is_refused(tmp_path):
    whole = write_dicom(
        tmp_path / "image.dcm",
        STORED,
        WindowCenter=2000,
        WindowWidth=4000,
        RescaleSlope="1200",
    ).read_bytes()
    assert b"1200" in whole and b"4000" in whole
    with pytest.raises(ValueError, match="not a number"):
        read_dicom(whole.replace(b"1200", b"nan "))
    with pytest.raises((ValueError, TypeError)):
        read_dicom(whole.replace(b"4000", b"nan "))


def test_an_image_with_few_values_keeps_its_levels_beside_padding(tmp_path):
    stored = np.arange(1000, 1256, dtype=np.uint16).reshape(16, 16)
    padded = np.pad(stored, 4, constant_values=65535)
    levels = levels_of(tmp_path, padded, PixelPaddingValue=65535)
    assert np.array_equal(levels[4:-4, 4:-4], np.arange(256).reshape(16, 16))
    assert set(levels[:4].ravel()) == {0}


def test_a_missing_decoder_is_named(tmp_path):
    frame = pydicom.encaps.encapsulate([b"\xff\xd8 not an image"])
    path = write_dicom(
        tmp_path / "image.dcm", STORED, pydicom.uid.JPEGLossless, PixelData=frame
    )
    with pytest.raises(ValueError, match=r"pip install pylibjpeg pylibjpeg-libjpeg"):
        read_dicom(path.read_bytes())


@pytest.mark.parametrize(
    "shared", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
)
@pytest.mark.parametrize("name", ["window", "exact, narrow", "sigmoid", "slope"])
def test_functional_groups_count_as_the_header_itself(tmp_path, shared, name):
    """Enhanced images have window and rescaling there (PS3.3, C.7.6.16.2.9 and .10)."""
    tags, levels = DICOMS[name]
    voi = {key: value for key, value in tags.items() if not key.startswith("Rescale")}
    groups = nest(shared, "FrameVOILUTSequence", **voi)
    if name == "slope":
        rescaling = {key: tags[key] for key in tags if key not in voi}
        groups[0].update(
            nest(shared, "PixelValueTransformationSequence", **rescaling)[0]
        )
    seen = levels_of(tmp_path, STORED, NumberOfFrames=1, **{shared: groups})
    assert abs(seen - 255 * np.asarray(levels)).max() <= 1


@pytest.mark.parametrize(
    "sop_class, tags, words",
    [
        (
            "BasicTextSRStorage",
            {"Modality": "SR"},
            "it contains no image .it is a structured report",
        ),
        ("ComprehensiveSRStorage", {}, "structured report"),
        ("EncapsulatedPDFStorage", {"Modality": "DOC"}, "Encapsulated PDF"),
        (
            "GrayscaleSoftcopyPresentationStateStorage",
            {"Modality": "PR"},
            "presentation state",
        ),
        (
            "KeyObjectSelectionDocumentStorage",
            {"Modality": "KO"},
            "key object selection",
        ),
        ("MediaStorageDirectoryStorage", {}, "directory"),
        ("ParametricMapStorage", {"FloatPixelData": bytes(24)}, "floating-point"),
        (
            "DigitalXRayImageStorageForPresentation",
            {"Rows": 2},
            "pixel data are missing",
        ),
    ],
)
def test_dicom_files_without_an_image_are_called_what_they_are(
    tmp_path, sop_class, tags, words
):
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = (
        getattr(pydicom.uid, sop_class),
        pydicom.uid.generate_uid(),
    )
    for name, value in tags.items():
        setattr(header, name, value)
    pydicom.dcmwrite(tmp_path / "no_image.dcm", header, enforce_file_format=True)
    with pytest.raises(ValueError, match=words) as refused:
        read_dicom((tmp_path / "no_image.dcm").read_bytes())
    assert len(str(refused.value)) <= 120  # `format_read_error` cuts off what is longer


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty"),
        (b"a letter, " * 50, "not a DICOM file"),
        (b"{}", "not a DICOM file"),
        (bytes(500), "not a DICOM file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not a DICOM file"),
        (b"<html>" * 90, "not a DICOM file"),
        (bytes(128) + b"DICM", "its header ends early"),
    ],
)
def test_a_file_that_is_not_dicom_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        read_dicom(data)


BORN = {"PatientBirthDate": "19800630"}
AGES = [  # (tags, a word of the only reason, "" for none)
    *[
        ({"PatientAge": age}, "51 years")
        for age in (
            "51",
            "051",
            "51Y",
            "051y",
            " 051Y",
            "51 YEARS",
            "51 years",
            "51 ans",
            "0051Y",
        )
    ],
    ({"PatientAge": "042"}, "42 years"),
    ({"PatientAge": "42Y"}, "42 years"),
    ({"PatientAge": "42 YEARS"}, "42 years"),
    ({"PatientAge": "4"}, ""),
    ({"PatientAge": "4 years"}, ""),
    ({"PatientAge": "18m"}, ""),
    ({"PatientAge": "18 MOIS"}, ""),
    ({"PatientAge": "072M"}, "6 years"),
    ({"PatientAge": "010W"}, "0 years"),
    ({"PatientAge": "9 DAYS"}, "0 years"),
    ({"PatientAge": ""}, ""),
    ({"PatientAge": "    "}, ""),
    ({"PatientAge": None}, ""),
    *[
        ({"PatientAge": age}, "cannot be read")
        for age in ("-02Y", "-2", "999Y", "N/A", "adult", "3 1/2 M", "042X")
    ],
    *[
        (BORN | {f"{event}Date": "20200630"}, "40 years")
        for event in ("Study", "Acquisition", "Series", "Content")
    ],
    (BORN | {"AcquisitionDateTime": "20200629235959.5"}, "39 years"),
    (BORN | {"StudyDate": "", "ContentDate": "20200630"}, "40 years"),
    (BORN, ""),
    ({"StudyDate": "20200630"}, ""),
    ({"PatientBirthDate": "1980.06.30", "StudyDate": "2020.06.29"}, "39 years"),
    ({"PatientBirthDate": "20170101", "SeriesDate": "20200630"}, ""),
    ({"PatientBirthDate": "20220101", "StudyDate": "20200101"}, "cannot be read"),
    ({"PatientBirthDate": "19801399", "StudyDate": "20200101"}, "cannot be read"),
    (BORN | {"PatientAge": "999Y", "StudyDate": "20200630"}, "40 years"),
    (BORN | {"PatientAge": "", "StudyDate": "20200630"}, "40 years"),
    (
        {"PatientAge": "-02Y", "PatientBirthDate": "20170101", "StudyDate": "20200630"},
        "",
    ),
    (
        {"PatientAge": "003Y", "PatientBirthDate": "19000101", "StudyDate": "20200630"},
        "",
    ),  # as some programs anonymize
]
VIEWS = [
    ({"PresentationIntentType": "FOR PROCESSING"}, "FOR PROCESSING"),
    ({"PresentationIntentType": "FOR PRESENTATION"}, ""),
    (
        {"SOPClassUID": pydicom.uid.DigitalXRayImageStorageForProcessing},
        "FOR PROCESSING",
    ),
    *[
        ({"PatientOrientation": axes}, "side")
        for axes in (
            ["A", "F"],
            ["P", "F"],
            ["AL", "FP"],
            ["F", "A"],
            ["P", "H"],
            ["a", "f"],
        )
    ],
    *[
        ({"PatientOrientation": axes}, "")
        for axes in (["L", "F"], ["R", "F"], ["LP", "FA"], ["F", "L"], [], None, "L")
    ],
    *[
        ({name: text}, "side")
        for name in ("SeriesDescription", "StudyDescription", "ProtocolName")
        for text in (
            "CHEST LAT",
            "Chest lateral",
            "THORAX_LAT",
            "Thorax de profil",
            "RX thorax latéral",
            "W Chest Lat.",
            "LLAT",
            "PERFIL",
        )
    ],
    *[
        ({"StudyDescription": text}, "")
        for text in (
            "CHEST PA AND LATERAL",
            "Chest 2 views (PA+LAT)",
            "Thorax face et profil",
            "CHEST BILATERAL",
            "bi-lateral lungs",
            "Chest AP",
            "XR CHEST LL LD",
            "PLATE",
            "collateral",
            "low-profiled",
        )
    ],
    ({"SeriesDescription": "PA", "StudyDescription": "Chest lateral"}, ""),
    ({"SeriesDescription": "LAT", "StudyDescription": "CHEST PA AND LATERAL"}, "side"),
    ({"ViewPosition": "PA", "StudyDescription": "Chest lateral"}, ""),
    ({"ViewPosition": " lateral "}, "side"),
    ({"ViewPosition": "PA", "PatientOrientation": ["P", "F"]}, "side"),
    ({"AcquisitionDeviceProcessingDescription": "CHEST,LAT"}, "side"),
]
PARTS = [
    *[
        ({"BodyPartExamined": part}, "")
        for part in (
            "CHEST",
            "THORAX",
            "TORAX",
            "Tórax",
            "POUMON",
            "POUMONS",
            "LUNG",
            "LUNGS",
            "PULMON",
            "PULMÃO",
            "PULMONES",
            "TORACE",
            "Thorax ap",
            "LUNG_CHEST",
            "CHEST1",
            "cage thoracique",
            " CHEST ",
            "",
            None,
        )
    ],
    *[
        ({"BodyPartExamined": part}, part)
        for part in (
            "SKULL",
            "ABDOMEN",
            "TSPINE",
            "HAND",
            "CHEST ABDOMEN",
            "THORAX SPINE",
            "LUNGEFISH",
            "PLUNGES",
            "CHESTABDPELVIS",
        )
    ],
]


@pytest.mark.parametrize(
    "tags, word",
    [
        ({"PatientAge": "045Y"}, "45 years"),
        ({"PatientBirthDate": "19800630", "StudyDate": "20200629"}, "39 years"),
        ({"PatientAge": "003M"}, "0 years"),
        ({"PatientAge": "006Y"}, "6 years"),
        ({"PatientAge": "005Y"}, ""),
        ({"PatientAge": "030M"}, ""),
        ({"ViewPosition": "LL"}, "side"),
        ({"ViewPosition": "LATERAL"}, "side"),
        ({"ViewPosition": "RLD"}, "side"),
        ({"ViewCodeSequence": view_code("399173006", "left lateral")}, "left lateral"),
        ({"ViewCodeSequence": view_code("R-10232", "seitlich")}, "seitlich"),
        ({"ViewCodeSequence": view_code("399348003", "antero-posterior")}, ""),
        ({"Modality": "MR"}, "MR"),
        ({"Modality": ""}, ""),
        ({"BodyPartExamined": "KNEE"}, "KNEE"),
        ({"BodyPartExamined": "CHESTABDOMEN"}, "CHESTABDOMEN"),
        ({"BodyPartExamined": "CHEST PA"}, ""),
        ({"BodyPartExamined": "PORT CHEST"}, ""),
        ({"BodyPartExamined": "THORAX_AP"}, ""),
        ({"PatientAge": "003Y", "ViewPosition": "PA", "BodyPartExamined": "CHEST"}, ""),
        *AGES,
        *VIEWS,
        *PARTS,
    ],
)
def test_reasons_against_a_radiograph_of_a_child_are_found_in_the_header(
    tmp_path, tags, word
):
    path = write_dicom(tmp_path / "image.dcm", np.eye(32, dtype=np.uint8), **tags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydicom would warn of an age such as "51"
        reasons = read_dicom(path.read_bytes())[1]
    assert len(reasons) == bool(word)
    assert all(word in reason for reason in reasons)


def test_many_frames_are_refused_with_their_number(tmp_path):
    path = write_dicom(
        tmp_path / "many.dcm", np.zeros((3, 32, 32), np.uint8), NumberOfFrames=3
    )
    with pytest.raises(ValueError, match="3 frames"):
        read_dicom(path.read_bytes())
