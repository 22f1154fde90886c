"""Decoding of DICOM files: gray levels, and what the header says about the image.

References
----------
The sections PS3.3 and PS3.5 are parts of the DICOM standard.
"""

import datetime
import io
import re
import unicodedata
from typing import Any

import numpy as np
from PIL import Image


def fold_text(*values: Any) -> str:
    """Return header values as one line in upper case and without accents."""
    text = " ".join(str(value) for value in values if value is not None)
    letters = unicodedata.normalize("NFKD", text)
    plain = "".join(char for char in letters if not unicodedata.combining(char))
    return plain.upper().strip()


def find_words(words: str, text: str) -> bool:
    """Return whether a folded text contains one of the words (alternatives of a regex).

    Digits and "_" end a word, as in "THORAX_AP" and "CHEST1".
    """
    return bool(re.search(rf"(?<![^\W\d_])(?:{words})(?![^\W\d_])", text))


def parse_date(text: str) -> datetime.date | None:
    """Return the date at the start of a DICOM date or date with time, None if invalid.

    "20200629" is the current form, "2020.06.29" that of ACR-NEMA (PS3.5, 6.2).
    """
    match = re.match(r"\s*(\d{4})([.-]?)(\d\d)\2(\d\d)", text)
    if not match:
        return None
    try:
        return datetime.date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def parse_age(text: str) -> int | None:
    """Return a folded PatientAge in whole years, None if it cannot be read.

    The standard form is "042Y", "018M", "012W" or "005D" (PS3.5, 6.2). Many programs
    omit the zeros or the unit, which then is years, or write the unit in full.
    """
    units = {
        r"(Y|YO|YRS?|YEARS?( OLD)?|A|ANS?|ANOS?)?": 1,
        r"(M|MOS?|MTHS?|MONTHS?|MOIS|MES|MESES)": 12,
        r"(W|WKS?|WEEKS?|SEMAINES?|SEMANAS?)": 52.18,
        r"(D|DAYS?|JOURS?|DIAS?)": 365.25,
    }
    for unit, units_per_year in units.items():
        if match := re.fullmatch(rf"(\d+)([.,]\d*)?[ _-]*{unit}\.?", text):
            return int(int(match[1]) / units_per_year)
    return None


def list_ages(header: Any) -> dict[str, int | None]:
    """Return the ages that a header gives, {text of the header: whole years}.

    The age is None where it cannot be read or is impossible. PatientAge comes before
    the dates, because an anonymized file may contain an invented date of birth.
    """
    ages: dict[str, int | None] = {}
    if text := fold_text(header.get("PatientAge")):
        ages[text] = parse_age(text)
    born = str(header.get("PatientBirthDate") or "").strip()
    events = ("Study", "Acquisition", "Series", "Content")
    names = [f"{event}Date" for event in events] + ["AcquisitionDateTime"]
    dates = [str(header.get(name) or "").strip() for name in names]
    if born and any(dates):
        taken = next((date for date in dates if parse_date(date)), max(dates))
        birth_date = parse_date(born)
        exam_date = parse_date(taken)
        years = None
        if birth_date and exam_date:
            birthday = birth_date.month, birth_date.day
            is_before_birthday = (exam_date.month, exam_date.day) < birthday
            years = exam_date.year - birth_date.year - is_before_birthday
        ages[f"born {born}, taken {taken}"] = years
    possible = range(121)
    return {text: age if age in possible else None for text, age in ages.items()}


def lateral_view_evidence(header: Any) -> str:
    """Return the text of a header that indicates a lateral view, "" if there is none.

    A description of the image comes before that of its series, which comes before that
    of its study. A description that names both views decides nothing: both images of a
    study "CHEST PA AND LATERAL" have it.
    """
    # The directions of the rows and of the columns (PS3.3, C.7.6.1.1.1). In a lateral
    # view one is anterior or posterior, the other toward the head or the feet.
    axes = [fold_text(value)[:1] for value in header.get("PatientOrientation") or []]
    if len(axes) == 2 and set(axes) & {"A", "P"} and set(axes) & {"H", "F"}:
        return "PatientOrientation " + "\\".join(header.PatientOrientation)
    image = [header.get("ViewPosition")]
    for code in header.get("ViewCodeSequence") or []:
        image += code.get("CodeMeaning"), code.get("CodeValue")
    descriptions = [
        ["AcquisitionDeviceProcessingDescription"],
        ["SeriesDescription", "ProtocolName"],
        ["StudyDescription", "PerformedProcedureStepDescription"],
        ["RequestedProcedureDescription"],
    ]
    # Codes of SNOMED, new and old; "LL" and the like mean a view only in ViewPosition.
    view = "[LR]LD?|399067008|399173006|399198007|R-102CD|R-10232|R-10236"
    side = r"(?<!BI[ -])[LR]?LAT(ERAL(E|ES|IS)?)?|PROFILE?|PERFIL|SEITLICH"
    front = r"PA|AP|P\.A|A\.P|FRONTAL(E|ES)?|FACE|([2-9]|TWO)[ -]?(VIEWS?|VUES|V)"
    front += "|(POSTERO|ANTERO|POSTERIOR|ANTERIOR)[ -]?(ANTERIOR|POSTERIOR)"
    levels = [image] + [[header.get(name) for name in names] for names in descriptions]
    for index, level in enumerate(levels):
        description = " ".join(str(value).strip() for value in level if value)
        text = fold_text(description)
        if index == 0 and find_words(f"{side}|{view}", text):
            return description
        is_lateral = find_words(side, text)
        is_frontal = find_words(front, text)
        if is_lateral != is_frontal:
            return description if is_lateral else ""
    return ""


def read_header(header: Any) -> list[str]:
    """Return the reasons in a header against a frontal chest radiograph of a child.

    Each is a sentence without its full stop. Missing values are no reason.
    """
    ages = list_ages(header)
    years = next((age for age in ages.values() if age is not None), None)
    modality = fold_text(header.get("Modality"))
    part = header.get("BodyPartExamined") or ""
    sop_class = getattr(header.get("SOPClassUID"), "name", "")
    processing = fold_text(header.get("PresentationIntentType"), sop_class)
    lateral = lateral_view_evidence(header)
    chest = "CHEST|THORAX|TORAX|TORACE|THORACIQUE|LUNGS?|LUNGEN?|POUMONS?|POITRINE"
    chest += "|PULM(O|AO|ON|ONES|OES|ONARY|ONAIRE)|POLMON[EI]|BRUSTKORB"
    abdomen = r"ABD\w*|SPINE"
    body = fold_text(part)
    is_chest_only = find_words(chest, body) and not find_words(abdomen, body)

    reasons = []
    if years is not None and not 1 <= years <= 5:
        reasons.append(
            f"its header gives an age of {years} years, but the chest X-ray set is of "
            "children from 1 to 5"
        )
    if ages and years is None:
        reasons.append(
            f"its header gives an age that cannot be read ({'; '.join(ages)})"
        )
    if modality not in ("", "CR", "DX", "RG", "RF"):
        reasons.append(
            f"its header gives the modality {modality}, which is not radiography"
        )
    if find_words("FOR[ _-]?PROCESSING", processing):
        reasons.append(
            "its header marks it as FOR PROCESSING: raw detector values that are not "
            "meant for viewing"
        )
    if body and not is_chest_only:
        reasons.append(f"its header gives the body part {part}")
    if lateral:
        reasons.append(f"its header describes a side (lateral) view ({lateral})")
    return reasons


def merge_frame_groups(header: Any) -> None:
    """Copy window and rescaling from the functional groups into the header itself.

    Enhanced images have them there (PS3.3, C.7.6.16), for all frames or for each; only
    images of one frame are supported here.
    """
    for name in ("Shared", "PerFrame"):
        for groups in (header.get(f"{name}FunctionalGroupsSequence") or [])[:1]:
            for group in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                for item in (groups.get(group) or [])[:1]:
                    header.update(item)


def apply_lookup_table(
    values: np.ndarray, header: Any, name: str
) -> tuple[np.ndarray, int] | None:
    """Apply the look-up table in the sequence `name` of a header.

    pydicom's functions refuse entries of one byte or of 10 to 15 bits, and fail beyond
    256 entries of 8 bits (PS3.3, C.11.2.1.1).

    Returns
    -------
    (float array, highest value that the table can give), or None without a table

    Raises
    ------
    ValueError
        If entries are missing.
    """
    for item in header.get(name) or []:
        if item.get("LUTDescriptor") and item.get("LUTData"):
            count, first, bits = item.LUTDescriptor
            count = count or 2**16
            data = item.LUTData
            order = "<" if header.original_encoding[1] else ">"
            if isinstance(data, bytes):
                data = np.frombuffer(data, f"{order}u2")
            words = np.atleast_1d(data).astype("<u2")
            # Two entries of 8 bits may share a word.
            table = (words if len(words) >= count else words.view(np.uint8))[:count]
            if len(table) < count:
                raise ValueError(
                    f"its look-up table has {len(table)} of {count} entries"
                )
            indices = np.clip(np.rint(values - float(first)), 0, count - 1).astype(int)
            # Some descriptors say 16 for 12 bits. A single unused bit is plausible.
            used_bits = max(8, int(table.max()).bit_length())
            if not bits - 1 <= used_bits <= bits:
                bits = used_bits
            return table.astype(float)[indices], 2**bits - 1
    return None


def apply_window(values: np.ndarray, header: Any, step: float) -> np.ndarray:
    """Apply the first window of a header (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Parameters
    ----------
    values : float array
    header : pydicom.Dataset
    step : float
        Distance of neighboring values.

    Returns
    -------
    float array, 0 to 255

    Raises
    ------
    ValueError
        For a window that the standard forbids, and for one that leaves only black and
        white because its width was meant for LINEAR_EXACT.
    """
    center, width = [
        float(np.atleast_1d(header[name].value)[0])
        for name in ("WindowCenter", "WindowWidth")
    ]
    function = fold_text(header.get("VOILUTFunction")) or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"its VOI LUT Function {function} is not in the standard")
    if function == "LINEAR" and not 1 <= width < np.inf:
        raise ValueError(
            f"its Window Width is {width:g}, but LINEAR requires 1 or more"
        )
    if not 0 < width < np.inf:
        raise ValueError(
            f"its Window Width is {width:g}, but {function} requires more than 0"
        )
    if function == "LINEAR" and width == 1 and step < 1:
        raise ValueError(
            f"its Window Width of 1 leaves only black and white: values are {step:g} "
            "apart"
        )
    if function == "SIGMOID":
        return 255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -99, 99)))
    if function == "LINEAR":
        center -= 0.5
        width -= 1
    if width == 0:
        return np.where(values > center, 255.0, 0.0)
    return 255 * np.clip((values - center) / width + 0.5, 0, 1)


def render_pixels(stored: np.ndarray, header: Any) -> np.ndarray:
    """Return stored values (height, width) as gray levels, uint8 of the same shape.

    The look-up tables or the window of the header are applied; without them, gray
    levels range from the lowest to the highest value. Padding is black.
    """
    edges = sorted(
        header[name].value
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if header.get(name) is not None
    )
    padded = np.zeros(stored.shape, bool)
    if edges:
        padded = (stored >= edges[0]) & (stored <= edges[-1])
    # pydicom's apply_modality_lut fails where slope and intercept are there, but empty.
    slope = float(header.get("RescaleSlope") or 1)
    values = stored * slope + float(header.get("RescaleIntercept") or 0)
    step = abs(slope)
    if modality := apply_lookup_table(stored, header, "ModalityLUTSequence"):
        values = modality[0]
        step = 1
    window = [header.get(name) for name in ("WindowCenter", "WindowWidth")]
    if shown := apply_lookup_table(values, header, "VOILUTSequence"):
        levels = 255 * shown[0] / shown[1]
    elif None not in window:
        levels = apply_window(values, header, step)
    else:
        visible = values[~padded]
        levels = 255 * (values - visible.min()) / max(np.ptp(visible), 1e-9)
    if not np.isfinite(levels).all():
        raise ValueError("its window or its rescaling is not a number")
    # Each of the two means that low values are bright. Together they do not cancel out:
    # with MONOCHROME1 the standard requires INVERSE (PS3.3, C.7.6.1 and C.8.11.3).
    is_inverse = fold_text(header.get("PresentationLUTShape")) == "INVERSE"
    if header.PhotometricInterpretation == "MONOCHROME1" or is_inverse:
        levels = 255 - levels
    return np.round(np.clip(np.where(padded, 0, levels), 0, 255)).astype(np.uint8)


def parse_file(data: bytes) -> Any:
    """Parse a DICOM file that contains an image; return a pydicom.Dataset.

    Raises
    ------
    ModuleNotFoundError
        Without pydicom.
    ValueError
        If the file contains no image, with what it is instead.
    """
    from pydicom import dcmread, uid

    if not data:
        raise ValueError("the file is empty")
    try:
        header = dcmread(io.BytesIO(data), force=True)
        known = "SOPClassUID" in header or "Rows" in header
        known = known or "MediaStorageSOPClassUID" in header.file_meta
    except Exception:  # a text read as DICOM may fail anywhere
        known = False
    if not known and data[128:132] != b"DICM":
        raise ValueError("it is not a DICOM file, despite its name")
    if not known:
        raise ValueError(
            "the DICOM file is damaged or truncated: its header ends early"
        )
    if "TransferSyntaxUID" not in header.file_meta:  # there is no preamble
        implicit = header.original_encoding[0]
        header.file_meta.TransferSyntaxUID = (
            uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        )
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise ValueError(
            "its pixels are floating-point numbers: it is not a radiograph"
        )
    if not header.get("PixelData"):
        raise ValueError(f"it contains no image ({describe_content(header)})")
    required = "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated"
    required += " BitsStored PixelRepresentation"
    missing = [name for name in required.split() if header.get(name) in (None, "")]
    if missing:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    return header


def describe_content(header: Any) -> str:
    """Describe a DICOM file without pixel data, as "it is a …"."""
    sop_class = header.get("SOPClassUID")
    sop_class = sop_class or header.file_meta.get("MediaStorageSOPClassUID")
    name = getattr(sop_class, "name", "")
    modality = fold_text(header.get("Modality"))
    kinds = {
        "it is a structured report": modality == "SR" or re.search(r"\bSR\b", name),
        "it is a key object selection": modality == "KO" or "Key Object" in name,
        "it is a presentation state": modality == "PR" or "Presentation State" in name,
        "it is the directory of a disk": "Directory" in name,
        "its pixel data are missing": "Rows" in header or "Image Storage" in name,
    }
    for description, matches in kinds.items():
        if matches:
            return description
    return f"it is of the type {name or modality}" if name or modality else "no pixels"


def decode_pixels(header: Any) -> np.ndarray:
    """Return the stored values of a Dataset, as pydicom decodes them.

    Raises
    ------
    ValueError
        If they are damaged, or if their compression requires packages that are not
        installed, with the names of these.
    """
    try:
        return header.pixel_array
    except Exception as error:  # decoders raise all kinds
        lines = str(error).splitlines() or [type(error).__name__]
        for line in lines if "missing dependencies" in lines[0] else []:
            if packages := re.findall(r"pylibjpeg-?\w*", line.partition("requires")[2]):
                raise ValueError(
                    f"its compression requires more packages: run %pip install "
                    f"{' '.join(packages)} and try again"
                ) from error
        syntax = header.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            raise ValueError(
                f"its pixel data cannot be decoded ({syntax.name[:70]})"
            ) from error
        reason = lines[0].split(" - ")[0]
        raise ValueError(f"its pixel data are damaged: {reason}") from error


def read_dicom(data: bytes) -> tuple[np.ndarray, list[str]]:
    """Decode a DICOM file of one frame, with its window or look-up tables applied.

    Parameters
    ----------
    data : bytes
        Contents of the file.

    Returns
    -------
    gray : uint8 array (height, width)
    reasons : list of str
        See `read_header`.

    Raises
    ------
    ModuleNotFoundError
        Without pydicom.
    ValueError
        With the reason, if the file contains no image that can be shown.
    """
    from pydicom.config import disable_value_validation

    with disable_value_validation():  # pydicom would warn of an age such as "51"
        header = parse_file(data)
        stored = decode_pixels(header)
        interpretation = header.PhotometricInterpretation
        reasons = read_header(header)
        merge_frame_groups(header)
        if stored.ndim == 3 and interpretation.startswith(("RGB", "YBR")):
            # pydicom has converted YBR to RGB.
            return np.asarray(Image.fromarray(stored).convert("L")), reasons
        if stored.ndim != 2 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
            raise ValueError(
                f"it contains {header.get('NumberOfFrames') or 1} frames of the type "
                f"{interpretation}; one frame, gray or RGB, is supported"
            )
        # The bits above may hold overlays. pydicom clears them, but not in JPEG 2000.
        unused_bits = 8 * stored.itemsize - header.BitsStored
        return render_pixels(stored << unused_bits >> unused_bits, header), reasons
