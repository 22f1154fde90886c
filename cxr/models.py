"""The two networks: built from their layers, and read from a file."""

import json
import re
import zipfile
from pathlib import Path

import keras
from keras import layers, ops


def build_baseline(size: int) -> keras.Model:
    """Return the plain CNN: input (size, size, 1) of gray levels 0–255, output (1,) the probability of PNEUMONIA."""
    inputs = keras.Input((size, size, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    for number, filters in enumerate((32, 64, 64, 128), start=1):
        x = layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=f"conv{number}"
        )(x)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense")(x)
    x = layers.Dense(1, dtype="float32", name="logit")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="baseline")


def subtract_local_mean(x, size: int):
    """Subtract from each pixel the mean of about a third of the image around it, as in Jarrett et al., ICCV 2009.

    `x`: float32 (n, size, size, 1), an array or the output of a layer. Operations, not layers: `Resizing` would put the
    layers after it into training mode where a network is called directly.
    """
    step = size // 24
    thumbnail = ops.average_pool(x, step, step, padding="same")
    mean = ops.average_pool(thumbnail, 8, 1, padding="same")
    return ops.subtract(x, ops.image.resize(mean, (size, size)))


def batch_normalization(name: str) -> keras.layers.Layer:
    """Return a batch normalization, over the whole batch where several devices share it."""
    shared = (
        keras.backend.backend() == "tensorflow"
    )  # elsewhere a batch is one array on all devices
    return layers.BatchNormalization(momentum=0.95, synchronized=shared, name=name)


def residual_block(x, filters: int, stride: int, name: str):
    """Two 3 × 3 convolutions with batch normalization, added to a shortcut; `stride` 2 halves the map."""
    shortcut = x
    if stride > 1:
        shortcut = layers.AveragePooling2D(
            stride, padding="same", name=f"{name}_shortcut_pool"
        )(shortcut)
    if shortcut.shape[-1] != filters:
        shortcut = layers.Conv2D(
            filters, 1, use_bias=False, name=f"{name}_shortcut_conv"
        )(shortcut)
        shortcut = batch_normalization(f"{name}_shortcut_norm")(shortcut)
    x = layers.Conv2D(
        filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1"
    )(x)
    x = batch_normalization(f"{name}_norm1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(
        x
    )
    x = batch_normalization(f"{name}_norm2")(x)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


def build_cnn(size: int, dropout: float = 0.3) -> keras.Model:
    """Return the residual CNN: input (size, size, 1) of gray levels 0–255, output (1,) the probability of PNEUMONIA.

    Residual blocks after He et al., 2016 (arXiv:1512.03385). The layer "features" is the last convolutional map.
    """
    inputs = keras.Input((size, size, 1), name="radiograph")
    x = subtract_local_mean(
        layers.Rescaling(1 / 255, dtype="float32", name="rescale")(inputs), size
    )
    x = layers.LayerNormalization(
        axis=[1, 2, 3], epsilon=1e-5, center=False, scale=False, name="standardize"
    )(x)
    x = layers.Conv2D(
        32, 5, strides=2, padding="same", use_bias=False, name="stem_conv"
    )(x)
    x = batch_normalization("stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(2, name="stem_pool")(x)
    for stage, (filters, blocks, stride) in enumerate(
        ((32, 2, 1), (64, 2, 2), (128, 2, 2), (192, 1, 1)), start=1
    ):
        for block in range(blocks):
            x = residual_block(
                x,
                filters,
                stride if block == 0 else 1,
                f"stage{stage}_block{block + 1}",
            )
    x = layers.Activation("linear", name="features")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(1, dtype="float32", name="logit")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="residual_cnn")


def rebuild_model(path: Path) -> keras.Model:
    """Return the network of a .keras file that another version of Keras wrote: built here, with the weights of the file."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))["config"]
    builders = {"baseline": build_baseline, "residual_cnn": build_cnn}
    model = builders[config["name"]](config["layers"][0]["config"]["batch_shape"][1])
    model.load_weights(path)
    return model


def read_keras_version(path: Path) -> str:
    """Return the version of Keras that wrote a .keras file, or "" where the file does not tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return ""


def load_model(path: Path) -> keras.Model:
    """Return the network of a .keras file.

    A file of another version of Keras may not describe its layers as this version expects: then the network is built anew,
    with the weights of the file. Raises ValueError, with the file's name, if it is damaged, or would run code of its own.
    """
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras, h5py and zipfile have many
        if re.search("safe.?mode|unsafe", str(error)):
            raise ValueError(
                f"{path} holds Python code that would run here, which no network of this notebook does: do not trust that "
                "file, do not switch the safe mode of Keras off for it, and train anew (section 6)."
            ) from None
        reason = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0][:200]
    written = read_keras_version(path)
    if written in ("", keras.__version__):
        raise ValueError(
            f"{path} cannot be loaded ({reason}): it is damaged. Train anew (section 6)."
        ) from None
    try:
        return rebuild_model(path)
    except Exception:  # the first reason tells more
        raise ValueError(
            f"{path} cannot be loaded ({reason}): it was written by Keras {written}, and this is Keras {keras.__version__}. "
            "Open it with that version, or train anew (section 6)."
        ) from None


def receptive_field(model, layer_name: str) -> tuple[int, int]:
    """Return (field, step) in input pixels: the side of a unit's receptive field, and from unit to unit.

    Araujo et al., "Computing receptive fields of convolutional neural networks", Distill, 2019.
    """
    reach = {}
    for layer in model.layers:
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        known = [reach[id(source)] for source in sources if id(source) in reach] or [
            (1, 1)
        ]
        field, step = max(field for field, _ in known), max(step for _, step in known)
        window = (
            getattr(layer, "kernel_size", None)
            or getattr(layer, "pool_size", None)
            or (1, 1)
        )
        stride = getattr(layer, "strides", (1, 1))
        field, step = field + (window[0] - 1) * step, step * stride[0]
        reach[id(layer.output)] = field, step
        if layer.name == layer_name:
            return field, step
    raise ValueError(f"The model has no layer called {layer_name!r}.")
