"""A picture of one's own: read, compared with what the network knows, and judged."""

import io
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from sklearn.covariance import LedoitWolf

from cxr.batches import ImageBatches, gather_images
from cxr.dataset import explain, read_file
from cxr.dicom import read_dicom
from cxr.explain import grad_cam, plot_grad_cam
from cxr.figures import Look, finish_figure
from cxr.images import make_square, read_alone
from cxr.measure import predict, predict_probabilities


def measure_colour(data: bytes) -> float:
    """Return how colourful a picture is: the mean distance of its strongest from its weakest channel, 0 to 1."""
    with Image.open(io.BytesIO(data)) as stored:
        if stored.mode.startswith(("1", "L", "I", "F")):
            return 0.0
        small = np.asarray(stored.convert("RGBA").resize((64, 64), Image.Resampling.BOX)) / 255
    return float(np.mean(np.ptp(small[..., :3], axis=-1) * small[..., 3]))  # on black, where it is transparent


def read_picture(path: str | Path, size: int, geometry: str = "squash") -> tuple[np.ndarray, dict]:
    """Read one picture as section 2 does, or a DICOM file; return (uint8 (1, size, size, 1), about).

    `about` holds the width and height of the original, its `colour` (0 to 1) and `notes`, what its header says against it.
    Raises ValueError or ModuleNotFoundError with the name of the file, the reason and what to do.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no file {path.resolve()}: correct MY_PICTURE, or leave it empty for a picture of the test set.")
    try:
        data, colour, notes = read_file(path), 0.0, []
        if b"DICM" == data[128:132] or data[:2] in (b"\2\0", b"\x08\0") or path.suffix.lower() in (".dcm", ".dicom"):  # preamble or not
            grey, notes = read_dicom(data)
            picture, extent = make_square(grey, 1, grey.shape[::-1], size, geometry), grey.shape[::-1]
        else:
            (picture, extent), colour = read_alone(path, size, geometry), measure_colour(data)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: a DICOM file takes one more package: run %pip install pydicom and try again.") from error
    except Exception as error:  # decoders raise all kinds
        reason = explain(error, path).rstrip(".")
        raise ValueError(
            f"{path} cannot be read: {reason}. JPEG, PNG and most DICOM files can; a "
            "program that shows this one can save it as PNG."
        ) from error
    return picture[None, :, :, None], {"width": extent[0], "height": extent[1], "colour": colour, "notes": notes}


class Familiar:
    """What a network has learnt from, as a cloud of feature vectors, and how far from its middle a picture may lie.

    The distance is that of Mahalanobis in the pooled features of the layer "average" (Lee et al., 2018, arXiv:1807.03888; here one cloud
    for both classes), with a covariance that is shrunk so that it can be inverted (Ledoit and Wolf, 2004). The cut-off is exceeded by
    `share` of the held-out images. `fit`, `holdout`: ImageBatches; at most `most` images of each are looked at.
    """

    def __init__(self, model: keras.Model, fit: ImageBatches, holdout: ImageBatches, files, share=0.02, most=1500, seed=0):
        def draw(batches):
            return gather_images(batches.arrays, np.random.default_rng(seed).permutation(batches.rows)[:most])

        self.model, self.features = model, keras.Model(model.inputs, model.get_layer("average").output)
        self.cloud, kept = LedoitWolf().fit(self.pool(draw(fit))), draw(holdout)
        self.usual, self.flattest = self.measure(kept), float(min(one.std() for one in kept))
        self.cut, ratios = float(np.quantile(self.usual, 1 - share)), files.width / files.height
        self.ratios = ratios.min(), ratios.max()

    def pool(self, x):
        return predict(self.features, x)

    def measure(self, x: np.ndarray) -> np.ndarray:
        """Return the distances of images, uint8 (n, size, size, 1): float64 (n,)."""
        return np.sqrt(self.cloud.mahalanobis(self.pool(x)))

    def find_reasons(self, x: np.ndarray, about: dict, colourful: float = 0.03) -> list[str]:
        """Return why a picture is unlike the training images, as sentences; none if it is not."""
        distance, ratio, (low, high) = self.measure(x)[0], about["width"] / about["height"], self.ratios
        found = {f"in the network's features it lies {distance:.1f} from the middle of the training images, farther than "
                 f"{np.mean(self.usual < distance):.0%} of those held out": distance > self.cut,
                 f"it is in colour ({about['colour']:.0%} between its strongest and weakest channel), and radiographs are grey":
                 about["colour"] > colourful,
                 f"it is {ratio:.2f} times as wide as high; the training images are {low:.2f} to {high:.2f}":
                 not 0.98 * low <= ratio <= 1.02 * high,
                 f"it is nearly one grey (deviation {x.std():.1f} of 255 levels; none held out is below {self.flattest:.1f})":
                 x.std() < 0.7 * self.flattest}
        return about["notes"] + [reason for reason, holds in found.items() if holds]


def show_picture(path: str | Path, model: keras.Model, familiar: Familiar, threshold: float, output_dir: Path, kind: str, trained_on: str,
                 geometry: str = "squash"):
    """Read one picture (errors as in `read_picture`), judge it, say it in words and show it; `trained_on`: what the network knows."""
    x, about = read_picture(path, model.input_shape[1], geometry)
    reasons, probability = familiar.find_reasons(x, about), predict_probabilities(model, x)[0]
    answer, name = Look.names[int(probability >= threshold)], Path(path).name
    said, colour = f"P(PNEUMONIA) {probability:.3f}, threshold {threshold:.3f}: {answer}", Look.colours[answer]
    title = f"{said}\n(by a network trained on {trained_on})"
    if reasons:
        title, colour = f"Unlike the {trained_on} of the training: no answer", "#B00020"
        print(f"WARNING: {name} is unlike the {trained_on} that the network learnt from, so its answer means nothing:")
        print(*[f"- {reason};" for reason in reasons], f"What it says all the same: {said}.", sep="\n")
    else:
        print(f"{name}: {said}. Nothing speaks against its being like the {trained_on} that the network learnt from.")
    print("For learning only: this may not decide about a patient.")
    heat = grad_cam(model, x, np.array([probability >= threshold]))
    captions = ["this film: what the network gets", "this film: what speaks for its answer"]
    figure = plot_grad_cam(np.concatenate([x, x]), np.concatenate([0 * heat, heat]), captions, [colour] * 2, columns=2)
    finish_figure(figure, title, "own_picture", output_dir, kind, colour)
