"""The devices of this machine: they are found, and several of them, or half precision, give what one in single precision gives."""

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
    count = int(sys.argv[1])
    import keras, numpy as np
    if keras.backend.backend() == "tensorflow" and count > 1:
        import tensorflow as tf
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    from types import SimpleNamespace
    from pathlib import Path
    from cxr.batches import ImageBatches
    from cxr.devices import distribution_strategy, dtype_policy_scope
    from cxr.evaluation import predict_probabilities
    from cxr.models import build_cnn
    from cxr.training import TrainingRun, make_callbacks
    devices = [f"CPU:{number}" for number in range(count)] if count > 1 and keras.backend.backend() == "tensorflow" else None
    strategy, found = distribution_strategy(devices)
    assert found == count, (found, count)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (90, 32, 32, 1), np.uint8)
    labels = (images[:, :16].mean((1, 2, 3)) > 127.5).astype(np.uint8)
    fit = ImageBatches([images], np.arange(64), labels[:64], 16, 1, count)
    holdout = ImageBatches([images], np.arange(64, 89), labels[64:89], 16, devices=count)  # 25: a last batch of 9, which is odd
    keras.utils.set_random_seed(0)
    folder = Path(sys.argv[2])
    callbacks = make_callbacks(folder, 9)
    with strategy.scope(), dtype_policy_scope(sys.argv[3]):
        model = build_cnn(32, 0.0)
        model.compile(keras.optimizers.SGD(0.001), "binary_crossentropy", weighted_metrics=["accuracy", keras.metrics.AUC(name="auc")])
        with TrainingRun(folder, model, callbacks, 3, fit, holdout, SimpleNamespace(), {}) as run:
            model.fit(fit, validation_data=holdout, epochs=3, shuffle=False, verbose=0, callbacks=[*callbacks, run])
    read_back = predict_probabilities(keras.models.load_model(folder / "best.keras"), images).tolist()
    print("\\n" + json.dumps([run.history.loss.tolist(), run.history.val_loss.tolist(), read_back]))"""


def run_child(code, *arguments, **environment):
    """What a fresh Python says in its last line."""
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


def train(folder, backend="tensorflow", count=1, policy="float32"):
    """Without oneDNN, which rounds otherwise where a batch is smaller: in double precision the losses agree to seven digits."""
    environment = {
        "KERAS_BACKEND": backend,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "JAX_ENABLE_X64": "1" if policy == "float64" else "0",
    }
    return [
        np.array(values)
        for values in run_child(TRAIN, count, folder, policy, **environment)
    ]


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def alone(request, tmp_path_factory):
    """What one device gives, by backend; their random numbers, and so their first weights, differ."""
    return request.param, train(tmp_path_factory.mktemp("alone"), request.param)


@pytest.mark.long
def test_a_batch_shared_by_two_devices_gives_the_loss_of_one(alone, tmp_path):
    """With a batch that cannot be shared evenly, and batch normalization, which has to look at the whole batch.

    JAX in double precision: how it rounds in single differs with the size of a batch, and from processor to processor.
    """
    policy = "float64" if alone[0] == "jax" else "float32"
    one, two = (
        train(tmp_path / str(count), alone[0], count, policy) for count in (1, 2)
    )
    for values, expected in zip(two, one):
        np.testing.assert_allclose(
            values, expected, rtol=1e-4
        )  # the mean of the batches' means would be off by a hundredth


@pytest.mark.long
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_gives_the_same_to_within_noise(alone, tmp_path, policy):
    losses, val_losses, probabilities = train(tmp_path, alone[0], policy=policy)
    np.testing.assert_allclose(losses, alone[1][0], rtol=0.03)
    np.testing.assert_allclose(val_losses, alone[1][1], rtol=0.03)
    assert np.abs(probabilities - alone[1][2]).max() < 0.01


QUICK = """if True:
    import json
    import keras, numpy as np, tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled
    parts = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    from cxr.batches import ImageBatches
    from cxr.devices import distribution_strategy, enable_determinism
    images, labels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1), np.array([0, 1, 0, 1, 1], np.uint8)
    losses = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        strategy, count = distribution_strategy(devices)
        with strategy.scope():
            model = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten(),
                                      keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")])
            model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
        fit, holdout = (ImageBatches([images], np.arange(rows), labels, size, devices=count) for rows, size in ((4, 2), (5, 3)))
        history = model.fit(fit, validation_data=holdout, epochs=2, shuffle=False, verbose=0).history
        losses.append([count, *history["loss"], *history["val_loss"]])
    enable_determinism(False)
    before = is_op_determinism_enabled()
    enable_determinism(True)
    print("\\n" + json.dumps([losses, before, is_op_determinism_enabled()]))"""


def test_two_devices_give_the_losses_of_one_and_determinism_is_switched_on():
    """Gradient descent with logit = pixel, worked out in NumPy: batches (0, 1) and (2, 3), then validation by (0, 1, 2) and (3, 4)."""
    (one, two), before, after = run_child(QUICK, KERAS_BACKEND="tensorflow")
    x, y, kernel, bias, losses, val_losses = (
        np.arange(5.0),
        np.array([0, 1, 0, 1, 1]),
        1.0,
        0.0,
        [],
        [],
    )
    for _ in range(2):
        steps = []
        for rows in (slice(0, 2), slice(2, 4)):
            said = 1 / (1 + np.exp(-kernel * x[rows] - bias))
            steps += np.log(np.where(y[rows] == 1, said, 1 - said)).tolist()
            kernel, bias = (
                kernel - 0.1 * np.mean((said - y[rows]) * x[rows]),
                bias - 0.1 * np.mean(said - y[rows]),
            )
        said = 1 / (1 + np.exp(-kernel * x - bias))
        losses.append(-np.mean(steps))
        val_losses.append(-np.mean(np.log(np.where(y == 1, said, 1 - said))))
    assert one == pytest.approx(
        [1, *losses, *val_losses], rel=1e-4
    ) and two == pytest.approx([2, *losses, *val_losses], rel=1e-4)
    assert not before and after


@pytest.mark.parametrize(
    ("wish", "kind", "capability", "units", "policy"),
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
    wish, kind, capability, units, policy, monkeypatch
):
    monkeypatch.setattr("cxr.devices.has_bfloat16_support", lambda: units)
    assert choose_dtype_policy(wish, kind, capability) == policy


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


def test_the_precision_is_what_it_was_after_an_error_too():
    with pytest.raises(KeyError), dtype_policy_scope("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
        raise KeyError
    assert keras.layers.Dense(1).compute_dtype == "float32"


def test_this_machine_without_a_gpu_is_a_cpu_that_shares_with_nobody():
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert detect_device() == ("CPU", f"{os.cpu_count()} cores", 0.0)
    strategy, count = distribution_strategy()
    with strategy.scope():
        assert count == 1 and keras.layers.Dense(1)(
            np.ones((2, 3), "float32")
        ).shape == (2, 1)


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
    """No such device is here: TensorFlow is made to say so, in the words of its documentation."""
    import tensorflow as tf

    devices = [
        SimpleNamespace(device_type=kind, number=number)
        for number in range(len(details))
    ]
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda wanted: devices if wanted == kind else [],
    )
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda device: details[device.number],
    )
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
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(
        sys.modules,
        "jax",
        SimpleNamespace(default_backend=lambda: platform, devices=lambda: devices),
    )
    assert detect_device() == found


def test_versions_are_those_that_are_installed():
    told = package_versions()
    for module, package in (
        ("keras", "keras"),
        ("numpy", "numpy"),
        ("sklearn", "scikit-learn"),
        ("tensorflow", "tensorflow"),
    ):
        assert told[module].startswith(
            importlib.metadata.version(package).split("+")[0]
        )
    assert told["backend"] == "tensorflow" and told["python"] == "{}.{}.{}".format(
        *sys.version_info
    )


@pytest.fixture
def three_seconds(monkeypatch):
    """A machine on which the three convolutions of estimate_training_minutes take three seconds."""
    moments = iter([10.0, 13.0] * 9)
    monkeypatch.setattr(
        "cxr.devices.time", SimpleNamespace(perf_counter=lambda: next(moments))
    )


def test_the_minutes_are_those_of_so_many_convolutions(three_seconds):
    """32 pictures of 32 × 32 pixels, 64 maps in and out, windows of 3 × 3: 1,207,959,552 products in each second."""
    images, size, epochs = 1000, 100, 6
    products = 8900 * size**2 * images * epochs
    assert estimate_training_minutes(images, size, epochs) == pytest.approx(
        3 * products / 1_207_959_552 / 60
    )
    assert estimate_training_minutes(2 * images, size, epochs, 4450) == pytest.approx(
        3 * products / 1_207_959_552 / 60
    )


def test_the_guess_of_minutes_knows_the_size_of_the_network():
    size = 128
    products = sum(
        math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:3])
        for layer in build_cnn(size).layers
        if isinstance(layer, keras.layers.Conv2D)
    )
    assumed = (
        inspect.signature(estimate_training_minutes)
        .parameters["products_per_pixel"]
        .default
    )
    assert products / size**2 == pytest.approx(assumed, rel=0.05)


def test_the_machine_is_described_before_anything_is_trained(three_seconds):
    """A byte a pixel: 2,000 images of 100 × 100 pixels are 20 MB; three quarters of them are learned from."""
    settings = SimpleNamespace(IMAGE_SIZE=100, EPOCHS=6)
    told = summarize_environment(settings, "GPU", "Tesla T4", "mixed_float16", 2000)[
        "this run"
    ]
    assert (
        told["device"] == "GPU (Tesla T4), mixed_float16"
        and told["2,000 images of 100 × 100 pixels"] == "20 MB"
    )
    minutes = 3 * 8900 * 100**2 * 1500 * 6 / 1_207_959_552 / 60
    assert told["6 epochs of training"] == f"about {minutes:.1f} minutes"
    assert f"keras {keras.__version__}" in told["versions"]


WRONG_CONFIGURATIONS = [
    {
        "floatx": "float64",
        "epsilon": 0.1,
        "backend": "none-such",
        "image_data_format": "channels_first",
    },
    [],
]


@pytest.mark.parametrize(
    "configuration", WRONG_CONFIGURATIONS, ids=["other", "damaged"]
)
def test_what_keras_json_in_the_home_folder_asks_for_is_not_heeded(
    tmp_path, monkeypatch, configuration
):
    """The first cell, which imports Keras, in the home of somebody who used it otherwise; and a second time, as after a change."""
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(configuration))
    cell = next(
        cell.source for cell, _ in build.read_cells() if cell.cell_type == "code"
    )
    code = f"""if True:
    for _ in range(2):
        exec({cell!r})
    import json
    print("\\n" + json.dumps([keras.config.floatx(), keras.config.epsilon(), keras.config.backend(), keras.config.image_data_format(),
                             list(keras.layers.Conv2D(5, 3)(np.ones((1, 9, 8, 1))).shape)]))"""
    assert run_child(code, HOME=str(tmp_path)) == [
        "float32",
        1e-7,
        "tensorflow",
        "channels_last",
        [1, 7, 6, 5],
    ]
    assert [path.name for path in (tmp_path / ".keras").iterdir()] == ["keras.json"]
