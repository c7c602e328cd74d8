"""Weights from arrays, without a program for each of their shapes.

Under JAX, Keras makes a tensor of an array by a program, which is compiled for every shape: two
seconds on a GPU for an EfficientNet. JAX can send arrays to the device without one.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import keras


def set_weights(target: "keras.Model | keras.layers.Layer", values: Iterable[ArrayLike]) -> None:
    """Set the weights of a model or layer, as its own method does.

    Args:
        target: the model or layer.
        values: one array for each of its weights.
    """
    target.set_weights([tensor(each) for each in values])


def tensor(values: ArrayLike) -> Any:
    """What a variable of Keras takes as it is: a copy on the device under JAX, else the values."""
    import keras

    if keras.backend.backend() != "jax":
        return values
    import jax

    return jax.device_put(values, may_alias=False)  # arrays of NumPy may be written to later
