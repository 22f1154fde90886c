"""The two networks, from their layers."""

import keras
from keras import layers

from cxr.machine import normalise


def build_baseline(size: int) -> keras.Model:
    """Return the plain CNN: input (size, size, 1) of grey levels 0–255, output (1,) the probability of PNEUMONIA."""
    inputs = keras.Input((size, size, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    for number, filters in enumerate((32, 64, 64, 128), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense")(x)
    x = layers.Dense(1, dtype="float32", name="logit")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="baseline")


def subtract_local_mean(x, size: int):
    """Take from each place the mean of about a third of the film around it (a thumbnail's), as in Jarrett et al., ICCV 2009."""
    pools = [layers.AveragePooling2D(side, step, "same", dtype="float32") for side, step in ((size // 24, size // 24), (8, 1))]
    mean = keras.Sequential([*pools, layers.Resizing(size, size, dtype="float32")], name="local_mean")(x)
    return layers.Subtract(dtype="float32", name="relative")([x, mean])


def residual_block(x, filters: int, stride: int, name: str):
    """Two 3 × 3 convolutions with batch normalisation, added to a shortcut; `stride` 2 halves the map."""
    shortcut = x
    if stride > 1:
        shortcut = layers.AveragePooling2D(stride, padding="same", name=f"{name}_shortcut_pool")(shortcut)
    if shortcut.shape[-1] != filters:
        shortcut = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut_conv")(shortcut)
        shortcut = normalise(f"{name}_shortcut_norm")(shortcut)
    x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    x = normalise(f"{name}_norm1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(x)
    x = normalise(f"{name}_norm2")(x)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


def build_cnn(size: int, dropout: float = 0.3) -> keras.Model:
    """Return the residual CNN: input (size, size, 1) of grey levels 0–255, output (1,) the probability of PNEUMONIA.

    Residual blocks after He et al., 2016 (arXiv:1512.03385). The layer "features" is the last convolutional map.
    """
    inputs = keras.Input((size, size, 1), name="radiograph")
    x = subtract_local_mean(layers.Rescaling(1 / 255, dtype="float32", name="rescale")(inputs), size)
    x = layers.LayerNormalization(axis=[1, 2, 3], epsilon=1e-5, center=False, scale=False, name="standardise")(x)
    x = layers.Conv2D(32, 5, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = normalise("stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(2, name="stem_pool")(x)
    for stage, (filters, blocks, stride) in enumerate(((32, 2, 1), (64, 2, 2), (128, 2, 2), (192, 1, 1)), start=1):
        for block in range(blocks):
            x = residual_block(x, filters, stride if block == 0 else 1, f"stage{stage}_block{block + 1}")
    x = layers.Activation("linear", name="features")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(1, dtype="float32", name="logit")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="residual_cnn")
