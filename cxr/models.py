"""The two networks: built from their layers, loaded from a file, and measured."""

import json
import re
import zipfile
from pathlib import Path

import keras
from keras import layers, ops


def build_baseline(size: int) -> keras.Model:
    """Return the baseline, a plain CNN with four convolutional layers.

    Parameters
    ----------
    size : int, the side of the input images in pixels

    Returns
    -------
    keras.Model
        Input (n, size, size, 1): gray levels 0–255; output (n, 1): the probability of
        pneumonia.
    """
    inputs = keras.Input((size, size, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    for number, filters in enumerate((32, 64, 64, 128), start=1):
        convolution = layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=f"conv{number}"
        )
        x = convolution(x)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense")(x)
    x = layers.Dense(1, dtype="float32", name="logit")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="baseline")


def subtract_local_mean(x: keras.KerasTensor, size: int) -> keras.KerasTensor:
    """Subtract from each pixel the mean of its surroundings, a third of the image wide.

    Parameters
    ----------
    x : float32 (n, size, size, 1), the output of a layer or an array
    size : int

    Returns
    -------
    float32 (n, size, size, 1)

    References
    ----------
    Jarrett et al., "What is the best multi-stage architecture for object recognition?",
    ICCV 2009 (subtractive normalization).
    """
    # Operations instead of layers: where a model is called directly, the layer Resizing
    # would switch the layers after it to training mode.
    step = size // 24
    thumbnail = ops.average_pool(x, step, step, padding="same")
    local_mean = ops.average_pool(thumbnail, 8, 1, padding="same")
    return ops.subtract(x, ops.image.resize(local_mean, (size, size)))


def batch_normalization(name: str) -> keras.layers.Layer:
    """Return a batch normalization over the whole batch, also on several devices."""
    # Only TensorFlow splits a batch; JAX keeps one array over all devices.
    is_split = keras.backend.backend() == "tensorflow"
    return layers.BatchNormalization(momentum=0.95, synchronized=is_split, name=name)


def residual_block(
    x: keras.KerasTensor, filters: int, stride: int, name: str
) -> keras.KerasTensor:
    """Add two 3 × 3 convolutions, with batch normalization, to a skip connection.

    Parameters
    ----------
    x : feature map (n, height, width, channels)
    filters : int
    stride : int, 2 halves height and width
    name : str, the prefix of the layers' names

    Returns
    -------
    feature map (n, height / stride, width / stride, filters)
    """
    options = {"padding": "same", "use_bias": False}
    skip = x
    if stride > 1:
        pool = layers.AveragePooling2D(stride, padding="same", name=f"{name}_skip_pool")
        skip = pool(skip)
    if skip.shape[-1] != filters:
        projection = layers.Conv2D(filters, 1, name=f"{name}_skip_conv", **options)
        skip = projection(skip)
        skip = batch_normalization(f"{name}_skip_norm")(skip)
    x = layers.Conv2D(filters, 3, stride, name=f"{name}_conv1", **options)(x)
    x = batch_normalization(f"{name}_norm1")(x)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = layers.Conv2D(filters, 3, name=f"{name}_conv2", **options)(x)
    x = batch_normalization(f"{name}_norm2")(x)
    x = layers.Add(name=f"{name}_add")([x, skip])
    return layers.ReLU(name=f"{name}_relu2")(x)


def build_cnn(size: int, dropout: float = 0.3) -> keras.Model:
    """Return the residual CNN.

    Parameters
    ----------
    size : int, the side of the input images in pixels
    dropout : float, the fraction of the averaged features dropped in training

    Returns
    -------
    keras.Model
        Input (n, size, size, 1): gray levels 0–255; output (n, 1): the probability of
        pneumonia. The layer "features" is the last feature map.

    References
    ----------
    He et al., "Deep residual learning for image recognition", CVPR 2016,
    arXiv:1512.03385.
    """
    inputs = keras.Input((size, size, 1), name="radiograph")
    x = layers.Rescaling(1 / 255, dtype="float32", name="rescale")(inputs)
    x = subtract_local_mean(x, size)
    standardize = layers.LayerNormalization(
        axis=[1, 2, 3], epsilon=1e-5, center=False, scale=False, name="standardize"
    )
    x = standardize(x)
    stem = layers.Conv2D(
        32, 5, strides=2, padding="same", use_bias=False, name="stem_conv"
    )
    x = stem(x)
    x = batch_normalization("stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(2, name="stem_pool")(x)
    stages = ((32, 2, 1), (64, 2, 2), (128, 2, 2), (192, 1, 1))
    for stage, (filters, blocks, first_stride) in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            stride = first_stride if block == 1 else 1
            x = residual_block(x, filters, stride, f"stage{stage}_block{block}")
    x = layers.Activation("linear", name="features")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(1, dtype="float32", name="logit")(x)
    outputs = layers.Activation("sigmoid", dtype="float32", name="probability")(x)
    return keras.Model(inputs, outputs, name="residual_cnn")


def rebuild_model(path: Path) -> keras.Model:
    """Build the network of a .keras file with this Keras, and load its weights."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))["config"]
    builders = {"baseline": build_baseline, "residual_cnn": build_cnn}
    size = config["layers"][0]["config"]["batch_shape"][1]
    model = builders[config["name"]](size)
    model.load_weights(path)
    return model


def read_keras_version(path: Path) -> str:
    """Return the version of Keras that wrote a .keras file, or "" if it is unknown."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return ""


def load_model(path: Path) -> keras.Model:
    """Load a network from a .keras file.

    Another version of Keras may describe the layers in a way that this version cannot
    read: then the network is built here, and only the weights come from the file.

    Raises
    ------
    ValueError
        The file is missing, damaged, contains Python code, or comes from a version of
        Keras that this one cannot read. The message names the file.
    """
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras, h5py and zipfile raise many kinds
        if re.search("safe.?mode|unsafe", str(error)):
            raise ValueError(
                f"{path} contains Python code, which no network of this notebook does, "
                "and loading it would run that code. Do not trust this file, do not "
                "switch off the safe mode of Keras for it, and train again (section 6)."
            ) from None
        reason = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0][:200]
    written = read_keras_version(path)
    if written in ("", keras.__version__):
        raise ValueError(
            f"{path} cannot be loaded ({reason}): it is damaged. "
            "Train again (section 6)."
        ) from None
    try:
        return rebuild_model(path)
    except Exception:  # the first reason says more
        raise ValueError(
            f"{path} cannot be loaded ({reason}): it was written by Keras {written}, "
            f"and this is Keras {keras.__version__}. Open it with that version, or "
            "train again (section 6)."
        ) from None


def receptive_field(model: keras.Model, layer_name: str) -> tuple[int, int]:
    """Compute the receptive field of a unit of a layer.

    Parameters
    ----------
    model : keras.Model
    layer_name : str, the name of a convolution, pooling or activation

    Returns
    -------
    size : int, the side of the receptive field in input pixels
    stride : int, the distance between neighboring units in input pixels

    References
    ----------
    Araujo et al., "Computing receptive fields of convolutional neural networks",
    Distill, 2019.
    """
    fields: dict[int, tuple[int, int]] = {}  # of each layer's output
    for layer in model.layers:
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        before = [fields.get(id(tensor), (1, 1)) for tensor in inputs]
        size = max((size for size, _ in before), default=1)
        stride = max((stride for _, stride in before), default=1)
        window = (1, 1)
        if hasattr(layer, "kernel_size"):
            window = layer.kernel_size
        elif hasattr(layer, "pool_size"):
            window = layer.pool_size
        size += (window[0] - 1) * stride
        stride *= getattr(layer, "strides", (1, 1))[0]
        fields[id(layer.output)] = (size, stride)
        if layer.name == layer_name:
            return size, stride
    raise ValueError(f"The model has no layer called {layer_name!r}.")
