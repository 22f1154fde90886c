"""The machine: its device, and how a training uses it."""

import contextlib
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd


def find_device() -> tuple[str, str, float]:
    """Return (kind, name, capability) of the devices that Keras uses: "CPU", "GPU" or "TPU"; 7.5 or so for an Nvidia GPU, else 0."""
    kind, names, capability = "CPU", [f"{os.cpu_count()} cores"], None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        devices = tf.config.list_physical_devices("TPU") or tf.config.list_physical_devices("GPU")
        if devices:
            details = [tf.config.experimental.get_device_details(device) for device in devices]
            kind, names = devices[0].device_type, [one.get("device_name", devices[0].device_type) for one in details]
            capability = details[0].get("compute_capability")
    elif keras.backend.backend() == "jax":
        import jax
        if jax.default_backend() != "cpu":
            kind, names = jax.default_backend().upper(), [device.device_kind for device in jax.devices()]
            capability = str(getattr(jax.devices()[0], "compute_capability", "0.0")).split(".")
    name = names[0] if len(names) == 1 else f"{len(names)} × {names[0]}"
    return kind, name, float("{}.{}".format(*capability)) if capability else 0.0


def choose_precision(wish: str, kind: str, capability: float) -> str:
    """Return the Keras dtype policy for a training: half precision where the device gains from it, or where it is "on".

    bfloat16 on TPUs and from the Ampere generation of GPUs on, float16 (which Keras protects by scaling the loss) on older ones.
    """
    if wish == "off" or (wish == "auto" and not (kind == "TPU" or capability >= 7)):
        return "float32"
    return "mixed_float16" if kind == "GPU" and capability < 8 else "mixed_bfloat16"


@contextlib.contextmanager
def use_precision(policy: str):
    """Build what is built inside with this dtype policy."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


def find_strategy(devices=None):
    """Return (strategy, number of devices): what is built in `strategy.scope()` shares each batch among all GPUs, a TPU or `devices`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        if tf.config.list_physical_devices("TPU"):
            strategy = tf.distribute.TPUStrategy(tf.distribute.cluster_resolver.TPUClusterResolver.connect("local"))
        else:
            devices = devices or [device.name for device in tf.config.list_logical_devices("GPU")]
            strategy = tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()
        return strategy, strategy.num_replicas_in_sync
    if keras.backend.backend() == "jax":
        devices = devices or keras.distribution.list_devices()
        if len(devices) > 1:
            return keras.distribution.DataParallel(devices=devices), len(devices)
    return SimpleNamespace(scope=contextlib.nullcontext), 1


def normalise(name: str) -> keras.layers.Layer:
    """Return a batch normalisation, over the whole batch where several devices share it."""
    shared = keras.backend.backend() == "tensorflow"  # elsewhere a batch is one array on all devices
    return keras.layers.BatchNormalization(momentum=0.95, synchronized=shared, name=name)


def load_network(path: Path) -> keras.Model:
    """Return the network of a .keras file; raise ValueError, with the file's name, if it is damaged, or would run code of its own."""
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras, h5py and zipfile have many
        if re.search("safe.?mode|unsafe", str(error)):
            raise ValueError(f"{path} holds Python code that would run here, which no network of this notebook does: do not trust that "
                             "file, do not switch the safe mode of Keras off for it, and train anew (section 6).") from None
        reason = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0][:200]
        raise ValueError(f"{path} cannot be loaded ({reason}): delete it and train anew (section 6).") from None


def make_deterministic(wanted: bool):
    """Ask TensorFlow for operations that give the same bits each time, at some cost of speed on a GPU."""
    if wanted and keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        tf.config.experimental.enable_op_determinism()


def describe_versions() -> dict:
    """Return the versions of what a run depends on."""
    modules = {name: sys.modules[name].__version__ for name in ("keras", "tensorflow", "jax", "torch", "numpy", "cv2", "sklearn")
               if name in sys.modules}
    return {"python": sys.version.split()[0], "backend": keras.backend.backend(), **modules}


def guess_minutes(images: float, size: int, epochs: int, products_per_pixel: int = 8_900) -> float:
    """Guess the minutes of a training, about 3 forward passes of the network of section 5, from the speed of one convolution here."""
    convolution = keras.layers.Conv2D(64, 3, padding="same")
    batch = np.zeros((32, 32, 32, 64), "float32")
    keras.ops.convert_to_numpy(convolution(batch))
    since = time.perf_counter()
    for _ in range(3):
        keras.ops.convert_to_numpy(convolution(batch))
    products_per_second = 3 * 32 * 32 * 32 * 64 * 64 * 9 / (time.perf_counter() - since)
    return 3 * products_per_pixel * size**2 * images * epochs / products_per_second / 60


def describe_machine(settings, device_kind: str, device_name: str, precision: str, images: int) -> pd.DataFrame:
    """Return a table of the device, the versions, the memory of the arrays and the guessed minutes of training."""
    size, epochs = settings.IMAGE_SIZE, settings.EPOCHS
    return pd.DataFrame({"this run": {
        "device": f"{device_kind} ({device_name}), {precision}",
        "versions": ", ".join(f"{name} {version}" for name, version in describe_versions().items()),
        f"{images:,} images of {size} × {size} pixels": f"{images * size**2 / 1e6:.0f} MB",
        f"{epochs} epochs of training": f"about {guess_minutes(images * 0.75, size, epochs):.1f} minutes"}})
