"""Grad-CAM points at the drawn opacities, and its sanity checks recognize good maps."""

import cv2
import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxr.dataset import list_images
from cxr.devices import dtype_policy_scope
from cxr.evaluation import predict_probabilities
from cxr.grad_cam import (
    border_share,
    describe_grad_cam_checks,
    grad_cam,
    gradient_of_sum,
    occlude,
    rank_correlation,
    sanity_check_grad_cam,
    select_examples,
)
from cxr.images import load_split
from cxr.models import build_cnn


@pytest.fixture(scope="module")
def trained(phantoms):
    """The residual CNN, trained on phantoms at 96 pixels.

    With the training images and their rows, the test images, their rows and their
    probabilities.
    """
    folder = phantoms / "chest_xray"
    files = list_images(folder)
    x, train_files, _ = load_split(
        folder, files[files.folder != "test"], 96, "phantoms"
    )
    x_test, test_files, _ = load_split(
        folder, files[files.folder == "test"], 96, "phantoms"
    )
    keras.utils.set_random_seed(0)
    model = build_cnn(96)
    model.compile(
        keras.optimizers.AdamW(1e-3, weight_decay=4e-3), "binary_crossentropy"
    )
    # Otherwise TensorFlow traces the step a second time once its variables exist.
    model.optimizer.build(model.trainable_variables)
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch: 1e-3 if epoch < 3 else 1e-4
    )
    model.fit(
        x,
        train_files.label.to_numpy(),
        epochs=4,
        batch_size=16,
        verbose=0,
        callbacks=[schedule],
    )
    probabilities = predict_probabilities(model, x_test)
    return model, x, train_files, x_test, test_files, probabilities


@pytest.mark.long
def test_phantoms_are_learned_by_a_small_cnn_but_not_from_their_mean_gray_level(
    trained,
):
    _, x, train_files, x_test, test_files, probabilities = trained
    assert roc_auc_score(test_files.label, probabilities) > 0.95
    gray = x.mean(axis=(1, 2))
    gray_test = x_test.mean(axis=(1, 2))
    classifier = LogisticRegression().fit(gray, train_files.label)
    from_gray = classifier.predict_proba(gray_test)[:, 1]
    assert roc_auc_score(test_files.label, from_gray) < 0.8


@pytest.mark.long
def test_grad_cam_peaks_in_the_drawn_opacity(trained, phantoms):
    model, _, _, x_test, test_files, probabilities = trained
    rows = np.flatnonzero((test_files.finding == "bacterial") & (probabilities > 0.5))
    assert len(rows) > 30
    heatmaps = grad_cam(model, x_test[rows], np.ones(len(rows), bool))
    assert heatmaps.shape == (len(rows), 96, 96)
    assert heatmaps.min() >= 0 and heatmaps.max() <= 1
    hits = []
    areas = []
    for heatmap, path in zip(heatmaps, test_files.path.iloc[rows]):
        mask_path = (phantoms / "masks" / path).with_suffix(".png")
        mask = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(mask, (96, 96), interpolation=cv2.INTER_NEAREST) > 0
        hits.append(mask[np.unravel_index(heatmap.argmax(), heatmap.shape)])
        areas.append(mask.mean())
    assert np.mean(hits) > 4 * np.mean(areas), (
        f"{np.mean(hits):.2f} of the maxima lie in the opacity, by chance "
        f"{np.mean(areas):.2f}"
    )


@pytest.mark.long
def test_grad_cam_of_the_other_class_is_another_map(trained):
    model, _, _, x_test, _, _ = trained
    for_pneumonia = grad_cam(model, x_test[:8], np.ones(8, bool))
    for_normal = grad_cam(model, x_test[:8], np.zeros(8, bool))
    assert not np.allclose(for_pneumonia, for_normal, atol=0.1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.long
def test_grad_cam_after_half_precision_is_nearly_the_same_map(trained, policy):
    model, _, _, x_test, _, _ = trained
    with dtype_policy_scope(policy):
        half = build_cnn(96)
    half.set_weights(model.get_weights())
    heatmaps = grad_cam(half, x_test[:8], np.ones(8, bool))
    expected = grad_cam(model, x_test[:8], np.ones(8, bool))
    assert heatmaps.dtype == np.float32
    assert np.abs(heatmaps - expected).mean() < 0.01


def test_a_gradient_worked_out_by_hand():
    """Of the sum of x² + 3xy over two rows."""
    values = np.array([[1.0, 2.0], [-1.0, 0.5]], "float32")
    gradient = gradient_of_sum(
        lambda rows: rows[:, 0] ** 2 + 3 * rows[:, 0] * rows[:, 1],
        keras.ops.convert_to_tensor(values),
    )
    expected = np.array([[2 * 1 + 3 * 2, 3 * 1], [-2 + 1.5, -3]])
    assert np.array(gradient).tolist() == pytest.approx(expected)


@pytest.fixture(scope="module")
def spot_detector():
    """A network that detects a bright spot; with images of spots, and their corners."""
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
    corners = generator.integers(0, 6, (20, 2)) * 4
    for image, (row, column) in zip(images, corners):
        image[row : row + 8, column : column + 8] = 250
    return model, images, corners


def test_the_checks_recognize_maps_that_mark_what_matters(spot_detector):
    """The map lies on the spot, and covering the spot lowers the logit."""
    model, images, corners = spot_detector
    checks = sanity_check_grad_cam(
        model, images, np.ones(20, bool), np.arange(20), 100, 0
    )
    assert checks["drop_at_maximum"]["low"] > 2 * checks["drop_at_random"]["high"] > 0
    assert checks["random_weights"]["value"] < 0.9
    assert all(c["low"] <= c["value"] <= c["high"] for c in checks.values())
    occluded = occlude(images, [(row + 4, column + 4) for row, column in corners], 8)
    assert occluded.max() < 80 and images.max() == 250


def test_a_map_is_that_of_its_own_image_however_many_there_are(spot_detector):
    model, images, corners = spot_detector
    heatmaps = grad_cam(model, images, np.ones(20, bool))
    for heatmap, (row, column) in zip(heatmaps, corners):
        peak = np.unravel_index(heatmap.argmax(), heatmap.shape)
        assert row <= peak[0] < row + 8 and column <= peak[1] < column + 8
    # More than are computed at once.
    tiled = grad_cam(model, np.tile(images, (16, 1, 1, 1)), np.ones(320, bool))
    assert np.allclose(tiled, np.tile(heatmaps, (16, 1, 1)), atol=1e-5)
    # Nothing speaks against a bright spot.
    assert grad_cam(model, images, np.zeros(20, bool)).max() == 0


def test_a_whole_square_is_occluded_at_the_edge_too():
    x = np.zeros((2, 10, 10, 1), np.uint8)
    x[:, :, 5:] = 200
    occluded = occlude(x, [(5, 5), (0, 9)], 4)
    assert (occluded[0, 3:7, 3:7] == 100).all()
    assert (occluded == 100).sum(axis=(1, 2, 3)).tolist() == [16, 16]
    assert (occluded[1, :4, 6:] == 100).all()


@pytest.mark.parametrize(
    "second, expected",
    [
        ([[1, 2], [3, 10]], 1),  # the ranks are the same
        ([[4, 3], [2, 1]], -1),
        ([[5, 5], [5, 5]], 0),  # a map without a maximum
    ],
)
def test_maps_are_compared_by_their_ranks(second, expected):
    first = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert rank_correlation(first, np.array(second)) == pytest.approx(expected)


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


PASSED = {
    "random_weights": estimate(0.1, 0.0, 0.2),
    "drop_at_maximum": estimate(3.0, 2.5, 3.5),
    "drop_at_random": estimate(1.0, 0.5, 1.5),
    "border_share": estimate(0.2, 0.15, 0.25),
}


def test_maps_pass_only_where_their_maximum_matters_significantly_more():
    text = describe_grad_cam_checks(PASSED, "9 images")
    for words in ("On 9 images", "3.00 (95% CI 2.50 to 3.50)", "1.00", "0.10"):
        assert words in text
    assert "do not pass" not in text
    overlapping = PASSED | {"drop_at_random": estimate(1.0, 0.5, 2.6)}
    assert "do not pass" in describe_grad_cam_checks(overlapping, "9 images")


def test_maps_that_random_weights_give_as_well_are_not_what_was_learned():
    text = describe_grad_cam_checks(PASSED, "9 images")
    assert "The maps depend on what the network has learned." in text
    alike = PASSED | {"random_weights": estimate(0.7, 0.6, 0.8)}
    text = describe_grad_cam_checks(alike, "9 images")
    assert "The maps may show the image rather than what" in text


def test_the_border_holds_the_part_of_a_map_that_lies_on_it():
    """The border is 12 of 100 pixels wide on each side: 1 − .76² of the image."""
    maps = np.zeros((4, 100, 100), np.float32)
    maps[0] = 1
    maps[1, 40:60, 40:60] = 1
    maps[2, :, :4] = 1
    shares = border_share(maps)
    assert shares[:3] == pytest.approx([1 - 0.76**2, 0, 1])
    assert np.isnan(shares[3])  # an empty map lies nowhere


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((0.2, 0.15, 0.25), "The maps avoid the border."),
        ((0.6, 0.5, 0.7), "a sign of a shortcut"),
        ((0.4, 0.3, 0.5), "no more and no less than by chance"),
    ],
)
def test_the_place_of_the_maps_is_compared_with_the_area_of_the_border(limits, words):
    text = describe_grad_cam_checks(
        PASSED | {"border_share": estimate(*limits)}, "9 images"
    )
    assert words in text and "The border is 42% of the image" in text


def test_examples_come_from_each_cell_of_the_confusion_matrix():
    labels = np.repeat([1, 1, 0, 0], [5, 2, 6, 1])
    predicted = np.repeat([True, False, False, True], [5, 2, 6, 1])
    probabilities = np.linspace(0, 1, 14)
    rows, captions, counts = select_examples(labels, probabilities, predicted, 0)
    assert len(set(rows)) == len(rows) == len(captions) == 3 + 2 + 3 + 1
    outcomes = {
        (1, True): "true positive",
        (1, False): "false negative",
        (0, False): "true negative",
        (0, True): "false positive",
    }
    for row, caption in zip(rows, captions):
        outcome = outcomes[labels[row], bool(predicted[row])]
        assert caption == f"{outcome}: {probabilities[row]:.3f}"
    assert counts == (
        "5 true positives, 2 false negatives, 6 true negatives, 1 false positive"
    )
    again = select_examples(labels, probabilities, predicted, 0)
    assert np.array_equal(again[0], rows)
    other = select_examples(labels, probabilities, predicted, 1)
    assert not np.array_equal(other[0], rows)


def test_a_cell_without_images_has_no_examples():
    labels = np.array([1, 0])
    probabilities = np.array([0.9, 0.1])
    rows, captions, counts = select_examples(labels, probabilities, labels == 1, 0)
    assert rows.tolist() == [0, 1] and len(captions) == 2
    assert "0 false negatives" in counts and "0 false positives" in counts
