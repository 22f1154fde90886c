"""Decode the picture of a DICOM file."""

import datetime
import io
import re
import unicodedata

import numpy as np
from PIL import Image


def fold_text(*values) -> str:
    """Return values of a header as one line of upper-case letters without accents."""
    text = " ".join(str(value) for value in values if value is not None)
    letters = unicodedata.normalize("NFKD", text)
    return "".join(c for c in letters if not unicodedata.combining(c)).upper().strip()


def find_words(words: str, text: str) -> bool:
    """Return whether one of the words (alternatives of a pattern) is in a folded text.

    Digits and "_" end a word, as in "THORAX_AP" and "CHEST1".
    """
    return bool(re.search(rf"(?<![^\W\d_])(?:{words})(?![^\W\d_])", text))


def parse_date(text: str) -> datetime.date | None:
    """Return the date at the start of a DICOM date or date with time, None if invalid.

    "20200629" is the form of today, "2020.06.29" that of ACR-NEMA (PS3.5, 6.2).
    """
    if not (found := re.match(r"\s*(\d{4})([.-]?)(\d\d)\2(\d\d)", text)):
        return None
    try:
        return datetime.date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None


def parse_age(text: str) -> int | None:
    """Return a folded PatientAge in whole years, None if it cannot be read.

    The standard has "042Y", "018M", "012W" or "005D" (PS3.5, 6.2). Many programs leave
    out the zeros or the unit, which then is years, or write the unit in full.
    """
    units = {
        r"(Y|YO|YRS?|YEARS?( OLD)?|A|ANS?|ANOS?)?": 1,
        r"(M|MOS?|MTHS?|MONTHS?|MOIS|MES|MESES)": 12,
        r"(W|WKS?|WEEKS?|SEMAINES?|SEMANAS?)": 52.18,
        r"(D|DAYS?|JOURS?|DIAS?)": 365.25,
    }
    for unit, a_year in units.items():
        if found := re.fullmatch(rf"(\d+)([.,]\d*)?[ _-]*{unit}\.?", text):
            return int(int(found[1]) / a_year)
    return None


def list_ages(header) -> dict[str, int | None]:
    """Return the ages that a header gives, {what it says: whole years}.

    The age is None where it cannot be read or is impossible. PatientAge comes before
    the dates, because an anonymised file may hold an invented date of birth.
    """
    ages = {}
    if text := fold_text(header.get("PatientAge")):
        ages[text] = parse_age(text)
    born = str(header.get("PatientBirthDate") or "").strip()
    events = ("Study", "Acquisition", "Series", "Content")
    names = [f"{event}Date" for event in events] + ["AcquisitionDateTime"]
    dates = [str(header.get(name) or "").strip() for name in names]
    if born and any(dates):
        taken = next((date for date in dates if parse_date(date)), max(dates))
        first, last, years = parse_date(born), parse_date(taken), None
        if first and last:
            birthday_to_come = (last.month, last.day) < (first.month, first.day)
            years = last.year - first.year - birthday_to_come
        ages[f"born {born}, taken {taken}"] = years
    possible = range(121)
    return {said: age if age in possible else None for said, age in ages.items()}


def lateral_view_evidence(header) -> str:
    """Return what a header says of a view from the side, "" if it says nothing of one.

    What describes the image itself comes before what describes its series, and that
    before what describes its study. Descriptions that name both views decide nothing:
    both images of a study "CHEST PA AND LATERAL" have them.
    """
    # The directions of the rows and of the columns (PS3.3, C.7.6.1.1.1). From the side,
    # one is anterior or posterior, and the other leads to the head or to the feet.
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
    for number, level in enumerate(levels):
        said = " ".join(str(value).strip() for value in level if value)
        text = fold_text(said)
        lateral, frontal = find_words(side, text), find_words(front, text)
        if number == 0 and find_words(f"{side}|{view}", text):
            return said
        if lateral != frontal:
            return said if lateral else ""
    return ""


def read_header(header) -> list[str]:
    """Return what a header says against a frontal chest radiograph of a child.

    Each is a sentence without its full stop. What is missing from the header is not
    held against the image.
    """
    ages = list_ages(header)
    years = next((age for age in ages.values() if age is not None), None)
    kind, part = fold_text(header.get("Modality")), header.get("BodyPartExamined") or ""
    kind_of_file = getattr(header.get("SOPClassUID"), "name", "")
    processing = fold_text(header.get("PresentationIntentType"), kind_of_file)
    lateral = lateral_view_evidence(header)
    chest = "CHEST|THORAX|TORAX|TORACE|THORACIQUE|LUNGS?|LUNGEN?|POUMONS?|POITRINE"
    chest += "|PULM(O|AO|ON|ONES|OES|ONARY|ONAIRE)|POLMON[EI]|BRUSTKORB"
    body, abdomen = fold_text(part), r"ABD\w*|SPINE"
    chest_only = find_words(chest, body) and not find_words(abdomen, body)
    found = {
        f"its header gives an age of {years} years, and the chest X-ray set is of "
        "children from 1 to 5": years is not None and not 1 <= years <= 5,
        f"its header gives an age that cannot be read ({'; '.join(ages)})": (
            ages and years is None
        ),
        f"its header calls it {kind}, which is no radiograph": (
            kind not in ("", "CR", "DX", "RG", "RF")
        ),
        "its header calls it FOR PROCESSING: raw values of the detector, not yet made "
        "for viewing": find_words("FOR[ _-]?PROCESSING", processing),
        f"its header says that it shows {part}": body and not chest_only,
        f"its header says that it was taken from the side ({lateral})": lateral,
    }
    return [sentence for sentence, holds in found.items() if holds]


def merge_frame_groups(header) -> None:
    """Copy what the functional groups say of the gray levels into the header itself.

    Enhanced images keep their window and their rescaling there (PS3.3, C.7.6.16), for
    all frames or for each; only images of one frame are shown here.
    """
    for name in ("Shared", "PerFrame"):
        for groups in (header.get(f"{name}FunctionalGroupsSequence") or [])[:1]:
            for group in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                for item in (groups.get(group) or [])[:1]:
                    header.update(item)


def apply_lookup_table(
    values: np.ndarray, header, name: str
) -> tuple[np.ndarray, int] | None:
    """Return (values seen through a look-up table, the highest that it can give).

    Returns None without a table; raises ValueError if entries are missing. pydicom's
    functions refuse entries of one byte or of 10 to 15 bits, and go wrong beyond 256
    entries of 8 bits (PS3.3, C.11.2.1.1).
    """
    for item in header.get(name) or []:
        if item.get("LUTDescriptor") and item.get("LUTData"):
            (count, first, bits), data = item.LUTDescriptor, item.LUTData
            order, count = "<" if header.original_encoding[1] else ">", count or 2**16
            if isinstance(data, bytes):
                data = np.frombuffer(data, f"{order}u2")
            words = np.atleast_1d(data).astype("<u2")
            # Two entries of 8 bits may share a word.
            table = (words if len(words) >= count else words.view(np.uint8))[:count]
            if len(table) < count:
                raise ValueError(
                    f"its look-up table has {len(table)} entries of {count}"
                )
            # Some descriptors say 16 for 12 bits; one bit may well be free.
            used = max(8, int(table.max()).bit_length())
            places = np.clip(np.rint(values - float(first)), 0, count - 1).astype(int)
            highest = 2 ** (bits if bits - 1 <= used <= bits else used) - 1
            return table.astype(float)[places], highest
    return None


def apply_window(values: np.ndarray, header, step: float) -> np.ndarray:
    """Return values seen through the first window of a header, 0 to 255.

    These are the functions of PS3.3, C.11.2.1.2 and C.11.2.1.3. `step`: how far apart
    neighboring values are. Raises ValueError for a window that the standard forbids,
    and for one that makes black and white of a film because its width was meant for
    LINEAR_EXACT.
    """
    center, width = [
        float(np.atleast_1d(header[name].value)[0])
        for name in ("WindowCenter", "WindowWidth")
    ]
    function = fold_text(header.get("VOILUTFunction")) or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"its VOI LUT Function {function} is none of the standard's")
    if function == "LINEAR" and not 1 <= width < np.inf:
        raise ValueError(f"its Window Width is {width:g}, and LINEAR demands 1 or more")
    if not 0 < width < np.inf:
        raise ValueError(
            f"its Window Width is {width:g}, and {function} demands more than 0"
        )
    if function == "LINEAR" and width == 1 and step < 1:
        raise ValueError(
            f"its Window Width of 1 leaves only black and white of values {step:g} apart"
        )
    if function == "SIGMOID":
        return 255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -99, 99)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values > center, 255.0, 0.0)
    return 255 * np.clip((values - center) / width + 0.5, 0, 1)


def render_pixels(stored: np.ndarray, header) -> np.ndarray:
    """Return stored values (height, width) as gray levels, uint8 of the same shape.

    They are seen through the look-up tables or the window that the header gives, or
    else from the least to the most. Padding is black.
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
    values, step = stored * slope + float(header.get("RescaleIntercept") or 0), slope
    if modality := apply_lookup_table(stored, header, "ModalityLUTSequence"):
        values, step = modality[0], 1
    window = [header.get(name) for name in ("WindowCenter", "WindowWidth")]
    if shown := apply_lookup_table(values, header, "VOILUTSequence"):
        levels = 255 * shown[0] / shown[1]
    elif None not in window:
        levels = apply_window(values, header, abs(step))
    else:
        film = values[~padded]
        levels = 255 * (values - film.min()) / max(np.ptp(film), 1e-9)
    if not np.isfinite(levels).all():
        raise ValueError("its window or its rescaling is no number")
    # Either says that low values are bright. Both together say it once: with MONOCHROME1
    # the standard demands INVERSE (PS3.3, C.7.6.1 and C.8.11.3).
    inverse = fold_text(header.get("PresentationLUTShape")) == "INVERSE"
    if header.PhotometricInterpretation == "MONOCHROME1" or inverse:
        levels = 255 - levels
    return np.round(np.clip(np.where(padded, 0, levels), 0, 255)).astype(np.uint8)


def parse_file(data: bytes):
    """Return a DICOM file as pydicom's Dataset, once it is sure to hold an image.

    Raises ModuleNotFoundError without pydicom, else ValueError with what it is instead.
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
        raise ValueError("it is no DICOM file, whatever its name says")
    if not known:
        raise ValueError("the DICOM file is damaged or cut off: its header ends early")
    if "TransferSyntaxUID" not in header.file_meta:  # there is no preamble
        implicit = header.original_encoding[0]
        header.file_meta.TransferSyntaxUID = (
            uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        )
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise ValueError("it holds pixels of floating-point numbers, no radiograph")
    if not header.get("PixelData"):
        raise ValueError(f"it holds no image ({describe_content(header)})")
    needed = "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated"
    needed += " BitsStored PixelRepresentation"
    if lacking := [name for name in needed.split() if header.get(name) in (None, "")]:
        raise ValueError(f"its header lacks {', '.join(lacking)}")
    return header


def describe_content(header) -> str:
    """Return what a DICOM file without pixel data is, as "it is a …"."""
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    name, modality = getattr(kind, "name", ""), fold_text(header.get("Modality"))
    kinds = {
        "it is a structured report": modality == "SR" or re.search(r"\bSR\b", name),
        "it is a key object selection": modality == "KO" or "Key Object" in name,
        "it is a presentation state": modality == "PR" or "Presentation State" in name,
        "it is the directory of a disc": "Directory" in name,
        "its pixel data are missing": "Rows" in header or "Image Storage" in name,
    }
    other = f"it is of the kind {name or modality}" if name or modality else "no pixels"
    return next((sentence for sentence, holds in kinds.items() if holds), other)


def decode_pixels(header) -> np.ndarray:
    """Return the stored values of a Dataset, as pydicom decodes them.

    Raises ValueError if they are damaged, or compressed in a way that takes a package
    that is missing, with its name.
    """
    try:
        return header.pixel_array
    except Exception as error:  # decoders raise all kinds
        lines = str(error).splitlines() or [type(error).__name__]
        for line in lines if "missing dependencies" in lines[0] else []:
            if packages := re.findall(r"pylibjpeg-?\w*", line.partition("requires")[2]):
                raise ValueError(
                    f"its compression takes more packages: run %pip install "
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
    """Decode a DICOM file of one frame, as its window or look-up tables say.

    Returns (uint8 (height, width), what `read_header` says). Raises ModuleNotFoundError
    without pydicom, and ValueError, with the reason, for a file that holds no such
    picture.
    """
    from pydicom.config import disable_value_validation

    with disable_value_validation():  # an age "51" is not worth pydicom's warning
        header = parse_file(data)
        stored, kind = decode_pixels(header), header.PhotometricInterpretation
        notes = read_header(header)
        merge_frame_groups(header)
        if stored.ndim == 3 and kind.startswith(("RGB", "YBR")):
            # pydicom has made RGB of YBR.
            return np.asarray(Image.fromarray(stored).convert("L")), notes
        if stored.ndim != 2 or kind not in ("MONOCHROME1", "MONOCHROME2"):
            raise ValueError(
                f"it holds {header.get('NumberOfFrames') or 1} frames of the kind "
                f"{kind}, and one of gray or RGB can be shown"
            )
        # Overlays may lie in the bits above; pydicom clears them, but not in JPEG 2000.
        unused = 8 * stored.itemsize - header.BitsStored
        return render_pixels(stored << unused >> unused, header), notes
