"""Phantoms are learned; Grad-CAM then points at what was drawn as disease, and its checks tell a map that means something."""

import cv2
import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr.dataset import list_images
from cxr.devices import dtype_policy_scope
from cxr.evaluation import predict_probabilities
from cxr.grad_cam import (
    describe_checks,
    grad_cam,
    gradient_of_sum,
    occlude,
    sanity_check_grad_cam,
)
from cxr.images import load_split
from cxr.models import build_cnn
from cxr.plots import plot_grad_cam


@pytest.fixture(scope="module")
def trained(phantoms):
    """The main network, trained on plain phantoms at 96 pixels; with the test images, their rows and their probabilities."""
    folder = phantoms / "chest_xray"
    files = list_images(folder)
    train, test = files[files.folder != "test"], files[files.folder == "test"]
    (x, _, _), (x_test, test, _) = (
        load_split(folder, part, 96, "phantoms") for part in (train, test)
    )
    keras.utils.set_random_seed(0)
    model = build_cnn(96)
    model.compile(
        keras.optimizers.AdamW(1e-3, weight_decay=4e-3), "binary_crossentropy"
    )
    model.optimizer.build(
        model.trainable_variables
    )  # or TensorFlow traces the step a second time once they are there
    model.fit(
        x,
        train.label.to_numpy(),
        epochs=5,
        batch_size=16,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(
                lambda epoch: 1e-3 if epoch < 3 else 1e-4
            )
        ],
    )
    return model, x, train, x_test, test, predict_probabilities(model, x_test)


@pytest.mark.long
def test_phantoms_are_learned_by_a_small_cnn_but_not_from_their_mean_gray_level(
    trained,
):
    _, x, train, x_test, test, probabilities = trained
    assert roc_auc_score(test.label, probabilities) > 0.95
    gray, gray_test = (pictures.mean(axis=(1, 2)) for pictures in (x, x_test))
    by_gray = LogisticRegression().fit(gray, train.label).predict_proba(gray_test)[:, 1]
    assert roc_auc_score(test.label, by_gray) < 0.8


@pytest.mark.long
def test_grad_cam_peaks_in_the_drawn_opacity(trained, phantoms):
    model, _, _, x_test, test, probabilities = trained
    found = np.flatnonzero((test.finding == "bacterial") & (probabilities > 0.5))
    assert len(found) > 30
    heat = grad_cam(model, x_test[found], np.ones(len(found), bool))
    assert heat.shape == (len(found), 96, 96) and heat.min() >= 0 and heat.max() <= 1
    hits, chances = [], []
    for warmth, path in zip(heat, test.path.iloc[found]):
        mask = cv2.imread(
            str((phantoms / "masks" / path).with_suffix(".png")), cv2.IMREAD_GRAYSCALE
        )
        mask = cv2.resize(mask, (96, 96), interpolation=cv2.INTER_NEAREST) > 0
        hits.append(mask[np.unravel_index(warmth.argmax(), warmth.shape)])
        chances.append(mask.mean())
    assert np.mean(hits) > 4 * np.mean(chances), (
        f"{np.mean(hits):.2f} of the peaks in the opacity, by chance {np.mean(chances):.2f}"
    )


@pytest.mark.long
def test_grad_cam_of_the_other_answer_is_another_map(trained):
    model, _, _, x_test, _, _ = trained
    speaks_for, speaks_against = (
        grad_cam(model, x_test[:8], np.full(8, answer)) for answer in (True, False)
    )
    assert not np.allclose(speaks_for, speaks_against, atol=0.1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.long
def test_grad_cam_after_half_precision_is_nearly_the_same_map(trained, policy):
    model, _, _, x_test, _, _ = trained
    with dtype_policy_scope(policy):
        half = build_cnn(96)
    half.set_weights(model.get_weights())
    heat, expected = (
        grad_cam(one, x_test[:8], np.ones(8, bool)) for one in (half, model)
    )
    assert heat.dtype == np.float32 and np.abs(heat - expected).mean() < 0.01


def test_a_gradient_worked_out_by_hand():
    """Of the sum of x² + 3xy over two rows."""
    values = np.array([[1.0, 2.0], [-1.0, 0.5]], "float32")
    slopes = gradient_of_sum(
        lambda rows: rows[:, 0] ** 2 + 3 * rows[:, 0] * rows[:, 1],
        keras.ops.convert_to_tensor(values),
    )
    assert np.array(slopes).tolist() == pytest.approx(
        np.array([[2 * 1 + 3 * 2, 3 * 1], [-2 + 1.5, -3]])
    )


@pytest.fixture(scope="module")
def spotter():
    """A network that sees one bright spot, wherever it is; with images of such spots, and their places."""
    inputs = keras.Input((32, 32, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(2, 4, strides=4, activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    x = keras.layers.Dense(1, name="logit")(x)
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(x))
    kernel = np.stack([np.full((4, 4, 1), 0.2), np.full((4, 4, 1), -0.2)], -1)
    model.get_layer("features").set_weights([kernel, np.array([-1.0, 0.0])])
    model.get_layer("logit").set_weights([np.array([[30.0], [-1.0]]), np.array([0.0])])
    generator = np.random.default_rng(0)
    images = generator.integers(40, 60, (20, 32, 32, 1), np.uint8)
    places = generator.integers(0, 6, (20, 2)) * 4
    for image, (row, column) in zip(images, places):
        image[row : row + 8, column : column + 8] = 250
    return model, images, places


def test_the_checks_of_grad_cam_tell_a_map_that_means_something(spotter):
    """Its map lies on the spot, and covering that takes the score away."""
    model, images, places = spotter
    checks = sanity_check_grad_cam(
        model, images, np.ones(20, bool), np.arange(20), 100, 0
    )
    assert checks["hottest"][1] > 2 * checks["random"][2] > 0
    assert checks["alike"][0] < 0.9 and all(
        low <= mean <= high for mean, low, high in checks.values()
    )
    covered = occlude(images, [(row + 4, column + 4) for row, column in places], 8)
    assert covered.max() < 80 and images.max() == 250


def test_a_map_is_that_of_its_own_image_however_many_are_asked_for(spotter):
    model, images, places = spotter
    heat = grad_cam(model, images, np.ones(20, bool))
    for warmth, (row, column) in zip(heat, places):
        peak = np.unravel_index(warmth.argmax(), warmth.shape)
        assert row <= peak[0] < row + 8 and column <= peak[1] < column + 8
    many = grad_cam(
        model, np.tile(images, (16, 1, 1, 1)), np.ones(320, bool)
    )  # more than are computed at once
    assert np.allclose(many, np.tile(heat, (16, 1, 1)), atol=1e-5)
    assert (
        grad_cam(model, images, np.zeros(20, bool)).max() == 0
    )  # nothing speaks against a bright spot


def test_a_square_is_covered_whole_at_the_edge_too():
    x = np.zeros((2, 10, 10, 1), np.uint8)
    x[:, :, 5:] = 200
    covered = occlude(x, [(5, 5), (0, 9)], 4)
    assert (covered[0, 3:7, 3:7] == 100).all() and (covered == 100).sum(
        axis=(1, 2, 3)
    ).tolist() == [16, 16]
    assert (covered[1, :4, 6:] == 100).all()


def test_each_kind_of_answer_has_a_row_of_maps():
    x, heat = np.full((3, 8, 8, 1), 90, np.uint8), np.zeros((3, 8, 8))
    heat[:, 2, 2] = 1
    figure = plot_grad_cam(
        x,
        heat,
        ["hit: 0.9", "hit: 0.8", "healthy, passed: 0.1"],
        ["#D55E00", "#D55E00", "#0072B2"],
    )
    grid = np.array([axis.get_title() for axis in figure.axes]).reshape(2, 4)
    assert grid.tolist() == [
        ["hit: 0.9", "hit: 0.8", "", ""],
        ["healthy, passed: 0.1", "", "", ""],
    ]
    for axis in (figure.axes[0], figure.axes[1], figure.axes[4]):
        film, map_over_it = axis.images
        assert film.get_clim() == (0, 255) and np.array_equal(
            film.get_array(), x[0, ..., 0]
        )
        assert (
            map_over_it.get_alpha()[0, 0] == 0 and map_over_it.get_alpha()[2, 2] > 0.5
        )  # where nothing is warm the film is seen
    plt.close(figure)


def test_a_map_is_believed_only_where_its_brightest_square_matters_more():
    sure = {
        "alike": (0.1, 0.0, 0.2),
        "hottest": (3.0, 2.5, 3.5),
        "random": (1.0, 0.5, 1.5),
    }
    assert (
        "falls by 3.00 [2.50, 3.50] under a square where the map is brightest, more than the 1.00 [0.50, 1.50]"
        in describe_checks(sure, "9 films")
    )
    assert "NOT surely more than the" in describe_checks(
        sure | {"random": (1.0, 0.5, 2.6)}, "9 films"
    )
