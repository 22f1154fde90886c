"""Class names, findings and their colors; what texts and figures call things."""

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

# How texts, figures and tables name the models and columns of `compare_models`.
DISPLAY_NAMES = {
    "linear_border": "linear model of the border",
    "linear_thumbnail": "linear model of thumbnails",
    "baseline_cnn": "baseline CNN",
    "residual_cnn": "residual CNN",
    "auc": "validation AUC",
    "accuracy": "validation accuracy",
    "auc_bias_aligned": "validation AUC, bias-aligned",
    "auc_bias_conflicting": "validation AUC, bias-conflicting",
    "sensitivity_bias_conflicting": "validation sensitivity, bias-conflicting",
    "specificity_bias_conflicting": "validation specificity, bias-conflicting",
    "test_auc": "test AUC",
    "test_accuracy": "test accuracy",
    "test_sensitivity": "test sensitivity",
    "test_specificity": "test specificity",
    "test_auc_both_releases": "test AUC, images of both releases",
    "test_specificity_kaggle_only": "test specificity, Kaggle-only images",
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


def display_name(key: str) -> str:
    """Return what texts, figures and tables call a key, for example "residual CNN"."""
    return DISPLAY_NAMES.get(key, key.replace("_", " "))
