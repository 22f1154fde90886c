"""The devices of this machine, and what is decided by them.

Several devices, or half precision, give what one in single precision gives.
"""

import importlib.metadata
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import build
import keras
import numpy as np
import pytest
from conftest import ROOT

from cxr.devices import (
    choose_dtype_policy,
    detect_device,
    distribution_strategy,
    dtype_policy_scope,
    estimate_training_minutes,
    has_bfloat16_support,
    package_versions,
    summarize_environment,
)
from cxr.models import build_cnn

TRAIN = """if True:
    import json, sys
    folder, *jobs = sys.argv[1:]
    import keras, numpy as np
    is_tensorflow = keras.backend.backend() == "tensorflow"
    if is_tensorflow:
        import tensorflow as tf
        parts = [tf.config.LogicalDeviceConfiguration()] * 2
        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, parts)
    from types import SimpleNamespace
    from pathlib import Path
    from cxr.batches import ImageBatches
    from cxr.devices import distribution_strategy, dtype_policy_scope
    from cxr.evaluation import predict_probabilities
    from cxr.models import batch_normalization, build_cnn
    from cxr.training import TrainingRun, make_callbacks

    def build_small():
        network = [keras.Input((32, 32, 1)), keras.layers.Rescaling(1 / 255),
                   keras.layers.Conv2D(4, 3, strides=2), batch_normalization("norm"),
                   keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D(),
                   keras.layers.Dense(1, "sigmoid")]
        return keras.Sequential(network)

    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (90, 32, 32, 1), np.uint8)
    labels = (x[:, :16].mean((1, 2, 3)) > 127.5).astype(np.uint8)
    results = []
    for job in jobs:
        size, count, policy = job.split()
        count = int(count)
        device = "CPU" if is_tensorflow else "cpu"
        devices = [f"{device}:{number}" for number in range(count)]
        strategy, found = distribution_strategy(devices)
        assert found == count, (found, count)
        train = ImageBatches([x], np.arange(64), labels[:64], 16, 1, count)
        # 25 images: the last batch has 9, an odd number.
        val = ImageBatches([x], np.arange(64, 89), labels[64:89], 16, devices=count)
        keras.utils.set_random_seed(0)
        place = Path(folder, job)
        callbacks = make_callbacks(place, 9)
        with strategy.scope(), dtype_policy_scope(policy):
            model = build_small() if size == "small" else build_cnn(32, 0.0)
            metrics = ["accuracy", keras.metrics.AUC(name="auc")]
            optimizer = keras.optimizers.SGD(0.001)
            model.compile(optimizer, "binary_crossentropy", weighted_metrics=metrics)
            with TrainingRun(
                place, model, callbacks, 2, train, val, SimpleNamespace(), {}
            ) as run:
                model.fit(train, validation_data=val, epochs=2, shuffle=False,
                          verbose=0, callbacks=[*callbacks, run])
        saved = keras.models.load_model(place / "best.keras")
        losses, val_losses = run.history.loss.tolist(), run.history.val_loss.tolist()
        results.append([losses, val_losses, predict_probabilities(saved, x).tolist()])
    print("\\n" + json.dumps(results))"""


def run_child(code, *arguments, **environment):
    """Return what a new Python process prints in its last line, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def train(folder, backend, *jobs):
    """Train in a new process; a job names the network, the devices and the policy.

    Returns (losses, validation losses, probabilities) for each job. Without oneDNN,
    which rounds differently where a batch is smaller: in double precision the losses
    agree to seven digits.
    """
    environment = {
        "KERAS_BACKEND": backend,
        # Tests wait longer for the compilation of a step than for its few runs.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 "
        "--xla_backend_optimization_level=0",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "JAX_ENABLE_X64": "1" if "float64" in jobs[0] else "0",
    }
    return run_child(TRAIN, folder, *jobs, **environment)


def assert_equal_training(found, expected):
    # The mean of the batches' means would differ by a hundredth.
    for values, expected_values in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, expected_values, rtol=1e-4)


def assert_similar_training(found, expected):
    for values, expected_values in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(values, expected_values, rtol=0.03)
    assert np.abs(np.subtract(found[2], expected[2])).max() < 0.01


SHARED = ["small 1 {}", "small 2 {}"]


@pytest.mark.long
def test_two_devices_or_half_precision_train_as_one_device_does(tmp_path):
    """A batch is not shared evenly; the batch normalization is over all of it.

    test_gpu.py trains the residual CNN in half precision.
    """
    shared = [job.format("float32") for job in SHARED]
    jobs = [*shared, "small 1 mixed_float16", "small 1 mixed_bfloat16"]
    one, two, *halves = train(tmp_path, "tensorflow", *jobs)
    assert_equal_training(two, one)
    for half in halves:
        assert_similar_training(half, one)


@pytest.mark.long
def test_jax_trains_the_cnn_and_two_devices_train_as_one_does(tmp_path):
    """The devices are compared in double precision.

    How JAX rounds in single precision depends on the size of a batch and on the
    processor.
    """
    shared = [job.format("float64") for job in SHARED]
    one, two, cnn = train(tmp_path, "jax", *shared, "cnn 1 mixed_bfloat16")
    assert_equal_training(two, one)
    losses, val_losses, probabilities = cnn
    assert np.isfinite([*losses, *val_losses]).all() and losses[1] < losses[0]
    assert np.ptp(probabilities) > 0


TRAIN_LINEAR = """if True:
    import json
    import keras, numpy as np, tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled
    parts = [tf.config.LogicalDeviceConfiguration()] * 2
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, parts)
    from cxr.batches import ImageBatches
    from cxr.devices import distribution_strategy, enable_determinism
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    labels = np.array([0, 1, 0, 1, 1], np.uint8)
    losses = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        strategy, count = distribution_strategy(devices)
        with strategy.scope():
            layers = [keras.Input((1, 1, 1)), keras.layers.Flatten(),
                      keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")]
            model = keras.Sequential(layers)
            model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
        train = ImageBatches([images], np.arange(4), labels, 2, devices=count)
        val = ImageBatches([images], np.arange(5), labels, 3, devices=count)
        options = {"epochs": 2, "shuffle": False, "verbose": 0}
        history = model.fit(train, validation_data=val, **options).history
        losses.append([count, *history["loss"], *history["val_loss"]])
    enable_determinism(False)
    before = is_op_determinism_enabled()
    enable_determinism(True)
    print("\\n" + json.dumps([losses, before, is_op_determinism_enabled()]))"""


@pytest.mark.long
def test_two_devices_give_the_losses_of_one_and_determinism_is_switched_on():
    """Gradient descent with logit = weight · pixel + bias, computed with NumPy.

    Training batches: images 0 and 1, 2 and 3; validation batches: 0 to 2, 3 and 4.
    """
    results = run_child(TRAIN_LINEAR, KERAS_BACKEND="tensorflow")
    (one_device, two_devices), deterministic_before, deterministic_after = results
    x = np.arange(5.0)
    y = np.array([0, 1, 0, 1, 1])
    weight, bias = 1.0, 0.0
    losses, val_losses = [], []

    def log_likelihood(probabilities, labels):
        return np.log(np.where(labels == 1, probabilities, 1 - probabilities))

    for _ in range(2):
        epoch = []
        for rows in (slice(0, 2), slice(2, 4)):
            probabilities = 1 / (1 + np.exp(-weight * x[rows] - bias))
            epoch += log_likelihood(probabilities, y[rows]).tolist()
            error = probabilities - y[rows]
            weight -= 0.1 * np.mean(error * x[rows])
            bias -= 0.1 * np.mean(error)
        losses.append(-np.mean(epoch))
        probabilities = 1 / (1 + np.exp(-weight * x - bias))
        val_losses.append(-np.mean(log_likelihood(probabilities, y)))
    assert one_device == pytest.approx([1, *losses, *val_losses], rel=1e-4)
    assert two_devices == pytest.approx([2, *losses, *val_losses], rel=1e-4)
    assert not deterministic_before
    assert deterministic_after


@pytest.mark.parametrize(
    ("setting", "kind", "capability", "has_units", "policy"),
    [
        ("auto", "CPU", 0, False, "float32"),
        ("auto", "CPU", 0, True, "mixed_bfloat16"),
        ("off", "CPU", 0, True, "float32"),
        ("on", "CPU", 0, False, "mixed_bfloat16"),
        ("auto", "GPU", 6.0, True, "float32"),
        ("auto", "GPU", 7.5, False, "mixed_float16"),
        ("auto", "GPU", 9.0, False, "mixed_bfloat16"),
        ("off", "GPU", 9.0, True, "float32"),
        ("on", "GPU", 6.1, False, "mixed_float16"),
    ],
)
def test_precision_is_halved_where_the_device_gains_from_it(
    setting, kind, capability, has_units, policy, monkeypatch
):
    monkeypatch.setattr("cxr.devices.has_bfloat16_support", lambda: has_units)
    assert choose_dtype_policy(setting, kind, capability) == policy


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx2 amx_bf16 amx_tile", True),
        ("fpu avx2 avx512_bf16", False),
        (None, False),
    ],
)
def test_the_units_for_bfloat16_are_those_that_linux_lists(monkeypatch, flags, found):
    def read(path, **_):
        if flags is None:
            raise FileNotFoundError(path)
        return f"processor\t: 0\nflags\t\t: {flags}\n"

    monkeypatch.setattr(Path, "read_text", read)
    assert has_bfloat16_support() == found


def test_the_dtype_policy_is_restored_after_an_error():
    with pytest.raises(KeyError), dtype_policy_scope("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
        raise KeyError
    assert keras.layers.Dense(1).compute_dtype == "float32"


def test_this_machine_without_a_gpu_is_a_cpu_that_shares_no_batch():
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert detect_device() == ("CPU", f"{os.cpu_count()} cores", 0.0)
    strategy, count = distribution_strategy()
    assert count == 1
    with strategy.scope():
        output = keras.layers.Dense(1)(np.ones((2, 3), "float32"))
    assert output.shape == (2, 1)


@pytest.mark.parametrize(
    ("kind", "details", "found"),
    [
        (
            "GPU",
            [{"device_name": "Tesla T4", "compute_capability": (7, 5)}],
            ("GPU", "Tesla T4", 7.5),
        ),
        (
            "GPU",
            [{"device_name": "A100", "compute_capability": (8, 0)}] * 4,
            ("GPU", "4 × A100", 8.0),
        ),
        ("GPU", [{}], ("GPU", "GPU", 0.0)),
    ],
)
def test_a_gpu_is_described_as_tensorflow_describes_it(
    monkeypatch, kind, details, found
):
    """There is no such device here: TensorFlow reports it as it documents it."""
    import tensorflow as tf

    numbers = range(len(details))
    devices = [SimpleNamespace(device_type=kind, number=number) for number in numbers]

    def list_devices(device_type):
        return devices if device_type == kind else []

    def get_details(device):
        return details[device.number]

    monkeypatch.setattr(tf.config, "list_physical_devices", list_devices)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", get_details)
    assert detect_device() == found


@pytest.mark.parametrize(
    ("platform", "devices", "found"),
    [
        (
            "cpu",
            [SimpleNamespace(device_kind="cpu")],
            ("CPU", f"{os.cpu_count()} cores", 0.0),
        ),
        (
            "gpu",
            [SimpleNamespace(device_kind="NVIDIA L4", compute_capability="8.9")] * 2,
            ("GPU", "2 × NVIDIA L4", 8.9),
        ),
    ],
)
def test_a_device_of_jax_is_described_as_jax_describes_it(
    monkeypatch, platform, devices, found
):
    jax = SimpleNamespace(default_backend=lambda: platform, devices=lambda: devices)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "jax", jax)
    assert detect_device() == found


def test_versions_are_those_that_are_installed():
    versions = package_versions()
    for module, package in (
        ("keras", "keras"),
        ("numpy", "numpy"),
        ("sklearn", "scikit-learn"),
        ("tensorflow", "tensorflow"),
    ):
        installed = importlib.metadata.version(package).split("+")[0]
        assert versions[module].startswith(installed)
    assert versions["backend"] == "tensorflow"
    assert versions["python"] == "{}.{}.{}".format(*sys.version_info)


@pytest.fixture
def three_seconds(monkeypatch):
    """Let the three convolutions of estimate_training_minutes take three seconds."""
    moments = iter([10.0, 13.0] * 9)
    clock = SimpleNamespace(perf_counter=lambda: next(moments))
    monkeypatch.setattr("cxr.devices.time", clock)


def test_the_minutes_are_those_of_as_many_convolutions(three_seconds):
    """The convolution: 32 images of 32 × 32 pixels, 64 maps in and out, 3 × 3 windows.

    Those are 1,207,959,552 multiplications in each second.
    """
    images, size, epochs = 1000, 100, 6
    minutes = 1.5 * 3 * 8900 * size**2 * images * epochs / 1_207_959_552 / 60
    found = estimate_training_minutes(images, size, epochs)
    assert found == pytest.approx(minutes)
    found = estimate_training_minutes(2 * images, size, epochs, 4450)
    assert found == pytest.approx(minutes)


def test_the_estimate_of_minutes_knows_the_size_of_the_network():
    size = 128
    products = sum(
        math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:3])
        for layer in build_cnn(size).layers
        if isinstance(layer, keras.layers.Conv2D)
    )
    parameters = inspect.signature(estimate_training_minutes).parameters
    assumed = parameters["products_per_pixel"].default
    assert products / size**2 == pytest.approx(assumed, rel=0.05)


def test_the_environment_is_summarized_before_anything_is_trained(three_seconds):
    """A byte a pixel: 2,000 images of 100 × 100 pixels are 20 MB.

    Three quarters of them are used for training. A ninth is for validation, which
    takes four forward passes, each a third of a training step.
    """
    settings = SimpleNamespace(
        IMAGE_SIZE=100, EPOCHS=600, BASELINE_EPOCHS=200, PRESET="auto"
    )
    table = summarize_environment(settings, "GPU", "Tesla T4", "mixed_float16", 2000)
    summary = table["this run"]
    assert summary["device"] == "GPU (Tesla T4), mixed_float16"
    assert summary["preset"] == "full"
    assert summary["2,000 images of 100 × 100 pixels"] == "20 MB"
    steps = 1500 + 2000 / 9 * 4 / 3
    minutes = 1.5 * 3 * 8900 * 100**2 * steps * 800 / 1_207_959_552 / 60
    row = summary["800 epochs of training, both networks"]
    assert row == f"about {minutes:.0f} min"
    assert f"keras {keras.__version__}" in summary["versions"]


@pytest.mark.long
def test_the_first_cell_ignores_keras_json_in_the_home_folder(tmp_path, monkeypatch):
    """The cell imports Keras; here it runs twice, as after a change of a setting.

    KERAS_HOME is as before afterwards: whoever downloads weights keeps them.
    """
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    (tmp_path / ".keras").mkdir()
    wrong = {
        "floatx": "float64",
        "epsilon": 0.1,
        "backend": "none-such",
        "image_data_format": "channels_first",
    }
    (tmp_path / ".keras/keras.json").write_text(json.dumps(wrong))
    cell = next(
        cell.source for cell, _ in build.read_cells() if cell.cell_type == "code"
    )
    code = f"""if True:
    for _ in range(2):
        exec({cell!r})
    import json
    output = keras.layers.Conv2D(5, 3)(np.ones((1, 9, 8, 1)))
    config = keras.config
    found = [config.floatx(), config.epsilon(), config.backend()]
    found += [config.image_data_format(), list(output.shape)]
    found.append("KERAS_HOME" in os.environ)
    print("\\n" + json.dumps(found))"""
    expected = ["float32", 1e-7, "tensorflow", "channels_last", [1, 7, 6, 5], False]
    assert run_child(code, HOME=str(tmp_path)) == expected
    names = [path.name for path in (tmp_path / ".keras").iterdir()]
    assert names == ["keras.json"]
