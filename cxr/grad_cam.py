"""Explanations: what speaks for an answer, and whether such a map means something."""

import cv2
import keras
import numpy as np
from scipy.stats import rankdata

from cxr.calibration import to_logits
from cxr.evaluation import mean_with_ci, predict_probabilities


def gradient_of_sum(function, values):
    """Return the gradient of sum(function(values)) with respect to `values`, a tensor, with TensorFlow or JAX."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda inputs: keras.ops.sum(function(inputs)))(values)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        total = keras.ops.sum(function(values))
    return tape.gradient(total, values)


def grad_cam(
    model: keras.Model, x: np.ndarray, answers: np.ndarray, layer: str = "features"
) -> np.ndarray:
    """Return float32 maps (n, size, size), 0 to 1: what speaks for each image's answer (True: PNEUMONIA).

    Selvaraju et al., 2017 (arXiv:1610.02391), on the logit, which does not saturate as the probability does.
    """
    maps_of = keras.Model(model.inputs, model.get_layer(layer).output)
    logit_of = keras.Model(
        model.get_layer(layer).output, model.get_layer("logit").output
    )
    signs, found = np.where(answers, 1, -1).astype("float32")[:, None], []
    some = max(
        1, 300_000 // (x.shape[1] * x.shape[2])
    )  # at a time: all maps of all layers are in memory at once
    for part in (slice(start, start + some) for start in range(0, len(x), some)):
        maps = keras.ops.stop_gradient(
            maps_of(
                keras.ops.convert_to_tensor(x[part].astype("float32")), training=False
            )
        )
        slopes = gradient_of_sum(
            lambda values: logit_of(values, training=False) * signs[part], maps
        )
        maps, slopes = (
            keras.ops.cast(maps, "float32"),
            keras.ops.cast(slopes, "float32"),
        )  # after a training in half precision
        weights = keras.ops.mean(slopes, axis=(1, 2), keepdims=True)
        found += list(
            keras.ops.convert_to_numpy(
                keras.ops.relu(keras.ops.sum(maps * weights, axis=-1))
            )
        )
    heat = np.stack(
        [
            cv2.resize(one, x.shape[2:0:-1], interpolation=cv2.INTER_LINEAR)
            for one in found
        ]
    )
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), 1e-9)


def occlude(x: np.ndarray, centers, side: int) -> np.ndarray:
    """Return a copy of pictures (n, size, size, 1) with a square of `side` pixels around each center (row, column) at the mean gray."""
    covered = x.copy()
    for picture, (row, column) in zip(covered, centers):
        top, left = (
            int(np.clip(middle - side // 2, 0, x.shape[1] - side))
            for middle in (row, column)
        )
        picture[top : top + side, left : left + side] = round(float(picture.mean()))
    return covered


def sanity_check_grad_cam(
    model: keras.Model,
    x: np.ndarray,
    answers: np.ndarray,
    patients,
    bootstrap_samples: int,
    seed: int,
    tries: int = 5,
) -> dict:
    """Return {"alike", "hottest", "random"}: (mean, low, high) each, what two sanity checks of Grad-CAM show.

    "alike": rank correlation of a map with that of the same network with random weights (Adebayo et al., 2018, arXiv:1810.03292).
    "hottest", "random": by how much the logit of the answer falls if a square, a quarter of the picture wide, is covered where the map
    is brightest, or anywhere (mean of some `tries`).
    """
    keras.utils.set_random_seed(seed)
    heat, blind = (
        grad_cam(model, x, answers),
        grad_cam(keras.models.clone_model(model), x, answers),
    )
    ranks = [[rankdata(one) for one in maps] for maps in (heat, blind)]
    alike = np.array(
        [
            np.corrcoef(one, other)[0, 1] if np.ptp(one) and np.ptp(other) else 0.0
            for one, other in zip(*ranks)
        ]
    )
    generator, side, signs = (
        np.random.default_rng(seed),
        x.shape[1] // 4,
        np.where(answers, 1, -1),
    )

    def lose(centers):
        before, after = (
            to_logits(predict_probabilities(model, pictures))
            for pictures in (x, occlude(x, centers, side))
        )
        return signs * (before - after)

    hottest = lose(
        [
            np.unravel_index(cv2.blur(one, (side, side)).argmax(), one.shape)
            for one in heat
        ]
    )
    anywhere = np.mean(
        [lose(generator.integers(0, x.shape[1], (len(x), 2))) for _ in range(tries)],
        axis=0,
    )
    return {
        name: mean_with_ci(values, patients, bootstrap_samples, seed)
        for name, values in (
            ("alike", alike),
            ("hottest", hottest),
            ("random", anywhere),
        )
    }


def select_examples(
    labels: np.ndarray,
    probabilities: np.ndarray,
    answers: np.ndarray,
    seed: int,
    most: int = 4,
) -> tuple:
    """Return (rows, captions, how many there are of each): up to `most` hits, misses, healthy ones that passed, and false alarms."""
    kinds = {
        "hit": (labels == 1) & answers,
        "miss": (labels == 1) & ~answers,
        "healthy, passed": (labels == 0) & ~answers,
        "false alarm": (labels == 0) & answers,
    }
    drawn = {
        kind: np.random.default_rng(seed).permutation(np.flatnonzero(chosen))[:most]
        for kind, chosen in kinds.items()
    }
    captions = [
        f"{kind}: {probabilities[row]:.3f}"
        for kind, chosen in drawn.items()
        for row in chosen
    ]
    return (
        np.concatenate(list(drawn.values())),
        captions,
        ", ".join(f"{chosen.sum()} × {kind}" for kind, chosen in kinds.items()),
    )


def describe_checks(checks: dict, pictures: str) -> str:
    """Return in words what `sanity_check_grad_cam` found, and whether a map may be believed."""
    alike, hottest, anywhere = (
        f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in checks.values()
    )
    verdict = (
        "more than"
        if checks["hottest"][1] > checks["random"][2]
        else "NOT surely more than"
    )
    return (
        f"On {pictures}: rank correlation with maps of random weights {alike} (1: the same map).\nThe logit of the answer falls by "
        f"{hottest} under a square where the map is brightest, {verdict} the {anywhere} under one anywhere."
    )
