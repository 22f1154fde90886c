"""What a GPU decides, and networks that leave the project.

A GPU decides on compilation, half precision and the sharing of batches.
"""

import json
import shutil

import keras
import numpy as np
import pytest
from conftest import ROOT, hide_project
from test_notebook import SMALLEST, Kernel, prepare

from cxr.calibration import calibrate_model
from cxr.models import build_baseline, build_cnn, load_model

BUILDERS = [build_baseline, build_cnn]


# Tests wait longer for the compilation of a step than for its few runs.
QUICK_COMPILATION = "--xla_backend_optimization_level=0"


# What a figure shows does not depend on the device.
NO_FIGURES = "show_figure = lambda figure, *rest, **more: plt.close(figure)"


def start_on_gpus(count, data, folder):
    """The notebook in a kernel whose TensorFlow reports so many GPUs.

    Returns (kernel, its environment).
    """
    environment = hide_project(folder / "ipython") | {
        "STAND_IN_GPUS": str(count),
        "COMPILED_STEPS": str(folder / "compiled.txt"),
        "XLA_FLAGS": QUICK_COMPILATION,
    }
    startup = folder / "ipython/profile_default/startup"
    shutil.copy(ROOT / "tests/stand_in_gpu.py", startup / "00-stand-in-gpu.py")
    settings = SMALLEST | {
        "DATA_DIR": str(data),
        "OUTPUT_DIR": str(folder / "out"),
        "EPOCHS": 1,
        "BATCH_SIZE": 8,
    }
    return Kernel(prepare(settings), folder), environment


@pytest.mark.long
def test_the_lone_notebook_runs_where_tensorflow_reports_a_gpu(drawn_tiny, tmp_path):
    """Whole, each step compiled once; then it trains again with other settings.

    In single precision, as on a GPU without units for half precision.
    """
    kernel, environment = start_on_gpus(1, drawn_tiny, tmp_path)
    with kernel.client.setup_kernel(env=environment):
        kernel.run(0)
        kernel.line(NO_FIGURES)
        kernel.run(*range(1, 11))
        report = json.loads((tmp_path / "out/metrics.json").read_text())
        assert report["device"] == "GPU (Tesla T4)"
        assert report["run"] == "reference"
        policies = kernel.line(
            "print(dtype_policy, model.get_layer('stem_conv').compute_dtype)"
        )
        assert policies.split() == ["mixed_float16", "float16"]
        compiled = (tmp_path / "compiled.txt").read_text().splitlines()
        # Two networks are trained and validated; four predict: the baseline, and the
        # residual CNN as far as its logit, its features and its probability.
        assert len(compiled) == 8, compiled

        kernel.line('RUN_NAME, DROPOUT, MIXED_PRECISION = "other", 0.0, "off"')
        kernel.line("BASELINE_EPOCHS = 0")
        kernel.run_after_settings(0)
        kernel.run(6)
        policies = kernel.line(
            "print(dtype_policy, cnn.get_layer('stem_conv').compute_dtype)"
        )
        assert policies.split() == ["float32", "float32"]
    record = json.loads((tmp_path / "out/runs/other/run.json").read_text())
    assert record["settings"]["DROPOUT"] == 0 and record["epochs"] == 1


@pytest.mark.long
def test_the_lone_notebook_runs_on_two_gpus(drawn_tiny, tmp_path):
    kernel, environment = start_on_gpus(2, drawn_tiny, tmp_path)
    with kernel.client.setup_kernel(env=environment):
        kernel.run(0)
        kernel.line(NO_FIGURES)
        kernel.run(*range(1, 11))
        counts = kernel.line("print(device_count, strategy.num_replicas_in_sync)")
        assert counts.split() == ["2", "2"]
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["device"] == "GPU (2 × Tesla T4)"


@pytest.mark.long
def test_the_baseline_is_trained_in_single_precision_compiled_by_xla(monkeypatch):
    """As the residual CNN is above."""
    monkeypatch.setenv("XLA_FLAGS", QUICK_COMPILATION)
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    model = build_baseline(32)
    model.compile("adam", "binary_crossentropy", jit_compile=True)
    assert np.isfinite(model.train_on_batch(x, np.array([0, 1, 1, 0])))


@pytest.mark.parametrize("build", BUILDERS)
def test_keras_compiles_each_network_with_xla_where_there_is_a_gpu(build):
    assert all(layer.supports_jit for layer in build(32).layers)


@pytest.fixture(params=BUILDERS)
def trained(request):
    """A network after some steps of training and a calibration, and images."""
    keras.utils.set_random_seed(0)
    model = request.param(48)
    x = np.random.default_rng(0).integers(0, 256, (12, 48, 48, 1)).astype(np.float32)
    model.compile("adam", "binary_crossentropy")
    model.fit(x, np.arange(12) % 2, epochs=2, verbose=0)
    logit = keras.Model(model.input, model.get_layer("logit").output)
    logits = logit.predict(x, verbose=0)
    # Keeps the probabilities away from 0 and 1.
    calibrate_model(model, logits.std(), -logits.mean() / logits.std())
    return model, x


def run_onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.long  # which installs what the export to ONNX needs
def test_a_network_predicts_the_same_however_it_is_called_and_saved(trained, tmp_path):
    import tensorflow as tf

    model, x = trained
    expected = model.predict(x, verbose=0)
    weights = model.get_weights()
    assert np.ptp(expected) > 0.3
    model.save(tmp_path / "best.keras")
    model.export(tmp_path / "saved_model", verbose=False)
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    reloaded = load_model(tmp_path / "best.keras")
    exported = tf.saved_model.load(tmp_path / "saved_model")
    probabilities = {
        "called": model(x),
        "called, not in training": model(x, training=False),
        "predicted again": model.predict(x, batch_size=5, verbose=0),
        "reloaded, called": reloaded(x),
        "reloaded, predicted": reloaded.predict(x, verbose=0),
        "SavedModel": exported.serve(x),
        "ONNX": run_onnx(tmp_path / "model.onnx", x),
    }
    for name, found in probabilities.items():
        assert np.abs(np.asarray(found) - expected).max() < 1e-4, name
    for found, weight in zip(model.get_weights(), weights, strict=True):
        assert np.array_equal(found, weight), "only fit changes a weight"
