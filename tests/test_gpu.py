"""What a GPU decides (compilation, half precision, sharing of batches), and networks that leave the project."""

import json
import shutil

import keras
import numpy as np
import pytest
from conftest import ROOT, hide_project
from test_notebook import SMALLEST, Kernel, prepare

from cxr.calibration import calibrate_model
from cxr.devices import dtype_policy_scope
from cxr.models import build_baseline, build_cnn, load_model

BUILDERS = [build_baseline, build_cnn]


def start_on_gpus(count, data, folder):
    """The notebook in a kernel whose TensorFlow reports so many GPUs; return (kernel, its environment)."""
    environment = hide_project(folder / "ipython") | {
        "STAND_IN_GPUS": str(count),
        "COMPILED_STEPS": str(folder / "compiled.txt"),
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
    """Whole, then with another setting from section 6 on; each step is compiled once."""
    kernel, environment = start_on_gpus(1, drawn_tiny, tmp_path)
    with kernel.client.setup_kernel(env=environment):
        kernel.run(*range(11))
        report = json.loads((tmp_path / "out/metrics.json").read_text())
        assert report["device"] == "GPU (Tesla T4)" and report["run"] == "reference"
        assert kernel.line(
            "print(precision, model.get_layer('stem_conv').compute_dtype)"
        ).split() == ["mixed_float16", "float16"]
        compiled = (tmp_path / "compiled.txt").read_text().splitlines()
        # Two networks learn and are watched; three answer: the baseline, ours, and ours as far as its features.
        assert len(compiled) == 7, compiled
        kernel.line('RUN_NAME, DROPOUT, BASELINE_EPOCHS = "another", 0.0, 0')
        kernel.run_after_settings(0)
        kernel.run(6, 7, 8, 9)
        report = json.loads((tmp_path / "out/metrics.json").read_text())
        assert report["run"] == "another" and report["settings"]["DROPOUT"] == 0


@pytest.mark.long
def test_the_lone_notebook_runs_on_two_gpus(drawn_tiny, tmp_path):
    kernel, environment = start_on_gpus(2, drawn_tiny, tmp_path)
    with kernel.client.setup_kernel(env=environment):
        kernel.run(*range(11))
        assert kernel.line(
            "print(device_count, strategy.num_replicas_in_sync)"
        ).split() == ["2", "2"]
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["device"] == "GPU (2 × Tesla T4)"


@pytest.mark.long
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("build", BUILDERS)
def test_each_network_learns_is_watched_and_answers_compiled_by_xla(build, policy):
    """XLA on a CPU refuses the operations that it refuses on a GPU; one that has no kernel there is an error here."""
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    labels = np.array([0, 1, 1, 0])
    with dtype_policy_scope(policy):
        model = build(32)
    model.compile("adam", "binary_crossentropy", jit_compile=True)
    assert all(layer.supports_jit for layer in model.layers) and model.jit_compile
    assert np.isfinite(model.train_on_batch(x, labels))
    assert np.isfinite(model.test_on_batch(x, labels))
    assert np.isfinite(model.predict_on_batch(x)).all()


@pytest.fixture(params=BUILDERS)
def trained(request):
    """A network after some steps of training and a calibration, and images."""
    keras.utils.set_random_seed(0)
    model = request.param(48)
    x = np.random.default_rng(0).integers(0, 256, (12, 48, 48, 1)).astype(np.float32)
    model.compile("adam", "binary_crossentropy")
    model.fit(x, np.arange(12) % 2, epochs=2, verbose=0)
    logit = keras.Model(model.inputs, model.get_layer("logit").output)
    logits = logit.predict(x, verbose=0)
    calibrate_model(
        model, logits.std(), -logits.mean() / logits.std()
    )  # away from 0 and 1
    return model, x


def run_onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.long  # which installs what the export to ONNX needs
def test_a_network_answers_the_same_however_it_is_called_and_saved(trained, tmp_path):
    model, x = trained
    expected, weights = model.predict(x, verbose=0), model.get_weights()
    assert np.ptp(expected) > 0.3
    model.save(tmp_path / "best.keras")
    model.export(tmp_path / "saved_model", verbose=False)
    reloaded = load_model(tmp_path / "best.keras")
    import tensorflow as tf

    exported = tf.saved_model.load(tmp_path / "saved_model")
    answers = {
        "called": model(x),
        "called, not in training": model(x, training=False),
        "predicted again": model.predict(x, batch_size=5, verbose=0),
        "reloaded, called": reloaded(x),
        "reloaded, predicted": reloaded.predict(x, verbose=0),
        "SavedModel": exported.serve(x),
    }
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    answers["ONNX"] = run_onnx(tmp_path / "model.onnx", x)
    for name, answer in answers.items():
        assert np.abs(np.asarray(answer) - expected).max() < 1e-4, name
    assert all(map(np.array_equal, model.get_weights(), weights)), (
        "only fit changes a weight"
    )
