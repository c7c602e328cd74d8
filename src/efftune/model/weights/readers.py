"""Loading weights files of Keras, NumPy, PyTorch or safetensors into the family's Keras models."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from efftune.errors import DataError
from efftune.model.tensors import set_weights
from efftune.model.weights import safetensors_file, torch_tensors

Array = NDArray[Any]
Head = tuple[NDArray[np.float32], NDArray[np.float32]]  # kernel (features, classes), bias (classes)

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's pixels, scaled to 0 to 1
_STANDARD_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_HEADS = ("predictions", "logits")  # names of the head's layer, in Keras' models and in our runs


def load(model: keras.Model, path: Path) -> Head | None:
    """Load a file into a backbone.

    Args:
        model: from `architectures.backbone`.
        path: a file in one of these formats. `.h5`: weights of Keras 2 and `keras.applications`.
            `.weights.h5`, `.keras`: files of Keras 3. `.npz`: arrays named LAYER/VARIABLE, as
            written by `save_npz`. `.pth`, `.pt`, `.bin`: PyTorch tensors with the names of
            `efficientnet-pytorch` or of timm. `.safetensors`: the same. The model has to have the
            graph that they were trained in: see `recognition`.

    Returns:
        The head in the file; None if it contains only a backbone.

    Raises:
        DataError: the format is unknown, the file is damaged, or it belongs to another model. Some
            layers may have been loaded by then.
    """
    read = next((r for suffix, r in _READERS.items() if path.name.lower().endswith(suffix)), None)
    if read is None:
        raise DataError(
            f"The format of {path} is unknown. Weights files end in {', '.join(_READERS)}."
        )
    try:
        with warnings.catch_warnings():
            # Keras only warns about variables that are missing from a file.
            warnings.simplefilter("error", UserWarning)
            return read(model, path)
    except DataError as error:
        raise DataError(f"{path} does not fit {model.name}: {error}") from None
    # Each format raises its own exceptions for files that are truncated, altered or invalid.
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(f"The weights file {path} cannot be read: {reason}") from None


def normalize(
    layer: layers.Normalization, mean: Array = _MEAN, variance: Array = _STANDARD_DEVIATION**2
) -> None:
    """Set the channel means and variances of a Normalization layer.

    The published weights contain the standard deviation in place of the variance
    (https://github.com/tensorflow/tensorflow/issues/49930). `keras.applications` corrects that with
    an additional layer, but only when it loads those weights itself; here the value is squared.

    Args:
        layer: the layer of a B variant.
        mean: mean per channel, float (3,), for pixels scaled to 0 to 1; ImageNet's by default.
        variance: variance per channel, likewise.
    """
    if np.allclose(variance, _STANDARD_DEVIATION, atol=1e-4):
        variance = np.square(variance)
    set_weights(layer, [mean, variance, np.zeros(())])
    layer.finalize_state()


def save_npz(model: keras.Model, path: Path) -> None:
    """Write a model's weights as a NumPy archive of arrays named LAYER/VARIABLE."""
    np.savez(
        path, **{f"{layer.name}/{each.name}": each.numpy() for layer, each in _named_weights(model)}
    )


def _named_weights(model: keras.Model) -> Iterator[tuple[layers.Layer, keras.Variable]]:
    return ((layer, weight) for layer in model.layers for weight in layer.weights)


def _set_weights(layer: layers.Layer, values: list[Array]) -> None:
    expected = [tuple(weight.shape) for weight in layer.weights]
    shapes = [value.shape for value in values]
    if expected != shapes:
        raise DataError(f"layer {layer.name} expects arrays of shapes {expected}, not {shapes}.")
    if isinstance(layer, layers.Normalization):
        normalize(layer, *values[:2])
    else:
        set_weights(layer, values)


def _as_head(kernel: Array, bias: Array) -> Head:
    return np.asarray(kernel, np.float32), np.asarray(bias, np.float32)


def _h5(model: keras.Model, path: Path) -> Head | None:
    """Keras 2 files, matched by the order of layers in the graph, because names may differ."""
    with h5py.File(path) as file:
        if "layers" in file or "_layer_checkpoint_dependencies" in file:
            return _keras3(model, path)
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            raise DataError("it contains no Keras weights.")
        groups = [group[_text(name)] for name in group.attrs["layer_names"]]
        stored = [
            [np.asarray(each[_text(name)]) for name in each.attrs["weight_names"]]
            for each in groups
        ]
    stored = [values for values in stored if values]
    weighted = [layer for layer in model.layers if layer.weights]
    if len(stored) - len(weighted) not in (0, 1):
        raise DataError(
            f"it has {len(stored)} layers with weights, but the model has {len(weighted)}."
        )
    for layer, values in zip(weighted, stored, strict=False):
        _set_weights(layer, values)
    if len(stored) == len(weighted):
        return None
    kernel, bias = stored[-1]
    return _as_head(kernel, bias)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _keras3(model: keras.Model, path: Path) -> Head | None:
    with h5py.File(path) as file:
        bias = file.get("layers/dense/vars/1")
        classes = None if bias is None else len(bias)
    if classes is None:
        model.load_weights(path)
        head = None
    else:
        dense = layers.Dense(classes, name="predictions")
        keras.Model(model.input, dense(model.output)).load_weights(path)
        head = _as_head(*dense.get_weights())
    for layer in model.layers:
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            _set_weights(layer, layer.get_weights())
    return head


def _keras_model(model: keras.Model, path: Path) -> Head | None:
    saved = keras.saving.load_model(path, compile=False, safe_mode=True)
    stored = {layer.name: layer for layer in _flattened(saved)}
    for layer in model.layers:
        if layer.weights:
            if layer.name not in stored:
                raise DataError(f"it has no layer {layer.name}.")
            _set_weights(layer, stored[layer.name].get_weights())
    head = next((stored[name].get_weights() for name in _HEADS if name in stored), None)
    return head and _as_head(*head)


def _flattened(model: keras.Model) -> Iterator[layers.Layer]:
    """The layers of a model and of the models nested in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flattened(layer)
        else:
            yield layer


def _npz(model: keras.Model, path: Path) -> Head | None:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    for layer in model.layers:
        if layer.weights:
            _set_weights(
                layer, [_array(arrays, f"{layer.name}/{each.name}") for each in layer.weights]
            )
    for name in _HEADS:
        if f"{name}/kernel" in arrays:
            return _as_head(arrays[f"{name}/kernel"], _array(arrays, f"{name}/bias"))
    return None


def _array(arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise DataError(f"it has no array {name}.")
    return arrays[name]


def _torch(model: keras.Model, path: Path) -> Head | None:
    return _from_tensors(model, torch_tensors.read(path.read_bytes()))


def _safetensors(model: keras.Model, path: Path) -> Head | None:
    return _from_tensors(model, safetensors_file.read(path.read_bytes()))


def _from_tensors(model: keras.Model, tensors: Mapping[str, Array]) -> Head | None:
    names = _timm_names(model) if "conv_stem.weight" in tensors else _plain_names(model)
    for layer in model.layers:
        if layer.weights and not isinstance(layer, layers.Normalization):
            _set_weights(layer, _transposed(layer, tensors, names[layer.name]))
    weight = tensors.get(f"{names['predictions']}.weight")
    if weight is None:
        return None
    return _as_head(weight.T, _array(tensors, f"{names['predictions']}.bias"))


def _transposed(layer: layers.Layer, tensors: Mapping[str, Array], prefix: str) -> list[Array]:
    """A layer's tensors, with their axes in Keras' order."""
    if isinstance(layer, layers.BatchNormalization):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [_array(tensors, f"{prefix}.{part}") for part in parts]
    axes = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
    kernel = _array(tensors, f"{prefix}.weight")
    if kernel.ndim != len(axes):
        raise DataError(f"{prefix}.weight is not the kernel of a convolution.")
    biases = [_array(tensors, f"{prefix}.bias")] if layer.use_bias else []
    return [kernel.transpose(axes), *biases]


_PLAIN_STEM_AND_TOP = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "top_conv": "_conv_head",
    "top_bn": "_bn1",
    "predictions": "_fc",
}
_PLAIN_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "dwconv": "_depthwise_conv",
    "bn": "_bn1",
    "se_reduce": "_se_reduce",
    "se_expand": "_se_expand",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def _plain_names(model: keras.Model) -> dict[str, str]:
    """Names of our layers in `efficientnet-pytorch` and `efficientnet-lite-pytorch`."""
    names = dict(_PLAIN_STEM_AND_TOP)
    for i, (block, parts) in enumerate(_blocks(model).items()):
        names |= {f"{block}_{part}": f"_blocks.{i}.{_PLAIN_BLOCK.get(part)}" for part in parts}
    return names


_TIMM_STEM_AND_TOP = {
    "stem_conv": "conv_stem",
    "stem_bn": "bn1",
    "top_conv": "conv_head",
    "top_bn": "bn2",
    "predictions": "classifier",
}
_TIMM_SQUEEZE_EXCITE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
_TIMM_BLOCKS = {  # by whether the block has an expansion and whether it has a depthwise convolution
    (True, True): {
        "expand_conv": "conv_pw",
        "expand_bn": "bn1",
        "bn": "bn2",
        "project_conv": "conv_pwl",
        "project_bn": "bn3",
    },
    (False, True): {"bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2"},
    (True, False): {
        "expand_conv": "conv_exp",
        "expand_bn": "bn1",
        "project_conv": "conv_pwl",
        "project_bn": "bn2",
    },
    (False, False): {"project_conv": "conv", "project_bn": "bn1"},
}


def _timm_names(model: keras.Model) -> dict[str, str]:
    """Names of our layers in timm."""
    names = dict(_TIMM_STEM_AND_TOP)
    for block, parts in _blocks(model).items():
        depthwise = parts & {"dwconv", "dwconv2"}
        block_names = _TIMM_SQUEEZE_EXCITE | dict.fromkeys(depthwise, "conv_dw")
        block_names |= _TIMM_BLOCKS["expand_conv" in parts, bool(depthwise)]
        stage, letter = int(block[5:-1]) - 1, ord(block[-1]) - ord("a")
        names |= {
            f"{block}_{part}": f"blocks.{stage}.{letter}.{block_names[part]}" for part in parts
        }
    return names


def _blocks(model: keras.Model) -> dict[str, set[str]]:
    """Names of each block's layers with weights, without the block's prefix; lowest block first."""
    blocks: dict[str, set[str]] = {}
    for layer in model.layers:
        match = re.fullmatch(r"(block\d+[a-z])_(.+)", layer.name)
        if match and layer.weights:
            blocks.setdefault(match[1], set()).add(match[2])
    return blocks


_READERS: dict[str, Callable[[keras.Model, Path], Head | None]] = {
    ".h5": _h5,
    ".keras": _keras_model,
    ".npz": _npz,
    ".pth": _torch,
    ".pt": _torch,
    ".bin": _torch,
    ".safetensors": _safetensors,
}
