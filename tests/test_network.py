"""The two networks take any size, and the main one does not care how a film was exposed."""

import keras
import numpy as np
import pytest

from cxr.measure import predict_probabilities
from cxr.network import build_baseline, build_cnn, residual_block


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
        models = build_baseline(32), build_cnn(32)
    finally:
        keras.config.set_dtype_policy(policy)
    for model in models:
        assert model.get_layer("logit").compute_dtype == model.layers[-1].compute_dtype == "float32"
        assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
        assert '"cxr' not in model.to_json()
