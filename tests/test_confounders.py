"""What images show besides lungs, and what a linear classifier makes of it."""

import warnings

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedGroupKFold

from cxr.confounders import (
    crossfit_ridge,
    describe_aspect_ratios,
    describe_shortcuts,
    detect_markers,
    mean_images_by_class,
    shortcut_aucs,
    shortcut_features,
)
from cxr.images import load_split


def draw_image(spot=None, value=220):
    """An even, dark image of 96 × 96 pixels, with a spot of 5 × 5 at (row, column)."""
    image = np.full((96, 96, 1), 30, np.uint8)
    if spot:
        row, column = spot
        image[row : row + 5, column : column + 5] = value
    return image


def write_images(folder, images):
    """Save images as PNG files; return the table of them that the loader would."""
    rows = []
    for number, image in enumerate(images):
        path = folder / f"{number}.png"
        Image.fromarray(image[:, :, 0]).save(path)
        rows.append(
            {
                "path": path.name,
                "width": image.shape[1],
                "height": image.shape[0],
                "label": number % 2,
                "bytes": path.stat().st_size,
                "color": False,
            }
        )
    return pd.DataFrame(rows)


# Side markers


@pytest.mark.parametrize("spot", [(40, 4), (8, 85)])
def test_a_marker_near_an_edge_is_found(spot):
    row, column = spot
    markers = detect_markers(draw_image(spot))
    assert markers[row : row + 5, column : column + 5].all()
    assert markers.sum() == 25


def test_no_marker_is_found_elsewhere():
    assert not detect_markers(draw_image()).any()
    assert not detect_markers(draw_image((40, 45))).any()  # in the middle
    rib = cv2.line(draw_image()[:, :, 0].copy(), (2, 90), (18, 10), 220, 3)
    assert not detect_markers(rib[:, :, None]).any()
    edge = draw_image((40, 4))
    edge[:, 10:] = 160  # the spot is beside an edge, as where a rib meets the lung
    assert not detect_markers(edge).any()


# Features


def test_features_do_not_depend_on_the_middle_of_an_image(tmp_path):
    """Turning the middle upside down changes nothing but the size of the file."""
    blocks = np.random.default_rng(0).integers(60, 120, (12, 12, 1)).astype(np.uint8)
    image = np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    flipped = image.copy()
    flipped[24:72, 24:72] = image[71:23:-1, 71:23:-1]
    files = write_images(tmp_path, [image, flipped])
    features = shortcut_features([image, flipped], files)
    assert list(features) == [
        "aspect_ratio",
        "file_size_and_color",
        "side_markers",
        "gray_levels",
        "corners",
        "border",
        "all",
    ]
    for name, values in features.items():
        assert values.shape[0] == 2 and values.dtype == np.float32
        if name not in ("all", "file_size_and_color"):
            assert np.array_equal(values[0], values[1]), name
    parts = [values for name, values in features.items() if name != "all"]
    assert np.array_equal(features["all"], np.concatenate(parts, axis=1))


@pytest.mark.parametrize(
    ("name", "region", "value"),
    [
        ("border", np.s_[20:76, :6], 120),
        ("corners", np.s_[-5:, -5:], 120),
        ("side_markers", np.s_[30:35, 3:8], 200),
    ],
)
def test_what_only_one_class_shows_in_a_region_is_found(tmp_path, name, region, value):
    images = [
        np.random.default_rng(number).integers(38, 43, (96, 96, 1)).astype(np.uint8)
        for number in range(40)
    ]
    for image in images[1::2]:
        image[region] = value
    files = write_images(tmp_path, images)
    values = shortcut_features(images, files)[name]
    scores = crossfit_ridge(values, files.label.to_numpy(), np.arange(40))
    assert metrics.roc_auc_score(files.label, scores) == 1


def test_the_color_mode_and_the_size_of_a_file_are_features(tmp_path):
    image = draw_image()
    write_images(tmp_path, [image] * 2)
    Image.fromarray(image[:, :, 0]).convert("RGB").save(tmp_path / "1.png")
    paths = pd.DataFrame({"path": ["0.png", "1.png"]})
    x, files, _ = load_split(tmp_path, paths, 96, "Loading")
    values = shortcut_features(list(x), files)["file_size_and_color"]
    assert values[:, 2].tolist() == [0, 1]
    log_bytes = np.log((tmp_path / "0.png").stat().st_size)
    assert values[0, 0] == pytest.approx(log_bytes, rel=1e-5)
    assert values[0, 1] == pytest.approx(log_bytes - np.log(96 * 96), rel=1e-5)


# Cross-fitting


def test_no_patient_is_scored_by_a_model_that_was_trained_on_it():
    """The values identify a patient; they say nothing about other patients."""
    groups = np.repeat(np.arange(40), 3)
    labels = (np.random.default_rng(0).permutation(40) % 2)[groups]
    values = np.eye(40, dtype=np.float32)[groups]
    crossfitted = crossfit_ridge(values, labels, groups)
    assert metrics.roc_auc_score(labels, crossfitted) < 0.6
    by_image = crossfit_ridge(values, labels, np.arange(120))
    assert metrics.roc_auc_score(labels, by_image) > 0.95


def test_cross_fitting_agrees_with_a_loop_over_the_folds():
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 4)
    labels = (generator.permutation(30) % 2)[groups]
    values = generator.normal(size=(120, 5)).astype(np.float32) + labels[:, None]
    expected = np.zeros(120)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in splitter.split(values, labels, groups):
        mean = values[train].mean(axis=0)
        scale = values[train].std(axis=0)
        ridge = Ridge(alpha=300).fit((values[train] - mean) / scale, labels[train])
        expected[test] = ridge.predict((values[test] - mean) / scale)
    scores = crossfit_ridge(values, labels, groups)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_two_patients_a_class_are_enough():
    labels = np.repeat([0, 1], 4)
    scores = crossfit_ridge(np.arange(8.0)[:, None], labels, np.arange(8) // 2)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_of_one_group_is_refused(label):
    """As where all files of a class hold the same image."""
    groups = np.array([0, 0, 0, 1, 2, 3])
    labels = np.array([0] * 3 + [1] * 3) ^ label
    name = ("NORMAL", "PNEUMONIA")[label]
    with pytest.raises(ValueError, match=f"3 {name} images .* 1 group"):
        crossfit_ridge(np.arange(6.0)[:, None], labels, groups)


# Tables, images and sentences


def test_the_sentence_says_what_is_significant():
    labels = np.arange(200) % 2
    informative = labels + np.random.default_rng(0).normal(0, 0.3, 200)
    scores = {"all": informative, "side_markers": np.zeros(200)}
    aucs = shortcut_aucs(scores, labels, np.arange(200), 200, 0)
    assert aucs["side_markers"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    auc = metrics.roc_auc_score(labels, informative)
    assert aucs["all"]["value"] == pytest.approx(auc)
    assert aucs["all"]["low"] < auc < aucs["all"]["high"]
    everything, markers = describe_shortcuts(aucs, "phantoms").split("\n")
    assert f"{auc:.3f}" in everything and "phantoms" in everything
    assert "significantly better" in everything and "not" not in everything
    assert "not significantly better" in markers


@pytest.mark.parametrize("labels", [[], [1], [0, 0]], ids=str)
def test_a_shortcut_without_both_classes_has_no_auc(labels):
    scores = {"all": np.zeros(len(labels))}
    labels = np.array(labels, int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aucs = shortcut_aucs(scores, labels, np.arange(len(labels)), 10, 0)
    assert np.isnan(list(aucs["all"].values())).all()


def test_mean_images_and_the_frequency_of_markers():
    x = np.stack(
        [draw_image((40, 4)), draw_image((40, 4)), draw_image((2, 2)), draw_image()]
    )
    images, captions = mean_images_by_class(x, np.array([0, 0, 1, 1]))
    assert len(images) == len(captions) == 12
    assert captions[0].startswith("NORMAL") and captions[7].startswith("PNEUMONIA")
    assert "markers" in captions[3] and "markers" in captions[7]
    assert images[0][42, 6] == pytest.approx(220 / 255)
    assert images[4][4, 4] == pytest.approx((220 + 30) / 2 / 255)
    assert images[1].shape == (32, 32) and images[2].shape == (32, 32)
    assert images[3][42, 6] == 1
    assert images[3][4, 4] == 0
    assert images[7][4, 4] == 1
    assert images[8][42, 6] == 0 and images[8][60, 60] == 0.5 and images[8][4, 4] == 1
    assert images[11][42, 6] == 0 and images[11][4, 4] == 1


def test_the_difference_of_the_mean_images_is_twice_pneumonia_minus_normal():
    x = np.stack([draw_image(), draw_image() + np.uint8(51)])  # 51 is a fifth of 255
    images, _ = mean_images_by_class(x, np.array([0, 1]))
    for difference in images[8:11]:
        assert difference == pytest.approx(0.5 + 2 * 0.2)
    assert images[11] == pytest.approx(0.5)  # no markers in either


def test_a_class_without_images_has_no_mean_image():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = mean_images_by_class(draw_image((40, 4))[None], np.array([1]))
    assert all(np.isnan(image).all() for image in images[:4])
    assert images[4][42, 6] == pytest.approx(220 / 255)


def test_the_sentence_on_aspect_ratios():
    files = pd.DataFrame(
        {"width": [150, 130, 100, 120], "height": 100, "label": [0, 0, 1, 1]}
    )
    text = describe_aspect_ratios(files, "phantoms")
    assert "1.40 for NORMAL" in text and "1.10 for PNEUMONIA" in text
    assert "nan" in describe_aspect_ratios(files[:2], "phantoms")
    squares = describe_aspect_ratios(files.assign(width=100), "phantoms")
    assert "All phantoms" in squares and "100 × 100" in squares
