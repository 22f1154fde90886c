"""The two networks take any size, and the main one does not care how a film was exposed."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from conftest import ROOT

from cxr.evaluation import predict_probabilities
from cxr.models import build_baseline, build_cnn, load_model, residual_block


@pytest.mark.parametrize("size", [32, 100])
def test_both_networks_take_any_size_and_give_probabilities(size):
    x = np.random.default_rng(0).integers(256, size=(3, size, size, 1), dtype=np.uint8)
    for model in (build_baseline(size), build_cnn(size)):
        probabilities = predict_probabilities(model, x)
        assert (
            probabilities.shape == (3,)
            and (0 <= probabilities).all()
            and (probabilities <= 1).all()
        )


def test_exposure_does_not_change_the_answer():
    """Contrast and brightness are taken out by the standardisation at the entrance of the main network."""
    x = np.random.default_rng(0).uniform(60, 160, (2, 64, 64, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    model = build_cnn(64)
    assert np.allclose(
        model.predict(x, verbose=0), model.predict(x * 1.5 + 10, verbose=0), atol=1e-3
    )


@pytest.mark.parametrize("size", [32, 100, 128])
def test_a_light_from_one_side_hardly_reaches_the_convolutions(size):
    """By itself such a slope makes two films as unlike as two thirds to four fifths of a correlation say; what is small stays."""
    small = (
        np.random.default_rng(0)
        .uniform(60, 160, (3, size // 4, size // 4))
        .astype("float32")
    )
    x = np.stack(
        [cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in small]
    )[..., None]
    lit = x + np.linspace(-40, 40, size, dtype="float32")[:, None]
    model = build_cnn(size)
    before, after = (
        keras.Model(model.inputs, model.get_layer("standardize").output).predict(
            one, verbose=0
        )
        for one in (x, lit)
    )
    for number in range(len(x)):
        raw, left = (
            np.corrcoef(one[number].ravel(), other[number].ravel())[0, 1]
            for one, other in ((x, lit), (before, after))
        )
        assert (
            raw < 0.85
            and left > 0.99
            and np.corrcoef(x[number].ravel(), before[number].ravel())[0, 1] > 0.85
        )


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
        assert (
            model.get_layer("logit").compute_dtype
            == model.layers[-1].compute_dtype
            == "float32"
        )
        assert all(
            type(layer).__module__.startswith("keras.") for layer in model.layers
        )
        assert '"cxr' not in model.to_json()


def test_a_network_is_loaded_as_it_was_saved(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "a.keras")
    np.testing.assert_array_equal(
        load_model(tmp_path / "a.keras").get_weights()[0], model.get_weights()[0]
    )


def save_with_code(path):
    """A network whose file holds a function of Python, nested in another network."""
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 2 * x)])
    keras.Sequential([keras.Input((2,)), inner]).save(path)


def test_a_network_that_would_run_code_is_refused_without_the_advice_to_let_it(
    tmp_path,
):
    save_with_code(tmp_path / "best.keras")
    with pytest.raises(ValueError) as caught:
        load_model(tmp_path / "best.keras")
    assert str(caught.value).startswith(
        f"{tmp_path}/best.keras holds Python code"
    ) and "do not switch the safe mode" in str(caught.value)
    assert "safe_mode" not in str(caught.value) and "enable_unsafe" not in str(
        caught.value
    )
    assert caught.value.__suppress_context__  # nor is that shown above it


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def falsify(path):
    """Another kind of code in the file: a class of any module, by its name."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = (
        parts["config.json"]
        .replace(b'"Dense"', b'"system"')
        .replace(b'"keras.layers"', b'"os"')
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def lose_weights(path):
    with zipfile.ZipFile(path) as archive:
        parts = {
            name: archive.read(name)
            for name in archive.namelist()
            if "weights" not in name
        }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


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
    said = str(caught.value)
    assert said.startswith(
        f"{tmp_path}/best.keras cannot be loaded ("
    ) and said.endswith("): it is damaged. Train anew (section 6).")
    assert "\n" not in said and len(said) < 400 and caught.value.__suppress_context__


def rewrite(path, name, change):
    """Change the JSON of one part of a .keras file."""
    with zipfile.ZipFile(path) as archive:
        parts = {one: archive.read(one) for one in archive.namelist()}
    content = json.loads(parts[name])
    change(content)
    with zipfile.ZipFile(path, "w") as archive:
        for one, data in (parts | {name: json.dumps(content).encode()}).items():
            archive.writestr(one, data)


def write_as_a_later_keras(path):
    """As 3.15 does to 3.13: an initializer has an argument that this version does not know."""

    def add_argument(config):
        kernels = [
            layer["config"]["kernel_initializer"]["config"]
            for layer in config["config"]["layers"]
            if "kernel_initializer" in layer["config"]
        ]
        for kernel in kernels:
            kernel["argument_of_tomorrow"] = None
        assert kernels

    rewrite(path, "config.json", add_argument)
    rewrite(
        path, "metadata.json", lambda metadata: metadata.update(keras_version="99.1.0")
    )


@pytest.mark.parametrize("build", [build_baseline, build_cnn])
def test_a_network_of_another_version_of_keras_is_built_anew_with_its_weights(
    build, tmp_path
):
    model, x = (
        build(32),
        np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8),
    )
    model.save(tmp_path / "best.keras")
    write_as_a_later_keras(tmp_path / "best.keras")
    with pytest.raises(TypeError, match="argument_of_tomorrow"):
        keras.models.load_model(tmp_path / "best.keras")
    assert np.array_equal(
        predict_probabilities(load_model(tmp_path / "best.keras"), x),
        predict_probabilities(model, x),
    )


def test_what_no_way_can_read_names_both_versions_and_nobody_is_told_to_delete_it(
    tmp_path,
):
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3)], name="somebody_elses"
    )
    model.save(tmp_path / "best.keras")
    write_as_a_later_keras(tmp_path / "best.keras")
    with pytest.raises(ValueError) as caught:
        load_model(tmp_path / "best.keras")
    assert (
        f"it was written by Keras 99.1.0, and this is Keras {keras.__version__}. Open it with that version"
        in str(caught.value)
    )
    assert "delete" not in str(caught.value)


EXCHANGE = """if True:
    import sys
    import numpy as np
    from cxr.evaluation import predict_probabilities
    from cxr.models import build_baseline, build_cnn, load_model
    task, folder = sys.argv[1:]
    x = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    for build in (build_baseline, build_cnn):
        path = f"{folder}/{build.__name__}.keras"
        if task == "write":
            build(48).save(path)
        print(build.__name__, *predict_probabilities(load_model(path), x))"""


@pytest.mark.skipif(
    "OTHER_PYTHON" not in os.environ,
    reason="make test-colab names another environment's Python in OTHER_PYTHON",
)
@pytest.mark.parametrize("written_here", [True, False])
def test_a_network_is_read_in_another_environment_with_other_versions(
    tmp_path, written_here
):
    """What Colab's Keras has written, that of requirements.lock reads, and the other way round."""

    def run(python, task):
        done = subprocess.run(
            [python, "-c", EXCHANGE, task, tmp_path],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [line.split() for line in done.stdout.splitlines()]
        return {
            name: [float(value) for value in values]
            for name, *values in lines
            if name.startswith("build_")
        }

    writer, reader = [sys.executable, os.environ["OTHER_PYTHON"]][
        :: 1 if written_here else -1
    ]
    written, read = run(writer, "write"), run(reader, "read")
    assert list(written) == ["build_baseline", "build_cnn"]
    for name, values in written.items():
        assert read[name] == pytest.approx(values, abs=1e-4)
