"""Several devices and half precision give what one device and single precision give."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

TRAIN = """if True:
    import json, sys
    sys.path.insert(0, sys.argv[1])
    count = int(sys.argv[2])
    import keras, numpy as np
    if keras.backend.backend() == "tensorflow" and count > 1:
        import tensorflow as tf
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    import functions
    from types import SimpleNamespace
    from pathlib import Path
    notebook = functions.load("find_strategy", "train", "build_cnn", "ImageBatches", "use_precision", "finish_run", "predict_probabilities")
    devices = [f"CPU:{number}" for number in range(count)] if count > 1 and keras.backend.backend() == "tensorflow" else None
    strategy, found = notebook.find_strategy(devices)
    assert found == count, (found, count)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (90, 32, 32, 1), np.uint8)
    labels = (images[:, :16].mean((1, 2, 3)) > 127.5).astype(np.uint8)
    fit = notebook.ImageBatches([images], np.arange(64), labels[:64], 16, 1, count)
    holdout = notebook.ImageBatches([images], np.arange(64, 89), labels[64:89], 16, devices=count)  # 25: a last batch of 9, which is odd
    keras.utils.set_random_seed(0)
    folder = Path(sys.argv[3])
    with strategy.scope(), notebook.use_precision(sys.argv[4]):
        model = notebook.build_cnn(32, 0.0)
        model.compile(keras.optimizers.SGD(0.001), "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
        state = notebook.train(model, fit, holdout, 3, folder, SimpleNamespace(PATIENCE=9))
    notebook.finish_run(state, SimpleNamespace(), "test", "0")
    read_back = notebook.predict_probabilities(keras.models.load_model(folder / "best.keras"), images).tolist()
    print("\\n" + json.dumps([[row["loss"] for row in state.rows], [row["val_loss"] for row in state.rows], read_back]))"""


def train(folder, backend="tensorflow", count=1, policy="float32"):
    environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
    done = subprocess.run([sys.executable, "-c", TRAIN, ROOT / "notebooks", str(count), folder, policy],
                          capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.array(values) for values in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def alone(request, tmp_path_factory):
    """What one device gives, by backend; their random numbers, and so their first weights, differ."""
    return request.param, train(tmp_path_factory.mktemp("alone"), request.param)


@pytest.mark.long
def test_a_batch_shared_by_two_devices_gives_the_loss_of_one(alone, tmp_path):
    """With a batch that cannot be shared evenly, and batch normalisation, which has to look at the whole batch."""
    for values, expected in zip(train(tmp_path, alone[0], 2), alone[1]):
        np.testing.assert_allclose(values, expected, rtol=1e-4)  # the mean of the batches' means would be off by a hundredth


@pytest.mark.long
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_gives_the_same_to_within_noise(alone, tmp_path, policy):
    losses, val_losses, probabilities = train(tmp_path, alone[0], policy=policy)
    np.testing.assert_allclose(losses, alone[1][0], rtol=0.03)
    np.testing.assert_allclose(val_losses, alone[1][1], rtol=0.03)
    assert np.abs(probabilities - alone[1][2]).max() < 0.01


@pytest.mark.parametrize(("wish", "kind", "capability", "policy"), [
    ("auto", "CPU", 0, "float32"), ("auto", "GPU", 6.0, "float32"), ("auto", "GPU", 7.5, "mixed_float16"),
    ("auto", "GPU", 9.0, "mixed_bfloat16"), ("auto", "TPU", 0, "mixed_bfloat16"), ("off", "GPU", 9.0, "float32"),
    ("on", "CPU", 0, "mixed_bfloat16"), ("on", "GPU", 6.1, "mixed_float16")])
def test_precision_is_halved_where_the_device_gains_from_it(notebook, wish, kind, capability, policy):
    assert notebook.choose_precision(wish, kind, capability) == policy


def test_a_batch_is_filled_up_with_images_that_do_not_count(notebook):
    """Three images become four, so that a mean over six has to be that over five."""
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    batches = notebook.ImageBatches([images], np.arange(5), np.array([0, 0, 0, 1, 1]), 3, devices=2, class_weights=[0.5, 2])
    first, second = batches[0], batches[1]
    assert first[0].ravel().tolist() == [0, 1, 2, 0] and second[0].ravel().tolist() == [3, 4]
    assert first[2].tolist() == pytest.approx([0.6, 0.6, 0.6, 0]) and second[2].tolist() == pytest.approx([2.4, 2.4])
