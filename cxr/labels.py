"""Class names, findings and their colors; the name of a data set's images in texts."""

from collections.abc import Iterable

CLASS_NAMES = ("NORMAL", "PNEUMONIA")  # in the order of their labels, 0 and 1

# Color-blind-safe (Okabe and Ito).
CLASS_COLORS = {"NORMAL": "#0072B2", "PNEUMONIA": "#D55E00"}

FINDING_COLORS = {
    "normal": "#0072B2",
    "bacterial": "#D55E00",
    "viral": "#E69F00",
    "unknown": "#888888",
}


def label_colors(labels: Iterable[int]) -> list[str]:
    """Return the color of the class of each label."""
    return [CLASS_COLORS[CLASS_NAMES[label]] for label in labels]


def image_label(data_kind: str) -> str:
    """Return what texts call the images of this kind of data."""
    return {
        "phantom": "phantom radiographs",
        "chest-xray-pneumonia": "chest radiographs",
    }.get(data_kind, "images")
