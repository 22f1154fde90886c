"""The devices of this machine, and what is decided by them.

- Preset "auto" (settings): quick on a CPU, full on a GPU.
- Dtype policy "auto" (choose_dtype_policy): float32; mixed_float16 on GPUs from the
  Volta generation on, mixed_bfloat16 from Ampere on and on processors with AMX units.
- Compilation with XLA (Keras, jit_compile="auto"): each training step on one GPU; none
  on a CPU, or where several GPUs share a batch.
- Strategy (distribution_strategy): MirroredStrategy for several GPUs (DataParallel with
  JAX).
- Memory allocator (section 0): on a CPU, TensorFlow keeps the memory of a step for the
  next one.
- Threads (batches): one for each core augments images.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd

from cxr.settings import Settings


def detect_device() -> tuple[str, str, float]:
    """Find the devices that Keras uses.

    Returns
    -------
    kind : str
        "CPU", "GPU" or "TPU".
    name : str
        Such as "4 cores", "Tesla T4" or "2 × Tesla T4".
    capability : float
        The CUDA compute capability of an Nvidia GPU, such as 7.5, else 0.
    """
    kind = "CPU"
    names = [f"{os.cpu_count()} cores"]
    capability = None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if devices := tf.config.list_physical_devices("GPU"):
            get_details = tf.config.experimental.get_device_details
            details = [get_details(device) for device in devices]
            kind = "GPU"
            names = [detail.get("device_name", "GPU") for detail in details]
            capability = details[0].get("compute_capability")
    elif keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() != "cpu":
            devices = jax.devices()
            kind = jax.default_backend().upper()
            names = [device.device_kind for device in devices]
            version = getattr(devices[0], "compute_capability", "0.0")
            capability = str(version).split(".")
    name = names[0] if len(names) == 1 else f"{len(names)} × {names[0]}"
    return kind, name, float("{}.{}".format(*capability)) if capability else 0.0


def has_bfloat16_support() -> bool:
    """Return whether Linux lists units that multiply bfloat16 matrices (Intel AMX)."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def choose_dtype_policy(mixed_precision: str, kind: str, capability: float) -> str:
    """Choose the precision of a training: half where the device gains from it.

    Parameters
    ----------
    mixed_precision : str
        The setting: "auto", "on" or "off".
    kind, capability
        As `detect_device` returns them.

    Returns
    -------
    str
        A Keras dtype policy: "float32"; "mixed_bfloat16" on GPUs from the Ampere
        generation on (compute capability 8) and on processors with units for it;
        "mixed_float16", for which Keras scales the loss, on older GPUs.
    """
    if kind == "GPU":
        is_faster = capability >= 7
    else:
        is_faster = keras.backend.backend() == "tensorflow" and has_bfloat16_support()
    if mixed_precision == "off" or (mixed_precision == "auto" and not is_faster):
        return "float32"
    return "mixed_float16" if kind == "GPU" and capability < 8 else "mixed_bfloat16"


@contextlib.contextmanager
def dtype_policy_scope(policy: str) -> Iterator[None]:
    """Give the layers that are built inside this dtype policy."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def distribution_strategy(devices: list[str] | None = None) -> tuple[Any, int]:
    """Let several GPUs share each batch (data parallelism).

    Parameters
    ----------
    devices : list of str, optional
        Names of devices; all GPUs if not given.

    Returns
    -------
    strategy
        A model that is built and compiled inside `strategy.scope()` uses the devices.
    count : int
        The number of devices; 1 where there is nothing to share.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not devices:
            devices = [device.name for device in tf.config.list_logical_devices("GPU")]
        if len(devices) > 1:
            strategy = tf.distribute.MirroredStrategy(devices)
        else:
            strategy = tf.distribute.get_strategy()
        return strategy, strategy.num_replicas_in_sync
    if keras.backend.backend() == "jax":
        devices = devices or keras.distribution.list_devices()
        if len(devices) > 1:
            return keras.distribution.DataParallel(devices=devices), len(devices)
    return SimpleNamespace(scope=contextlib.nullcontext), 1


def enable_determinism(wanted: bool) -> None:
    """If wanted, use TensorFlow operations that give the same bits each time.

    On a GPU they are slower.
    """
    if wanted and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and the imported packages, and Keras's backend."""
    packages = ("keras", "tensorflow", "jax", "torch", "numpy", "cv2", "sklearn")
    versions = {
        name: sys.modules[name].__version__ for name in packages if name in sys.modules
    }
    return {
        "python": sys.version.split()[0],
        "backend": keras.backend.backend(),
        **versions,
    }


def estimate_training_minutes(
    images: float, size: int, epochs: int, products_per_pixel: int = 8_900
) -> float:
    """Estimate the duration of a training from the speed of one convolution here.

    Parameters
    ----------
    images : float
        Number of training images.
    size : int
        Their side in pixels.
    epochs : int
    products_per_pixel : int
        Multiplications that a forward pass takes for a pixel of its input; the default
        is that of the network of section 5. A training step counts as three passes,
        and everything but the convolutions as half as much again.

    Returns
    -------
    float
        Minutes, a rough guess.
    """
    convolution = keras.layers.Conv2D(64, 3, padding="same")
    batch = np.zeros((32, 32, 32, 64), "float32")
    keras.ops.convert_to_numpy(convolution(batch))
    started_at = time.perf_counter()
    for _ in range(3):
        keras.ops.convert_to_numpy(convolution(batch))
    seconds = time.perf_counter() - started_at
    products_per_second = 3 * 32 * 32 * 32 * 64 * 64 * 9 / seconds
    products = 1.5 * 3 * products_per_pixel * size**2 * images * epochs
    return products / products_per_second / 60


def summarize_environment(
    settings: "Settings",
    device_kind: str,
    device_name: str,
    precision: str,
    images: int,
) -> pd.DataFrame:
    """Return a table of devices, versions, memory for the images and training time."""
    size = settings.IMAGE_SIZE
    epochs = settings.BASELINE_EPOCHS + settings.EPOCHS
    versions = package_versions().items()
    memory = f"{images * size**2 / 1e6:.0f} MB"
    # Three quarters are trained on. A ninth is for validation: four forward passes.
    minutes = estimate_training_minutes(images * (3 / 4 + 4 / 3 / 9), size, epochs)
    duration = f"about {max(1, round(minutes))} min"
    automatic = "quick" if device_kind == "CPU" else "full"
    rows = {
        "preset": automatic if settings.PRESET == "auto" else settings.PRESET,
        "device": f"{device_kind} ({device_name}), {precision}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions),
        f"{images:,} images of {size} × {size} pixels": memory,
        f"{epochs} epochs of training, both networks": duration,
    }
    return pd.DataFrame({"this run": rows})
