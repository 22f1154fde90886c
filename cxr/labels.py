"""Class names, findings, and their colors; what images of a data set are called in texts."""

CLASS_NAMES = ("NORMAL", "PNEUMONIA")  # in the order of their labels, 0 and 1


# Color-blind-safe (Okabe and Ito).
CLASS_COLORS = {"NORMAL": "#0072B2", "PNEUMONIA": "#D55E00"}


FINDING_COLORS = {
    "normal": "#0072B2",
    "bacterial": "#D55E00",
    "viral": "#E69F00",
    "unknown": "#888888",
}


def label_colors(labels) -> list[str]:
    """Return the color of the class of each label."""
    return [CLASS_COLORS[CLASS_NAMES[label]] for label in labels]


def image_label(kind: str) -> str:
    """Return what to call pictures of this kind of data in a text."""
    return {
        "phantom": "phantom radiographs",
        "chest-xray-pneumonia": "chest radiographs",
    }.get(kind, "pictures")
