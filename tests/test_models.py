"""The two networks take any size, and the residual CNN ignores the exposure."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from conftest import ROOT

from cxr.devices import dtype_policy_scope
from cxr.evaluation import predict_probabilities
from cxr.models import (
    build_baseline,
    build_cnn,
    load_model,
    receptive_field,
    residual_block,
)


@pytest.mark.parametrize("size", [32, 100])
def test_both_networks_take_any_size_and_give_probabilities(size):
    x = np.random.default_rng(0).integers(256, size=(3, size, size, 1), dtype=np.uint8)
    for model in (build_baseline(size), build_cnn(size)):
        probabilities = predict_probabilities(model, x)
        assert probabilities.shape == (3,)
        assert (0 <= probabilities).all() and (probabilities <= 1).all()


def call(model, x):
    """Return the output of a network, without compiling anything."""
    return np.asarray(model(x, training=False))


def test_contrast_and_brightness_do_not_change_the_output_of_the_cnn():
    """The standardization at its input removes them."""
    x = np.random.default_rng(0).uniform(60, 160, (2, 64, 64, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    model = build_cnn(64)
    assert np.allclose(call(model, x), call(model, x * 1.5 + 10), atol=1e-3)


def correlation(image, other):
    return np.corrcoef(image.ravel(), other.ravel())[0, 1]


@pytest.mark.parametrize("size", [32, 100, 128])
def test_a_brightness_gradient_hardly_reaches_the_convolutions(size):
    """Before the subtraction of the local mean it dominates; small structures stay."""
    generator = np.random.default_rng(0)
    thumbnails = generator.uniform(60, 160, (3, size // 4, size // 4)).astype("float32")
    images = [
        cv2.resize(thumbnail, (size, size), interpolation=cv2.INTER_CUBIC)
        for thumbnail in thumbnails
    ]
    x = np.stack(images)[..., None]
    x_gradient = x + np.linspace(-40, 40, size, dtype="float32")[:, None]
    model = build_cnn(size)
    entrance = keras.Model(model.input, model.get_layer("standardize").output)
    entered = call(entrance, x)
    entered_gradient = call(entrance, x_gradient)
    for number in range(len(x)):
        assert correlation(x[number], x_gradient[number]) < 0.85
        assert correlation(entered[number], entered_gradient[number]) > 0.99
        assert correlation(x[number], entered[number]) > 0.85


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_whose_convolutions_are_zero_passes_its_input_on(stride):
    """What is residual: the skip connection remains, averaged where it is halved."""
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, residual_block(inputs, 4, stride, "block"))
    for name in ("block_conv1", "block_conv2"):
        layer = model.get_layer(name)
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    x = np.random.default_rng(0).uniform(0, 1, (1, 8, 8, 4)).astype("float32")
    expected = x.reshape(1, 8 // stride, stride, 8 // stride, stride, 4).mean((2, 4))
    assert np.allclose(call(model, x), expected, atol=1e-5)


@pytest.mark.parametrize("build", [build_baseline, build_cnn])
def test_the_last_layers_have_single_precision_and_all_layers_are_those_of_keras(build):
    """A .keras file records the modules of its layers: other computers have no cxr."""
    with dtype_policy_scope("mixed_bfloat16"):
        model = build(32)
    assert model.get_layer("logit").compute_dtype == "float32"
    assert model.layers[-1].compute_dtype == "float32"
    for layer in model.layers:
        assert type(layer).__module__.startswith("keras.")
    assert '"cxr' not in model.to_json()


def test_the_receptive_field_is_where_a_change_of_a_pixel_is_noticed():
    """Of the unit in the middle of the last map of the baseline, without its biases."""
    size = 80
    model = build_baseline(size)
    field, stride = receptive_field(model, "pool3")
    features = keras.Model(model.input, model.get_layer("pool3").output)
    x = np.zeros((2, size, size, 1), "float32")
    x[1, 40, 40] = 255
    changed = np.ptp(call(features, x), axis=0).any(axis=-1)
    reached = np.ptp(np.flatnonzero(changed.any(axis=0))) + 1
    assert stride == 8
    assert reached in (field // stride, field // stride + 1)
    with pytest.raises(ValueError, match="'nowhere'"):
        receptive_field(model, "nowhere")


def test_a_network_is_loaded_as_it_was_saved(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "a.keras")
    np.testing.assert_array_equal(
        load_model(tmp_path / "a.keras").get_weights()[0], model.get_weights()[0]
    )


def save_with_code(path):
    """Save a network with a Python function, nested in another network."""
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 2 * x)])
    keras.Sequential([keras.Input((2,)), inner]).save(path)


def test_a_network_that_would_run_code_is_refused_without_the_advice_to_let_it(
    tmp_path,
):
    save_with_code(tmp_path / "best.keras")
    with pytest.raises(ValueError) as caught:
        load_model(tmp_path / "best.keras")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/best.keras contains Python code")
    assert "do not switch off the safe mode" in message
    assert "safe_mode" not in message and "enable_unsafe" not in message
    assert caught.value.__suppress_context__  # nor is that shown above it


def read_parts(path):
    """Return {name: content} of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_parts(path, parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def falsify(path):
    """Put another kind of code into the file: a class of any module, by its name."""
    parts = read_parts(path)
    config = parts["config.json"].replace(b'"Dense"', b'"system"')
    parts["config.json"] = config.replace(b'"keras.layers"', b'"os"')
    write_parts(path, parts)


def lose_weights(path):
    parts = read_parts(path)
    del parts["model.weights.h5"]
    write_parts(path, parts)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        falsify,
        lose_weights,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_network_that_cannot_be_loaded_is_named_in_one_sentence(tmp_path, damage):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(300)])
    model.save(tmp_path / "best.keras")
    damage(tmp_path / "best.keras")
    with pytest.raises(ValueError) as caught:
        load_model(tmp_path / "best.keras")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/best.keras cannot be loaded (")
    assert "damaged" in message and "section 6" in message
    assert "\n" not in message and len(message) < 400
    assert caught.value.__suppress_context__


def rewrite(path, name, change):
    """Change the JSON of one part of a .keras file."""
    parts = read_parts(path)
    content = json.loads(parts[name])
    change(content)
    parts[name] = json.dumps(content).encode()
    write_parts(path, parts)


def write_as_a_later_keras(path):
    """As 3.15 does to 3.13: initializers have an argument that is not known here."""

    def add_argument(config):
        kernels = [
            layer["config"]["kernel_initializer"]["config"]
            for layer in config["config"]["layers"]
            if "kernel_initializer" in layer["config"]
        ]
        for kernel in kernels:
            kernel["argument_of_tomorrow"] = None
        assert kernels

    def change_version(metadata):
        metadata["keras_version"] = "99.1.0"

    rewrite(path, "config.json", add_argument)
    rewrite(path, "metadata.json", change_version)


@pytest.mark.parametrize("build", [build_baseline, build_cnn])
def test_a_network_of_another_version_of_keras_is_rebuilt_with_its_weights(
    build, tmp_path
):
    model = build(32)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype("float32")
    model.save(tmp_path / "best.keras")
    write_as_a_later_keras(tmp_path / "best.keras")
    with pytest.raises(TypeError, match="argument_of_tomorrow"):
        keras.models.load_model(tmp_path / "best.keras")
    loaded = load_model(tmp_path / "best.keras")
    assert np.array_equal(call(loaded, x), call(model, x))


def test_a_file_that_cannot_be_read_names_both_versions_and_is_not_to_be_deleted(
    tmp_path,
):
    inputs = [keras.Input((2,)), keras.layers.Dense(3)]
    keras.Sequential(inputs, name="somebody_elses").save(tmp_path / "best.keras")
    write_as_a_later_keras(tmp_path / "best.keras")
    with pytest.raises(ValueError) as caught:
        load_model(tmp_path / "best.keras")
    message = str(caught.value)
    assert "written by Keras 99.1.0" in message
    assert f"this is Keras {keras.__version__}" in message
    assert "delete" not in message


EXCHANGE = """if True:
    import sys
    import numpy as np
    from cxr.evaluation import predict_probabilities
    from cxr.models import build_baseline, build_cnn, load_model
    folder = sys.argv[1]
    x = np.load(f"{folder}/x.npy")
    for build in (build_baseline, build_cnn):
        build(48).save(f"{folder}/there_{build.__name__}.keras")
        for place in ("here", "there"):
            name = f"{place}_{build.__name__}.keras"
            model = load_model(f"{folder}/{name}")
            print(name, *predict_probabilities(model, x))"""


@pytest.mark.skipif(
    "OTHER_PYTHON" not in os.environ,
    reason="make test-colab names another environment's Python in OTHER_PYTHON",
)
def test_networks_are_exchanged_with_an_environment_of_other_versions(tmp_path):
    """Colab's versions read what those of requirements.lock write, and vice versa."""
    x = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    np.save(tmp_path / "x.npy", x)
    for build in (build_baseline, build_cnn):
        build(48).save(tmp_path / f"here_{build.__name__}.keras")
    done = subprocess.run(
        [os.environ["OTHER_PYTHON"], "-c", EXCHANGE, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines() if ".keras " in line]
    assert len(lines) == 4
    for name, *values in lines:
        found = predict_probabilities(load_model(tmp_path / name), x)
        assert found == pytest.approx([float(value) for value in values], abs=1e-4)
