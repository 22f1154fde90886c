"""Inference on an image of the user's own: read, compared with training, classified."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.covariance import LedoitWolf

from cxr.batches import ImageBatches, gather_images
from cxr.dicom import read_dicom
from cxr.evaluation import predict_in_batches, predict_probabilities
from cxr.grad_cam import grad_cam
from cxr.images import (
    format_read_error,
    read_bytes,
    read_image_strict,
    resize_to_square,
)
from cxr.labels import CLASS_COLORS, CLASS_NAMES
from cxr.plots import plot_grad_cam


def colorfulness(data: bytes) -> float:
    """Return the mean range of the RGB channels of an encoded image, 0 to 1."""
    with Image.open(io.BytesIO(data)) as encoded:
        if encoded.mode.startswith(("1", "L", "I", "F")):
            return 0.0
        rgba = encoded.convert("RGBA").resize((64, 64), Image.Resampling.BOX)
    channels = np.asarray(rgba) / 255
    opacity = channels[..., 3]  # what is transparent is shown on black
    return float(np.mean(np.ptp(channels[..., :3], axis=-1) * opacity))


def is_dicom(data: bytes, path: Path) -> bool:
    """Return whether a file is DICOM, with a preamble or without, or is named so."""
    return (
        data[128:132] == b"DICM"
        or data[:2] in (b"\2\0", b"\x08\0")
        or path.suffix.lower() in (".dcm", ".dicom")
    )


def read_user_image(
    path: str | Path, size: int, resize_mode: str = "stretch"
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one image, in any format that section 2 reads or as DICOM.

    Parameters
    ----------
    path : str or Path
    size : int
        The side of the result in pixels.
    resize_mode : str, default "stretch"
        The setting RESIZE_MODE.

    Returns
    -------
    x : uint8 array (1, size, size, 1)
    about : dict
        "width" and "height" of the original in pixels, its "color" (see `colorfulness`)
        and "notes", the warnings that follow from a DICOM header.

    Raises
    ------
    ValueError, ModuleNotFoundError
        With the name of the file, the reason and what to do.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(
            f"There is no file {path.resolve()}: correct the path, or leave it empty "
            "to use an image of the test set."
        )
    color = 0.0
    notes: list[str] = []
    try:
        data = read_bytes(path)
        if is_dicom(data, path):
            gray, notes = read_dicom(data)
            width, height = gray.shape[::-1]
            image = resize_to_square(gray, 1, (width, height), size, resize_mode)
        else:
            image, info = read_image_strict(path, size, resize_mode)
            width, height = info.width, info.height
            color = colorfulness(data)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: reading DICOM requires another package. Run %pip install pydicom "
            "and try again."
        ) from error
    except Exception as error:  # decoders raise all kinds
        reason = format_read_error(error, path).rstrip(".")
        raise ValueError(
            f"{path} cannot be read: {reason}. JPEG, PNG and most DICOM files are "
            "supported; a program that displays this file can save it as PNG."
        ) from error
    about = {"width": width, "height": height, "color": color, "notes": notes}
    return image[None, :, :, None], about


class OutOfDistributionDetector:
    """A detector of images that are unlike the training images.

    It measures the Mahalanobis distance in the pooled features of a model, here from
    one Gaussian for both classes, with a shrunk covariance that can be inverted.
    Color, aspect ratio and contrast are checked as well.

    Parameters
    ----------
    model : keras.Model
        With a layer "average", whose outputs are the features.
    train_batches, val_batches : ImageBatches
        The Gaussian is fitted to the training images, and the threshold is chosen on
        the validation images.
    files : DataFrame
        Has the original width and height of all these images.
    seed : int, default 0
    outlier_fraction : float, default 0.02
        The fraction of the validation images that exceeds the threshold.
    max_images : int, default 1500
        At most so many random images of each of the two sets are used.

    Attributes
    ----------
    reference_distances : float array
        The distances of the validation images.
    threshold : float
        Greater distances are out of distribution.

    References
    ----------
    Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks, 2018 (arXiv:1807.03888).
    Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
    matrices, 2004.
    """

    def __init__(
        self,
        model: keras.Model,
        train_batches: ImageBatches,
        val_batches: ImageBatches,
        files: pd.DataFrame,
        seed: int = 0,
        outlier_fraction: float = 0.02,
        max_images: int = 1500,
    ) -> None:
        def draw(batches: ImageBatches) -> np.ndarray:
            shuffled = np.random.default_rng(seed).permutation(batches.rows)
            return gather_images(batches.arrays, shuffled[:max_images])

        self.model = model
        self.to_features = keras.Model(model.inputs, model.get_layer("average").output)
        self.gaussian = LedoitWolf().fit(self.features(draw(train_batches)))
        x_val = draw(val_batches)
        self.reference_distances = self.distances(x_val)
        self.threshold = float(
            np.quantile(self.reference_distances, 1 - outlier_fraction)
        )
        self.lowest_contrast = float(min(image.std() for image in x_val))
        aspect_ratios = files.width / files.height
        self.aspect_ratios = (aspect_ratios.min(), aspect_ratios.max())

    def features(self, x: np.ndarray) -> np.ndarray:
        """Return the pooled features of images: float64 (n, channels)."""
        return predict_in_batches(self.to_features, x)

    def distances(self, x: np.ndarray) -> np.ndarray:
        """Return the distances of images, uint8 (n, size, size, 1): float64 (n,)."""
        return np.sqrt(self.gaussian.mahalanobis(self.features(x)))

    def reasons_against(
        self, x: np.ndarray, about: dict[str, Any], highest_color: float = 0.03
    ) -> list[str]:
        """Return why an image is out of distribution, as sentences without a period.

        Parameters
        ----------
        x : uint8 array (1, size, size, 1)
        about : dict
            As from `read_user_image`.
        highest_color : float, default 0.03
            Images with more color are not radiographs.
        """
        reasons = list(about["notes"])
        distance = self.distances(x)[0]
        if distance > self.threshold:
            nearer = np.mean(self.reference_distances < distance)
            reasons.append(
                f"its distance from the training images is {distance:.1f} (features of "
                f"the network); {nearer:.0%} of the validation images are nearer"
            )
        if about["color"] > highest_color:
            reasons.append(
                f"it is in color (mean channel range {about['color']:.0%}), and "
                "radiographs are gray"
            )
        ratio = about["width"] / about["height"]
        lowest, highest = self.aspect_ratios
        if not 0.98 * lowest <= ratio <= 1.02 * highest:
            reasons.append(
                f"its aspect ratio (width / height) is {ratio:.2f}; those of the "
                f"training images are {lowest:.2f} to {highest:.2f}"
            )
        contrast = x.std()
        if contrast < 0.7 * self.lowest_contrast:
            reasons.append(
                f"it has almost no contrast (standard deviation {contrast:.1f} gray "
                f"levels; in the validation images at least {self.lowest_contrast:.1f})"
            )
        return reasons


def predict_image(
    path: str | Path,
    model: keras.Model,
    detector: OutOfDistributionDetector,
    threshold: float,
    resize_mode: str,
    show: Callable[..., Any],
    trained_on: str,
) -> None:
    """Classify one image, print the result and show it with its Grad-CAM map.

    If the image is out of distribution, no class is reported.

    Parameters
    ----------
    path : str or Path
        An image or a DICOM file; errors as in `read_user_image`.
    model : keras.Model
    detector : OutOfDistributionDetector
    threshold : float
    resize_mode : str
        The setting RESIZE_MODE of the training.
    show : callable
        show(figure, name, title, color=...) shows and saves the figure.
    trained_on : str
        What the training images are, for example "chest radiographs".
    """
    x, about = read_user_image(path, model.input_shape[1], resize_mode)
    reasons = detector.reasons_against(x, about)
    probability = predict_probabilities(model, x)[0]
    is_positive = probability >= threshold
    class_name = CLASS_NAMES[int(is_positive)]
    color = CLASS_COLORS[class_name]
    file_name = Path(path).name
    output = f"P(PNEUMONIA) {probability:.3f}, threshold {threshold:.3f}"
    if reasons:
        title = f"Out of distribution (trained on {trained_on}): no prediction"
        color = "#B00020"
        print(
            f"WARNING: {file_name} is unlike the {trained_on} of the training, so no "
            "prediction is reported:"
        )
        for reason in reasons:
            print(f"- {reason};")
        print(f"The raw output, without meaning for such an image: {output}.")
    else:
        title = f"{output}: {class_name}\n(network trained on {trained_on})"
        print(f"{file_name}: {output}: {class_name}. No out-of-distribution warning.")
    print("For learning only: do not use this result to decide about a patient.")
    heatmaps = grad_cam(model, x, np.array([is_positive]))
    caption = "left: input of the network, right: Grad-CAM"
    figure = plot_grad_cam(x, heatmaps, [caption], [color], columns=1)
    show(figure, "own_image", title, color=color)
