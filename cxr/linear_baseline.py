"""A linear classifier on thumbnails: the simplest model that sees pictures, and a tool for quick experiments."""

import cv2
import numpy as np
from sklearn.linear_model import RidgeClassifier


def make_thumbnails(pictures, size: int) -> np.ndarray:
    """Return float32 (n, size, size), 0 to 1, of pictures uint8 (height, width, 1)."""
    return (
        np.stack(
            [
                cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
                for picture in pictures
            ]
        ).astype("float32")
        / 255
    )


def fit_ridge(values: np.ndarray, labels: np.ndarray) -> RidgeClassifier:
    """Return ridge regression (Hoerl and Kennard, 1970) of labels on values, (n, k), which it may change: it looks at every pixel once."""
    return RidgeClassifier(alpha=10.0, copy_X=False).fit(values, labels)


def predict_ridge(
    values: np.ndarray, labels: np.ndarray, fit: np.ndarray
) -> np.ndarray:
    """Return the answers (n,) of a linear classifier for values (n, …); it learned from the rows `fit`, bool. Above 0 is PNEUMONIA."""
    values = values.reshape(len(values), -1)
    return fit_ridge(values[fit], labels[fit]).decision_function(values)
