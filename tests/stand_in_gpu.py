"""Makes TensorFlow report GPUs (T4) on a machine without one: an IPython startup file.

Keras and the notebook then decide as they would there: steps are compiled with XLA,
whose CPU compiler refuses the same operations as its GPU compiler, the preset is the
full one, the dtype policy mixed_float16, and two GPUs share each batch. It says nothing
about the speed or the numerics of a GPU. STAND_IN_GPUS is their number; the compiled
steps are counted in the file COMPILED_STEPS.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as _tf
from tensorflow.python.eager import context as _context

_count = int(os.environ.get("STAND_IN_GPUS", "1"))
_gpus = [
    _context.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU")
    for number in range(_count)
]
_list_physical = _tf.config.list_physical_devices
_list_logical = _tf.config.list_logical_devices
_get_details = _tf.config.experimental.get_device_details
_function = _tf.function
if _count > 1:  # the logical devices that share the batches are parts of the CPU
    _tf.config.set_logical_device_configuration(
        _list_physical("CPU")[0], [_tf.config.LogicalDeviceConfiguration()] * _count
    )


def _list_physical_with_gpus(device_type=None):
    if device_type is None:
        return [*_list_physical(), *_gpus]
    return list(_gpus) if device_type == "GPU" else _list_physical(device_type)


def _list_logical_with_gpus(device_type=None):
    if device_type == "GPU":
        return _list_logical("CPU") if _count > 1 else []
    return _list_logical(device_type)


def _details_with_gpus(device):
    if device in _gpus:
        return {"device_name": "Tesla T4", "compute_capability": (7, 5)}
    return _get_details(device)


def _counting_function(func=None, *arguments, **options):
    """tf.function that writes down each trace of what XLA compiles."""
    if func is None:
        return lambda later: _counting_function(later, *arguments, **options)
    if options.get("jit_compile") and os.environ.get("COMPILED_STEPS"):

        def traced(*inputs, **keywords):
            with open(os.environ["COMPILED_STEPS"], "a") as file:
                shapes = [part.shape for part in _tf.nest.flatten(inputs)]
                print(func.__qualname__, shapes, file=file)
            return func(*inputs, **keywords)

        return _function(traced, *arguments, **options)
    return _function(func, *arguments, **options)


_tf.config.list_physical_devices = _list_physical_with_gpus
_tf.config.experimental.list_physical_devices = _list_physical_with_gpus
_tf.config.list_logical_devices = _list_logical_with_gpus
_tf.config.experimental.get_device_details = _details_with_gpus
_tf.function = _counting_function
