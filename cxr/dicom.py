"""Decode the picture of a DICOM file."""

import io
import re

import numpy as np
from PIL import Image


def read_age(header) -> int | None:
    """Return the age in whole years that the header of a DICOM file gives, or by its dates; None if it gives none."""
    if age := re.fullmatch(r"(\d{3})([DWMY])", str(header.get("PatientAge", ""))):
        return int(int(age[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[age[2]])
    born, taken = [str(header.get(name, "")) for name in ("PatientBirthDate", "StudyDate")]
    return (int(taken) - int(born)) // 10_000 if re.fullmatch(r"\d{8} \d{8}", f"{born} {taken}") else None


def read_header(header) -> list[str]:
    """Return what the header of a DICOM file says against its being a frontal chest radiograph of a child, as sentences."""
    years, (kind, part, view) = read_age(header), [str(header.get(name) or "") for name in ("Modality", "BodyPartExamined", "ViewPosition")]
    view += "".join(f" {code.get('CodeMeaning')} {code.get('CodeValue')}" for code in header.get("ViewCodeSequence") or [])
    side = r"(?i)\b([LR]LD?|LAT|LATERAL|399067008|399173006|399198007|R-102CD|R-10232|R-10236)\b"  # codes of SNOMED, new and old
    found = {f"its header gives an age of {years} years, and the chest X-ray set is of children from 1 to 5":
             years is not None and not 1 <= years <= 5,
             f"its header calls it {kind}, which is no radiograph": kind not in ("", "CR", "DX", "RG", "RF"),
             f"its header says that it shows {part}": part and not re.search(r"(?i)(?<![A-Z])(CHEST|THORAX|LUNGS?)(?![A-Z])", part),
             f"its header says that it was taken from the side ({view.strip()})": re.search(side, view)}
    return [sentence for sentence, holds in found.items() if holds]


def look_up(values: np.ndarray, header, name: str) -> tuple[np.ndarray, int] | None:
    """Return (values seen through a look-up table, the highest that it can give), None without one; ValueError if entries are missing.

    pydicom's functions refuse entries of one byte or of 10 to 15 bits, and go wrong beyond 256 entries of 8 bits (PS3.3, C.11.2.1.1).
    """
    for item in header.get(name) or []:
        if item.get("LUTDescriptor") and item.get("LUTData"):
            (count, first, bits), data = item.LUTDescriptor, item.LUTData
            order, count = "<" if header.original_encoding[1] else ">", count or 2**16
            words = (np.frombuffer(data, f"{order}u2") if isinstance(data, bytes) else np.atleast_1d(data)).astype("<u2")
            table = (words if len(words) >= count else words.view(np.uint8))[:count]  # two entries of 8 bits may share a word
            if len(table) < count:
                raise ValueError(f"its look-up table has {len(table)} entries of {count}")
            used = max(8, int(table.max()).bit_length())  # some descriptors say 16 for 12 bits; one bit may well be free
            places = np.clip(np.rint(values - float(first)), 0, count - 1).astype(int)
            return table.astype(float)[places], 2 ** (bits if bits - 1 <= used <= bits else used) - 1
    return None


def show_values(stored: np.ndarray, header) -> np.ndarray:
    """Return stored values (height, width) as uint8 grey levels: through the look-up tables or the window, or from least to most."""
    from pydicom.pixels import apply_windowing
    edges = sorted(header[name].value for name in ("PixelPaddingValue", "PixelPaddingRangeLimit") if header.get(name) is not None)
    padded = (stored >= edges[0]) & (stored <= edges[-1]) if edges else np.zeros(stored.shape, bool)
    modality = look_up(stored, header, "ModalityLUTSequence")  # apply_modality_lut fails where the two below are there, but empty
    values = modality[0] if modality else stored * float(header.get("RescaleSlope") or 1) + float(header.get("RescaleIntercept") or 0)
    if shown := look_up(values, header, "VOILUTSequence"):
        levels = 255 * shown[0] / shown[1]
    elif header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        header.VOILUTFunction, header.ModalityLUTSequence = header.get("VOILUTFunction") or "LINEAR", []
        header.BitsStored, header.PixelRepresentation, header.RescaleSlope, header.RescaleIntercept = 8, 0, 1, 0  # so it gives 0 to 255
        levels = apply_windowing(values, header)
    else:
        levels = 255 * (values - values[~padded].min()) / max(np.ptp(values[~padded]), 1e-9)
    if not np.isfinite(levels).all():
        raise ValueError("its window or its rescaling is no number")
    levels = 255 - levels if header.PhotometricInterpretation == "MONOCHROME1" else levels  # there, low values are bright
    return np.round(np.clip(np.where(padded, 0, levels), 0, 255)).astype(np.uint8)


def read_dicom(data: bytes) -> tuple[np.ndarray, list[str]]:
    """Decode a DICOM file of one frame, as its window or look-up tables say; return (uint8 (height, width), what `read_header` says).

    Raises ModuleNotFoundError without pydicom, ValueError or what pydicom raises for a file that holds no such picture.
    """
    from pydicom import dcmread, uid
    header = dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in header.file_meta:  # there is no preamble
        header.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if header.original_encoding[0] else uid.ExplicitVRLittleEndian
    kind, stored, notes = header.PhotometricInterpretation, header.pixel_array, read_header(header)
    if stored.ndim == 3 and kind.startswith(("RGB", "YBR")):  # pydicom has made RGB of YBR
        return np.asarray(Image.fromarray(stored).convert("L")), notes
    if stored.ndim != 2 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"it holds {header.get('NumberOfFrames') or 1} frames of the kind {kind}, and one of grey or RGB can be shown")
    unused = 8 * stored.itemsize - header.BitsStored
    return show_values(stored << unused >> unused, header), notes  # where overlays may lie: pydicom clears them, but not in JPEG 2000
