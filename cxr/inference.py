"""A picture of one's own: read, compared with what the network knows, and judged."""

import io
from pathlib import Path

import keras
import numpy as np
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
from cxr.plots import plot_grad_cam, show_figure


def colorfulness(data: bytes) -> float:
    """Return how colorful a picture is: the mean distance of its strongest from its weakest channel, 0 to 1."""
    with Image.open(io.BytesIO(data)) as stored:
        if stored.mode.startswith(("1", "L", "I", "F")):
            return 0.0
        small = (
            np.asarray(stored.convert("RGBA").resize((64, 64), Image.Resampling.BOX))
            / 255
        )
    return float(
        np.mean(np.ptp(small[..., :3], axis=-1) * small[..., 3])
    )  # on black, where it is transparent


def read_user_image(
    path: str | Path, size: int, resize_mode: str = "stretch"
) -> tuple[np.ndarray, dict]:
    """Read one picture as section 2 does, or a DICOM file; return (uint8 (1, size, size, 1), about).

    `about` holds the width and height of the original, its `color` (0 to 1) and `notes`, what its header says against it.
    Raises ValueError or ModuleNotFoundError with the name of the file, the reason and what to do.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(
            f"There is no file {path.resolve()}: correct MY_PICTURE, or leave it empty for a picture of the test set."
        )
    try:
        data, color, notes = read_bytes(path), 0.0, []
        if (
            b"DICM" == data[128:132]
            or data[:2] in (b"\2\0", b"\x08\0")
            or path.suffix.lower() in (".dcm", ".dicom")
        ):  # preamble or not
            gray, notes = read_dicom(data)
            picture, extent = (
                resize_to_square(gray, 1, gray.shape[::-1], size, resize_mode),
                gray.shape[::-1],
            )
        else:
            (picture, extent), color = (
                read_image_strict(path, size, resize_mode),
                colorfulness(data),
            )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: a DICOM file takes one more package: run %pip install pydicom and try again."
        ) from error
    except Exception as error:  # decoders raise all kinds
        reason = format_read_error(error, path).rstrip(".")
        raise ValueError(
            f"{path} cannot be read: {reason}. JPEG, PNG and most DICOM files can; a "
            "program that shows this one can save it as PNG."
        ) from error
    return picture[None, :, :, None], {
        "width": extent[0],
        "height": extent[1],
        "color": color,
        "notes": notes,
    }


class OutOfDistributionDetector:
    """What a network has learned from, as a cloud of feature vectors, and how far from its middle a picture may lie.

    The distance is that of Mahalanobis in the pooled features of the layer "average" (Lee et al., 2018, arXiv:1807.03888; here one cloud
    for both classes), with a covariance that is shrunk so that it can be inverted (Ledoit and Wolf, 2004). The cut-off is exceeded by
    `share` of the held-out images. `fit`, `holdout`: ImageBatches; at most `most` images of each are looked at.
    """

    def __init__(
        self,
        model: keras.Model,
        fit: ImageBatches,
        holdout: ImageBatches,
        files,
        share=0.02,
        most=1500,
        seed=0,
    ):
        def draw(batches):
            return gather_images(
                batches.arrays,
                np.random.default_rng(seed).permutation(batches.rows)[:most],
            )

        self.model, self.features = (
            model,
            keras.Model(model.inputs, model.get_layer("average").output),
        )
        self.cloud, kept = LedoitWolf().fit(self.pool(draw(fit))), draw(holdout)
        self.reference_distances, self.flattest = (
            self.distances(kept),
            float(min(one.std() for one in kept)),
        )
        self.threshold, ratios = (
            float(np.quantile(self.reference_distances, 1 - share)),
            files.width / files.height,
        )
        self.ratios = ratios.min(), ratios.max()

    def pool(self, x):
        return predict_in_batches(self.features, x)

    def distances(self, x: np.ndarray) -> np.ndarray:
        """Return the distances of images, uint8 (n, size, size, 1): float64 (n,)."""
        return np.sqrt(self.cloud.mahalanobis(self.pool(x)))

    def reasons_against(
        self, x: np.ndarray, about: dict, colorful: float = 0.03
    ) -> list[str]:
        """Return why a picture is unlike the training images, as sentences; none if it is not."""
        distance, ratio, (low, high) = (
            self.distances(x)[0],
            about["width"] / about["height"],
            self.ratios,
        )
        found = {
            f"in the network's features it lies {distance:.1f} from the middle of the training images, farther than "
            f"{np.mean(self.reference_distances < distance):.0%} of those held out": distance
            > self.threshold,
            f"it is in color ({about['color']:.0%} between its strongest and weakest channel), and radiographs are gray": about[
                "color"
            ]
            > colorful,
            f"it is {ratio:.2f} times as wide as high; the training images are {low:.2f} to {high:.2f}": not 0.98
            * low
            <= ratio
            <= 1.02 * high,
            f"it is nearly one gray (deviation {x.std():.1f} of 255 levels; none held out is below {self.flattest:.1f})": x.std()
            < 0.7 * self.flattest,
        }
        return about["notes"] + [reason for reason, holds in found.items() if holds]


def predict_image(
    path: str | Path,
    model: keras.Model,
    familiar: OutOfDistributionDetector,
    threshold: float,
    output_dir: Path,
    kind: str,
    trained_on: str,
    resize_mode: str = "stretch",
):
    """Read one picture (errors as in `read_user_image`), judge it, say it in words and show it; `trained_on`: what the network knows."""
    x, about = read_user_image(path, model.input_shape[1], resize_mode)
    reasons, probability = (
        familiar.reasons_against(x, about),
        predict_probabilities(model, x)[0],
    )
    answer, name = CLASS_NAMES[int(probability >= threshold)], Path(path).name
    said, color = (
        f"P(PNEUMONIA) {probability:.3f}, threshold {threshold:.3f}: {answer}",
        CLASS_COLORS[answer],
    )
    title = f"{said}\n(by a network trained on {trained_on})"
    if reasons:
        title, color = f"Unlike the {trained_on} of the training: no answer", "#B00020"
        print(
            f"WARNING: {name} is unlike the {trained_on} that the network learned from, so its answer means nothing:"
        )
        print(
            *[f"- {reason};" for reason in reasons],
            f"What it says all the same: {said}.",
            sep="\n",
        )
    else:
        print(
            f"{name}: {said}. Nothing speaks against its being like the {trained_on} that the network learned from."
        )
    print("For learning only: this may not decide about a patient.")
    heat = grad_cam(model, x, np.array([probability >= threshold]))
    captions = [
        "this film: what the network gets",
        "this film: what speaks for its answer",
    ]
    figure = plot_grad_cam(
        np.concatenate([x, x]),
        np.concatenate([0 * heat, heat]),
        captions,
        [color] * 2,
        columns=2,
    )
    show_figure(figure, title, "own_picture", output_dir, kind, color)
