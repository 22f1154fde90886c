"""Augmentation changes pictures in training only, by what it says, and never their meaning."""

import math

import keras
import numpy as np
import pytest

from cxr.augment import RandomExposure, RandomPose, RandomTexture, augment, build_augmentation
from cxr.network import build_baseline


def test_augmentation_acts_in_training_only():
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype("float32")
    augmentation = build_augmentation()
    assert np.allclose(augmentation(x, training=False), x, atol=1e-4)
    changed = np.array(augmentation(x, training=True))
    assert np.abs(changed - x).mean() > 10 and 0 <= changed.min() and changed.max() <= 255
    assert np.abs(changed[0] - changed[1]).mean() > 10 and not np.allclose(changed, augmentation(x, training=True), atol=1)


@pytest.mark.parametrize("kind", [RandomPose, RandomExposure, RandomTexture])
def test_strength_0_leaves_pictures_as_they_are(kind):
    x = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 1)).astype("float32")
    assert np.array_equal(kind(0.0)(x, training=True), x)
    assert not np.allclose(kind(0.1)(x, training=True), x, atol=1e-3)


def test_pose_moves_a_spot_to_where_the_map_says(monkeypatch):
    """A spot of light, 8 pixels right of the middle: turned by 90 degrees about the middle and zoomed twofold, 16 below or above."""
    x = np.zeros((1, 65, 65, 1), np.float32)
    x[0, 31:34, 39:42] = 1
    layer = RandomPose()
    drawn = iter([math.pi / 2, math.log(2), 0, 0, 0])  # turn, zoom, stretch, and no shift
    monkeypatch.setattr(layer, "draw", lambda x, low, high: np.full((1, 1, 1, 1), next(drawn), np.float32))
    moved = np.array(layer(x, training=True))[0, :, :, 0]
    rows, columns = np.nonzero(moved > 0.5)
    assert abs(rows.mean() - 32) == pytest.approx(16, abs=0.5) and columns.mean() == pytest.approx(32, abs=0.5)
    assert 25 <= len(rows) <= 42  # four times the nine pixels


def test_no_exposure_inverts_the_greys_or_runs_away():
    """A ramp of greys under a thousand exposures: none is inverted, and the middle one does not run away."""
    x = np.tile(np.linspace(0.1, 0.9, 64, dtype=np.float32)[None, None, :, None], (1000, 1, 1, 1))
    changed = np.array(RandomExposure()(x, training=True))
    assert (np.diff(changed, axis=2) > 0).all()
    assert -0.05 < changed[:, 0, 32].min() < changed[:, 0, 32].max() < 1.05


def test_texture_blurs_sharpens_and_adds_noise_but_keeps_the_mean():
    """A checkerboard of 0.3 and 0.7 under a thousand textures: its contrast falls and rises, its mean stays within the noise."""
    board = (0.3 + 0.4 * (np.indices((16, 16)).sum(0) % 2)).astype("float32")[None, :, :, None]
    changed = np.array(RandomTexture()(np.tile(board, (1000, 1, 1, 1)), training=True))[:, 4:12, 4:12, 0]
    light, dark = (changed[:, board[0, 4:12, 4:12, 0] > 0.5].mean(1), changed[:, board[0, 4:12, 4:12, 0] < 0.5].mean(1))
    assert (light - dark).min() < 0.05 and (light - dark).max() > 0.55
    assert np.abs(changed.mean(axis=(1, 2)) - 0.5).max() < 0.05
    assert 0 <= changed[:, board[0, 4:12, 4:12, 0] > 0.5].std(1).min() and changed[:, board[0, 4:12, 4:12, 0] > 0.5].std(1).max() < 0.1


@pytest.mark.parametrize("flip", [False, True])
def test_left_becomes_right_only_where_that_is_asked_for(flip):
    x = np.zeros((40, 8, 8, 1), np.float32)
    x[:, :, :2] = 200
    changed = np.array(build_augmentation(0.0, 0.0, 0.0, flip)(x, training=True))
    mirrored = [np.allclose(one, 200 * (x[0, :, ::-1] > 0), atol=1e-2) for one in changed]
    assert 5 < sum(mirrored) < 35 if flip else not any(mirrored)
    assert all(flipped or np.allclose(one, x[0], atol=1e-2) for one, flipped in zip(changed, mirrored))


def test_what_is_trained_is_the_network_itself():
    """The model for training shares its weights with the network, and answers like it outside training."""
    network = build_baseline(32)
    whole = augment(network, 0.5, 0.5, 0.5)
    assert whole.layers[-1] is network
    assert [id(weight) for weight in whole.trainable_weights] == [id(weight) for weight in network.trainable_weights]
    x = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 1)).astype("float32")
    assert np.allclose(whole.predict(x, verbose=0), network.predict(x, verbose=0), atol=1e-5)
    assert not np.allclose(whole(x, training=True), network(x, training=False), atol=1e-6)
    assert isinstance(whole, keras.Model)
