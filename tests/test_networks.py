"""The networks: their arithmetic, that they learn from phantoms, and that Grad-CAM points at what was drawn as disease."""

import inspect
import math

import cv2
import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score


def test_receptive_field_of_the_baseline_worked_out_by_hand(notebook):
    model = notebook.build_baseline(64)  # 3, 4, 8, 10, 18, 22, 38, 46: convolution and pooling in turn
    assert notebook.receptive_field(model, "conv1") == (3, 1)
    assert notebook.receptive_field(model, "pool2") == (10, 4)
    assert notebook.receptive_field(model, "pool4") == (46, 16)
    with pytest.raises(ValueError, match="no layer"):
        notebook.receptive_field(model, "conv9")


def test_no_pixel_outside_the_receptive_field_matters(notebook):
    model = notebook.build_baseline(96)
    maps = keras.Model(model.input, model.get_layer("pool4").output)
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (1, 96, 96, 1)).astype("float32")
    changed = x.copy()
    changed[:, 50:] = changed[:, :, 50:] = 0  # unit (2, 2) looks at 46 pixels from 17 to 62, unit (1, 1) from 1 to 46
    before, after = maps.predict(x, verbose=0), maps.predict(changed, verbose=0)
    assert np.allclose(before[0, 1, 1], after[0, 1, 1], atol=1e-5) and not np.allclose(before[0, 2, 2], after[0, 2, 2], atol=1e-3)


def test_the_guess_of_minutes_knows_the_size_of_the_network(notebook):
    size = 128
    products = sum(math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:3])
                   for layer in notebook.build_cnn(size).layers if isinstance(layer, keras.layers.Conv2D))
    assumed = inspect.signature(notebook.guess_minutes).parameters["products_per_pixel"].default
    assert products / size**2 == pytest.approx(assumed, rel=0.05)


@pytest.mark.parametrize("size", [32, 100])
def test_both_networks_take_any_size_and_give_probabilities(notebook, size):
    x = np.random.default_rng(0).integers(256, size=(3, size, size, 1), dtype=np.uint8)
    for model in (notebook.build_baseline(size), notebook.build_cnn(size)):
        probabilities = notebook.predict_probabilities(model, x)
        assert probabilities.shape == (3,) and (0 <= probabilities).all() and (probabilities <= 1).all()


def test_exposure_does_not_change_the_answer(notebook):
    """Contrast and brightness are taken out by the standardisation at the entrance of the main network."""
    x = np.random.default_rng(0).uniform(60, 160, (2, 64, 64, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    model = notebook.build_cnn(64)
    assert np.allclose(model.predict(x, verbose=0), model.predict(x * 1.5 + 10, verbose=0), atol=1e-3)


def test_augmentation_acts_in_training_only(notebook):
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
    augmentation = notebook.build_augmentation()
    assert np.allclose(augmentation(x, training=False), x, atol=1e-4)
    changed = np.array(augmentation(x, training=True))
    assert np.abs(changed - x).mean() > 10 and 0 <= changed.min() and changed.max() <= 255
    assert np.abs(changed[0] - changed[1]).mean() > 10 and not np.allclose(changed, augmentation(x, training=True), atol=1)


@pytest.mark.parametrize("kind", ["RandomPose", "RandomExposure", "RandomTexture"])
def test_strength_0_leaves_pictures_as_they_are(notebook, kind):
    x = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 1)).astype("float32")
    assert np.array_equal(getattr(notebook, kind)(0.0)(x, training=True), x)
    assert not np.allclose(getattr(notebook, kind)(0.1)(x, training=True), x, atol=1e-3)


def test_pose_moves_a_spot_to_where_the_map_says(notebook, monkeypatch):
    """A spot of light, 8 pixels right of the middle: turned by 90 degrees about the middle and zoomed twofold, 16 below or above."""
    x = np.zeros((1, 65, 65, 1), np.float32)
    x[0, 31:34, 39:42] = 1
    layer = notebook.RandomPose()
    drawn = iter([math.pi / 2, math.log(2), 0, 0, 0])  # turn, zoom, stretch, and no shift
    monkeypatch.setattr(layer, "draw", lambda x, low, high: np.full((1, 1, 1, 1), next(drawn), np.float32))
    moved = np.array(layer(x, training=True))[0, :, :, 0]
    rows, columns = np.nonzero(moved > 0.5)
    assert abs(rows.mean() - 32) == pytest.approx(16, abs=0.5) and columns.mean() == pytest.approx(32, abs=0.5)
    assert 25 <= len(rows) <= 42  # four times the nine pixels


def test_no_exposure_inverts_the_greys_or_runs_away(notebook):
    """A ramp of greys under a thousand exposures: none is inverted, and the middle one does not run away."""
    x = np.tile(np.linspace(0.1, 0.9, 64, dtype=np.float32)[None, None, :, None], (1000, 1, 1, 1))
    changed = np.array(notebook.RandomExposure()(x, training=True))
    assert (np.diff(changed, axis=2) > 0).all()
    assert -0.05 < changed[:, 0, 32].min() < changed[:, 0, 32].max() < 1.05


@pytest.fixture(scope="module")
def trained(notebook, phantoms):
    """The main network, trained on phantoms at 96 pixels; with the test images, their rows and their probabilities."""
    folder = phantoms / "chest_xray"
    files = notebook.list_images(folder)
    train, test = files[files.split != "test"], files[files.split == "test"]
    (x, _, _), (x_test, test, _) = (notebook.load_split(folder, part, 96, "phantoms") for part in (train, test))
    keras.utils.set_random_seed(0)
    model = notebook.build_cnn(96)
    whole = notebook.augment(model)
    whole.compile(keras.optimizers.AdamW(1e-3, weight_decay=4e-3), "binary_crossentropy")
    whole.fit(x, train.label.to_numpy(), epochs=12, batch_size=32, verbose=0,
              callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3 if epoch < 8 else 1e-4)])
    return model, x, train, x_test, test, notebook.predict_probabilities(model, x_test)


def test_phantoms_are_learnt_by_a_small_cnn_but_not_from_their_mean_grey_level(trained):
    _, x, train, x_test, test, probabilities = trained
    assert roc_auc_score(test.label, probabilities) > 0.95
    grey, grey_test = (pictures.mean(axis=(1, 2)) for pictures in (x, x_test))
    by_grey = LogisticRegression().fit(grey, train.label).predict_proba(grey_test)[:, 1]
    assert roc_auc_score(test.label, by_grey) < 0.8


def test_grad_cam_peaks_in_the_drawn_opacity(notebook, trained, phantoms):
    model, _, _, x_test, test, probabilities = trained
    found = np.flatnonzero((test.finding == "bacterial") & (probabilities > 0.5))
    assert len(found) > 30
    heat = notebook.grad_cam(model, x_test[found], np.ones(len(found), bool))
    assert heat.shape == (len(found), 96, 96) and heat.min() >= 0 and heat.max() <= 1
    hits, chances = [], []
    for warmth, path in zip(heat, test.path.iloc[found]):
        mask = cv2.imread(str((phantoms / "masks" / path).with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(mask, (96, 96), interpolation=cv2.INTER_NEAREST) > 0
        hits.append(mask[np.unravel_index(warmth.argmax(), warmth.shape)])
        chances.append(mask.mean())
    assert np.mean(hits) > 4 * np.mean(chances), f"{np.mean(hits):.2f} of the peaks in the opacity, by chance {np.mean(chances):.2f}"


def test_grad_cam_of_the_other_answer_is_another_map(notebook, trained):
    model, _, _, x_test, _, _ = trained
    speaks_for, speaks_against = (notebook.grad_cam(model, x_test[:8], np.full(8, answer)) for answer in (True, False))
    assert not np.allclose(speaks_for, speaks_against, atol=0.1)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_grad_cam_after_half_precision_is_nearly_the_same_map(notebook, trained, policy):
    model, _, _, x_test, _, _ = trained
    with notebook.use_precision(policy):
        half = notebook.build_cnn(96)
    half.set_weights(model.get_weights())
    heat, expected = (notebook.grad_cam(one, x_test[:8], np.ones(8, bool)) for one in (half, model))
    assert heat.dtype == np.float32 and np.abs(heat - expected).mean() < 0.01
