"""The two networks take any size, and the main one does not care how a film was exposed."""

import cv2
import keras
import numpy as np
import pytest

from cxr.explain import grad_cam
from cxr.measure import calibrate, predict_probabilities, to_logits
from cxr.network import build_baseline, build_cnn, residual_block
from cxr.shift import look_closer


@pytest.mark.parametrize("size", [32, 100])
def test_both_networks_take_any_size_and_give_probabilities(size):
    x = np.random.default_rng(0).integers(256, size=(3, size, size, 1), dtype=np.uint8)
    for model in (build_baseline(size), build_cnn(size)):
        probabilities = predict_probabilities(model, x)
        assert probabilities.shape == (3,) and (0 <= probabilities).all() and (probabilities <= 1).all()


def test_exposure_does_not_change_the_answer():
    """Contrast and brightness are taken out by the standardisation at the entrance of the main network."""
    x = np.random.default_rng(0).uniform(60, 160, (2, 64, 64, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    model = build_cnn(64)
    assert np.allclose(model.predict(x, verbose=0), model.predict(x * 1.5 + 10, verbose=0), atol=1e-3)


@pytest.mark.parametrize("size", [32, 100, 128])
def test_a_light_from_one_side_hardly_reaches_the_convolutions(size):
    """By itself such a slope makes two films as unlike as two thirds to four fifths of a correlation say; what is small stays."""
    small = np.random.default_rng(0).uniform(60, 160, (3, size // 4, size // 4)).astype("float32")
    x = np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in small])[..., None]
    lit = x + np.linspace(-40, 40, size, dtype="float32")[:, None]
    model = build_cnn(size)
    before, after = (keras.Model(model.inputs, model.get_layer("standardise").output).predict(one, verbose=0) for one in (x, lit))
    for number in range(len(x)):
        raw, left = (np.corrcoef(one[number].ravel(), other[number].ravel())[0, 1] for one, other in ((x, lit), (before, after)))
        assert raw < 0.85 and left > 0.99 and np.corrcoef(x[number].ravel(), before[number].ravel())[0, 1] > 0.85


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_whose_convolutions_say_nothing_passes_its_input_on(stride):
    """What is residual about it: with weights of 0 the shortcut is left, the mean of 2 × 2 pixels where the map is halved."""
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, residual_block(inputs, 4, stride, "block"))
    for name in ("block_conv1", "block_conv2"):
        layer = model.get_layer(name)
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    x = np.random.default_rng(0).uniform(0, 1, (1, 8, 8, 4)).astype("float32")
    expected = x.reshape(1, 8 // stride, stride, 8 // stride, stride, 4).mean((2, 4))
    assert np.allclose(model.predict(x, verbose=0), expected, atol=1e-5)


def test_the_answer_and_its_logit_stay_in_single_precision_and_all_layers_are_those_of_keras():
    """A .keras file records the modules of its layers: another's computer has no cxr."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        models = build_baseline(32), build_cnn(32), look_closer(build_cnn(32), 3)
    finally:
        keras.config.set_dtype_policy(policy)
    for model in models:
        assert model.get_layer("logit").compute_dtype == model.layers[-1].compute_dtype == "float32"
        assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
        assert '"cxr' not in model.to_json()


@pytest.mark.parametrize(("size", "sides"), [(64, [64, 58, 53]), (80, [80, 73]), (48, [48])])
def test_who_looks_closer_answers_with_the_mean_logit_of_the_film_and_its_middle(size, sides, tmp_path):
    """64 / 1.1 and 64 / 1.2 pixels, cut out and enlarged here by OpenCV; the network's own file needs nothing but Keras."""
    x = np.random.default_rng(0).integers(256, size=(3, size // 4, size // 4), dtype=np.uint8)
    x = np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in x])
    keras.utils.set_random_seed(0)
    alone = build_cnn(size)
    logits = []
    for side in sides:
        edge = (size - side) // 2
        views = np.stack([cv2.resize(one[edge: edge + side, edge: edge + side].astype("float32"), (size, size)) for one in x])
        logits.append(to_logits(predict_probabilities(alone, views[..., None])))
    assert len(sides) == 1 or abs(logits[1] - logits[0]).max() > 1e-3
    closer = look_closer(alone, len(sides))
    closer.save(tmp_path / "closer.keras")
    for network in (closer, keras.models.load_model(tmp_path / "closer.keras")):
        assert np.allclose(to_logits(predict_probabilities(network, x[..., None])), np.mean(logits, axis=0), atol=2e-4)
    assert closer.count_params() == alone.count_params() and closer.name == alone.name
    assert grad_cam(closer, x[..., None], np.array([True, False, True])).shape == (3, size, size)


def test_who_looks_closer_is_calibrated_by_itself_and_a_network_without_feature_maps_stays_as_it_is():
    baseline, alone = build_baseline(32), build_cnn(32)
    assert look_closer(baseline, 3) is baseline
    before = [weight.copy() for weight in alone.get_weights()]
    calibrate(look_closer(alone, 2), 2.0, 1.0)
    assert all(np.array_equal(one, other) for one, other in zip(alone.get_weights(), before))
