"""The machine: its device, and what is decided by it.

- Preset "auto" (settings): quick on a CPU, full on a GPU.
- Dtype policy "auto" (choose_dtype_policy): float32; mixed_float16 on GPUs from Volta on, mixed_bfloat16 from Ampere on and on
  processors with AMX units.
- Compilation with XLA (Keras, jit_compile="auto"): each step on one GPU, none on a CPU or where GPUs share batches.
- Strategy (distribution_strategy): MirroredStrategy (JAX: DataParallel) for several GPUs.
- Allocator (section 0): on a CPU, TensorFlow keeps memory for the next step.
- Threads (batches): images are augmented by one for each core.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd


def detect_device() -> tuple[str, str, float]:
    """Return (kind, name, capability) of the devices that Keras uses: "CPU" or "GPU"; 7.5 or so for an Nvidia GPU, else 0."""
    kind, names, capability = "CPU", [f"{os.cpu_count()} cores"], None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if devices := tf.config.list_physical_devices("GPU"):
            details = [
                tf.config.experimental.get_device_details(device) for device in devices
            ]
            kind, names = "GPU", [one.get("device_name", "GPU") for one in details]
            capability = details[0].get("compute_capability")
    elif keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() != "cpu":
            kind, names = (
                jax.default_backend().upper(),
                [device.device_kind for device in jax.devices()],
            )
            capability = str(
                getattr(jax.devices()[0], "compute_capability", "0.0")
            ).split(".")
    name = names[0] if len(names) == 1 else f"{len(names)} × {names[0]}"
    return kind, name, float("{}.{}".format(*capability)) if capability else 0.0


def has_bfloat16_support() -> bool:
    """Return whether this processor multiplies matrices of bfloat16 (Intel AMX), as far as Linux tells."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def choose_dtype_policy(wish: str, kind: str, capability: float) -> str:
    """Return the Keras dtype policy for a training: half precision where the device gains from it, or where it is "on".

    bfloat16 from the Ampere generation of GPUs on (compute capability 8) and on processors with units for it; float16, which Keras
    protects by scaling the loss, on older GPUs.
    """
    gains = (
        capability >= 7
        if kind == "GPU"
        else keras.backend.backend() == "tensorflow" and has_bfloat16_support()
    )
    if wish == "off" or (wish == "auto" and not gains):
        return "float32"
    return "mixed_float16" if kind == "GPU" and capability < 8 else "mixed_bfloat16"


@contextlib.contextmanager
def dtype_policy_scope(policy: str):
    """Build what is built inside with this dtype policy."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


def distribution_strategy(devices=None):
    """Return (strategy, number of devices): what is built in `strategy.scope()` shares each batch among all GPUs, or `devices`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        devices = devices or [
            device.name for device in tf.config.list_logical_devices("GPU")
        ]
        strategy = (
            tf.distribute.MirroredStrategy(devices)
            if len(devices) > 1
            else tf.distribute.get_strategy()
        )
        return strategy, strategy.num_replicas_in_sync
    if keras.backend.backend() == "jax":
        devices = devices or keras.distribution.list_devices()
        if len(devices) > 1:
            return keras.distribution.DataParallel(devices=devices), len(devices)
    return SimpleNamespace(scope=contextlib.nullcontext), 1


def enable_determinism(wanted: bool):
    """Ask TensorFlow for operations that give the same bits each time, at some cost of speed on a GPU."""
    if wanted and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def package_versions() -> dict:
    """Return the versions of what a run depends on."""
    modules = {
        name: sys.modules[name].__version__
        for name in ("keras", "tensorflow", "jax", "torch", "numpy", "cv2", "sklearn")
        if name in sys.modules
    }
    return {
        "python": sys.version.split()[0],
        "backend": keras.backend.backend(),
        **modules,
    }


def estimate_training_minutes(
    images: float, size: int, epochs: int, products_per_pixel: int = 8_900
) -> float:
    """Guess the minutes of a training, about 3 forward passes of the network of section 5, from the speed of one convolution here."""
    convolution = keras.layers.Conv2D(64, 3, padding="same")
    batch = np.zeros((32, 32, 32, 64), "float32")
    keras.ops.convert_to_numpy(convolution(batch))
    since = time.perf_counter()
    for _ in range(3):
        keras.ops.convert_to_numpy(convolution(batch))
    products_per_second = 3 * 32 * 32 * 32 * 64 * 64 * 9 / (time.perf_counter() - since)
    return 3 * products_per_pixel * size**2 * images * epochs / products_per_second / 60


def summarize_environment(
    settings, device_kind: str, device_name: str, precision: str, images: int
) -> pd.DataFrame:
    """Return a table of the device, the versions, the memory of the arrays and the guessed minutes of training."""
    size, epochs = settings.IMAGE_SIZE, settings.EPOCHS
    return pd.DataFrame(
        {
            "this run": {
                "device": f"{device_kind} ({device_name}), {precision}",
                "versions": ", ".join(
                    f"{name} {version}" for name, version in package_versions().items()
                ),
                f"{images:,} images of {size} × {size} pixels": f"{images * size**2 / 1e6:.0f} MB",
                f"{epochs} epochs of training": f"about {estimate_training_minutes(images * 0.75, size, epochs):.1f} minutes",
            }
        }
    )
