"""Grad-CAM: heat maps that explain a prediction, and sanity checks of these maps."""

from collections.abc import Callable, Iterable
from typing import Any

import cv2
import keras
import numpy as np
from scipy.stats import rankdata

from cxr.calibration import to_logits
from cxr.evaluation import Estimate, mean_with_ci, predict_probabilities
from cxr.linear_baseline import border_mask


def gradient_of_sum(function: Callable[[Any], Any], values: Any) -> Any:
    """Return the gradient of sum(function(values)) by a tensor (TensorFlow or JAX)."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda inputs: keras.ops.sum(function(inputs)))(values)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        total = keras.ops.sum(function(values))
    return tape.gradient(total, values)


def grad_cam(
    model: keras.Model, x: np.ndarray, predicted: np.ndarray, layer: str = "features"
) -> np.ndarray:
    """Return Grad-CAM heat maps: which places speak for the predicted class.

    The gradient is that of the logit, which does not saturate as the probability does.

    Parameters
    ----------
    model : keras.Model
    x : uint8 array (n, size, size, 1)
    predicted : bool array (n,)
        The class that each map explains, True for PNEUMONIA.
    layer : str, default "features"
        The convolutional feature maps that are weighted.

    Returns
    -------
    float32 array (n, size, size)
        From 0 to 1, the maximum of each map.

    References
    ----------
    Selvaraju et al., Grad-CAM, 2017 (arXiv:1610.02391).
    """
    features = model.get_layer(layer).output
    to_features = keras.Model(model.inputs, features)
    to_logit = keras.Model(features, model.get_layer("logit").output)
    signs = np.where(predicted, 1, -1).astype("float32")[:, None]
    # The feature maps of all layers are in memory at once, so the batches are small.
    batch_size = max(1, 300_000 // (x.shape[1] * x.shape[2]))
    heatmaps = []
    for start in range(0, len(x), batch_size):
        batch = slice(start, start + batch_size)
        images = keras.ops.convert_to_tensor(x[batch].astype("float32"))
        maps = keras.ops.stop_gradient(to_features(images, training=False))
        gradients = gradient_of_sum(
            lambda values: to_logit(values, training=False) * signs[batch], maps
        )
        # After a training in half precision, both may be in half precision.
        maps = keras.ops.cast(maps, "float32")
        gradients = keras.ops.cast(gradients, "float32")
        weights = keras.ops.mean(gradients, axis=(1, 2), keepdims=True)
        combined = keras.ops.relu(keras.ops.sum(maps * weights, axis=-1))
        heatmaps.extend(
            cv2.resize(heatmap, x.shape[2:0:-1], interpolation=cv2.INTER_LINEAR)
            for heatmap in keras.ops.convert_to_numpy(combined)
        )
    stacked = np.stack(heatmaps)
    return stacked / np.maximum(stacked.max(axis=(1, 2), keepdims=True), 1e-9)


def occlude(x: np.ndarray, centers: Iterable, side: int) -> np.ndarray:
    """Return a copy of images with a square of each one at its mean gray level.

    Parameters
    ----------
    x : uint8 array (n, size, size, 1)
    centers : iterable of n pairs (row, column)
        A square that would go over the edge is moved inside.
    side : int
        The side of the squares in pixels.
    """
    occluded = x.copy()
    highest = x.shape[1] - side
    for image, (row, column) in zip(occluded, centers):
        top = int(np.clip(row - side // 2, 0, highest))
        left = int(np.clip(column - side // 2, 0, highest))
        image[top : top + side, left : left + side] = round(float(image.mean()))
    return occluded


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation of two maps, 0 where one of them is constant."""
    if not np.ptp(first) or not np.ptp(second):
        return 0.0
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def border_share(heatmaps: np.ndarray) -> np.ndarray:
    """Return the fraction of each map that lies on the border; NaN for an empty map.

    Parameters
    ----------
    heatmaps : float array (n, size, size)

    Returns
    -------
    float array (n,)
    """
    total = heatmaps.sum(axis=(1, 2))
    on_border = heatmaps[:, border_mask(heatmaps.shape[1])].sum(axis=1)
    return np.divide(on_border, total, out=np.full(len(total), np.nan), where=total > 0)


def sanity_check_grad_cam(
    model: keras.Model,
    x: np.ndarray,
    predicted: np.ndarray,
    patients: Any,
    bootstrap_samples: int,
    seed: int,
    random_squares: int = 5,
) -> dict[str, Estimate]:
    """Return the results of two sanity checks of Grad-CAM, and where the maps lie.

    Parameters
    ----------
    model : keras.Model
    x : uint8 array (n, size, size, 1)
    predicted : bool array (n,)
        As for `grad_cam`.
    patients : array (n,)
        The intervals are drawn by patient.
    bootstrap_samples, seed : int
    random_squares : int, default 5
        How many random squares the third result is averaged over.

    Returns
    -------
    dict of str to Estimate
        "random_weights": the rank correlation of each map with that of the same network
        with random weights. "drop_at_maximum", "drop_at_random": by how much the logit
        of the predicted class falls when a square, a quarter of the image wide, is
        occluded where the map is brightest, or at a random place. "border_share": the
        fraction of a map that lies on the border, see `border_mask`.

    References
    ----------
    Adebayo et al., Sanity Checks for Saliency Maps, 2018 (arXiv:1810.03292).
    """
    keras.utils.set_random_seed(seed)
    heatmaps = grad_cam(model, x, predicted)
    untrained = grad_cam(keras.models.clone_model(model), x, predicted)
    correlations = np.array(
        [rank_correlation(*maps) for maps in zip(heatmaps, untrained)]
    )
    generator = np.random.default_rng(seed)
    side = x.shape[1] // 4
    signs = np.where(predicted, 1, -1)
    logits = to_logits(predict_probabilities(model, x))

    def drop_of_logit(centers: Iterable) -> np.ndarray:
        occluded = predict_probabilities(model, occlude(x, centers, side))
        return signs * (logits - to_logits(occluded))

    brightest = [
        np.unravel_index(cv2.blur(heatmap, (side, side)).argmax(), heatmap.shape)
        for heatmap in heatmaps
    ]
    drop_at_maximum = drop_of_logit(brightest)
    drops_at_random = [
        drop_of_logit(generator.integers(0, x.shape[1], (len(x), 2)))
        for _ in range(random_squares)
    ]
    results = {
        "random_weights": correlations,
        "drop_at_maximum": drop_at_maximum,
        "drop_at_random": np.mean(drops_at_random, axis=0),
    }
    checks = {
        name: mean_with_ci(values, patients, bootstrap_samples, seed)
        for name, values in results.items()
    }
    shares = border_share(heatmaps)
    is_map = np.isfinite(shares)
    checks["border_share"] = mean_with_ci(
        shares[is_map], np.asarray(patients)[is_map], bootstrap_samples, seed
    )
    return checks


def select_examples(
    labels: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    seed: int,
    examples: int = 3,
) -> tuple[np.ndarray, list[str], str]:
    """Return random examples of each cell of the confusion matrix.

    Parameters
    ----------
    labels : int array (n,)
    probabilities : float array (n,)
    predicted : bool array (n,)
    seed : int
    examples : int, default 3
        At most so many of each cell.

    Returns
    -------
    rows : int array
    captions : list of str
        As "true positive: 0.987", the probability of PNEUMONIA.
    counts : str
        How many images there are in each cell.
    """
    outcomes = {
        "true positive": (labels == 1) & predicted,
        "false negative": (labels == 1) & ~predicted,
        "true negative": (labels == 0) & ~predicted,
        "false positive": (labels == 0) & predicted,
    }
    rows: list[int] = []
    captions = []
    for outcome, mask in outcomes.items():
        shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(mask))
        for row in shuffled[:examples]:
            rows.append(row)
            captions.append(f"{outcome}: {probabilities[row]:.3f}")
    counts = ", ".join(
        f"{mask.sum()} {outcome}{'' if mask.sum() == 1 else 's'}"
        for outcome, mask in outcomes.items()
    )
    return np.array(rows, int), captions, counts


def judge_grad_cam(checks: dict[str, Estimate]) -> list[str]:
    """Return three verdicts on what `sanity_check_grad_cam` found.

    Do the maps depend on the weights, do they mark places that matter, and where do
    they lie?
    """
    # Half of the variance of the ranks is a correlation of 0.71.
    depend = "The maps depend on what the network has learned."
    if checks["random_weights"]["high"] ** 2 > 0.5:
        depend = "The maps may show the image rather than what the network has learned."
    lowest_at_maximum = checks["drop_at_maximum"]["low"]
    highest_at_random = checks["drop_at_random"]["high"]
    if lowest_at_maximum > highest_at_random:
        matter = "The maps pass the occlusion check: they mark places that matter."
    else:
        matter = (
            "The maps do not pass the occlusion check: their maximum does not matter "
            "significantly more than a random place."
        )
    area = border_mask(100).mean()
    border = checks["border_share"]
    place = "The maps lie on the border no more and no less than by chance."
    if border["high"] < area:
        place = "The maps avoid the border."
    if border["low"] > area:
        place = "The maps prefer the border: a sign of a shortcut."
    return [depend, matter, place]


def describe_grad_cam_checks(checks: dict[str, Estimate], image_label: str) -> str:
    """Return what `sanity_check_grad_cam` found, and whether the maps pass.

    `image_label` names the images, for example "200 chest radiographs".
    """
    texts = {
        name: f"{check['value']:.2f} (95% CI {check['low']:.2f} to {check['high']:.2f})"
        for name, check in checks.items()
    }
    depend, matter, place = judge_grad_cam(checks)
    area = border_mask(100).mean()
    border = checks["border_share"]
    return (
        f"On {image_label}: rank correlation with the maps of a network with random "
        f"weights {texts['random_weights']}; 1 would be the same map. "
        f"{depend}\n"
        "Occlusion lowers the logit of the predicted class by "
        f"{texts['drop_at_maximum']} where the map is brightest, and by "
        f"{texts['drop_at_random']} at a random place. {matter}\n"
        f"The border is {area:.0%} of the image, and holds {border['value']:.0%} of "
        f"the maps (95% CI {border['low']:.0%} to {border['high']:.0%}). {place}"
    )
