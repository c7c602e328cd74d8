"""Augmented views on the device where the network trains; `data/augmentation.py` draws them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from efftune.data.augmentation import View


def parameters(views: Sequence[View], size: int) -> dict[str, NDArray[np.float32]]:
    """What `apply` needs of views, by the name of its argument, each float32 (views, …).

    Args:
        views: from `augmentation.plan`.
        size: side of the pictures.
    """
    drawn = np.array(
        [
            (view.rotation, view.scale, *view.shift, view.flip, view.upside_down, view.contrast)
            for view in views
        ]
    )
    rotation, scale, *shift, flip, upside_down, contrast = drawn.T
    angle = np.deg2rad(rotation)
    # As `augmentation.affine`, for all at once: one by one takes as long as a step of the network.
    signs = np.stack([1 - 2 * flip, 1 - 2 * upside_down], axis=-1)
    rows = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    linear = np.moveaxis(scale * np.array(rows), -1, 0) * signs[:, None]
    centre = (size - 1) / 2
    offset = centre + size * np.stack(shift, axis=-1) - linear.sum(axis=-1) * centre
    return {
        "affine": np.concatenate([linear, offset[..., None]], axis=-1).astype(np.float32),
        "gain": np.array([view.gain for view in views], np.float32),
        "contrast": contrast.astype(np.float32),
    }


def apply(pixels: jax.Array, affine: jax.Array, gain: jax.Array, contrast: jax.Array) -> jax.Array:
    """The views of some pictures, as `augmentation.apply` makes them, up to rounding.

    Args:
        pixels: uint8 (pictures, size, size, 3).
        affine: maps coordinates in the view to coordinates in the picture, (pictures, 2, 3).
        gain: factor for each channel, (pictures, 3).
        contrast: factor for the difference from the picture's mean, (pictures,).

    Returns:
        float32 (pictures, size, size, 3), whole numbers from 0 to 255.
    """
    warped = jnp.round(_warped(pixels, affine))
    mean = warped.mean(axis=(1, 2, 3), keepdims=True)
    values = (mean + (warped - mean) * contrast[:, None, None, None]) * gain[:, None, None, :]
    return jnp.round(values.clip(0, 255))


def _warped(pixels: jax.Array, affine: jax.Array) -> jax.Array:
    """Bilinear samples of pictures, mirrored at their edges; the edge itself is not repeated.

    Written as four reads per value, so that the compiler makes one loop of it all.
    """
    count, size = pixels.shape[:2]
    places = jnp.arange(size, dtype=jnp.float32)
    # Of each place in the view, (pictures, size, size): row and column in the picture.
    columns, rows = (
        affine[:, i, 0, None, None] * places
        + affine[:, i, 1, None, None] * places[:, None]
        + affine[:, i, 2, None, None]
        for i in range(2)
    )
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    tops, lefts = top.astype(jnp.int32), left.astype(jnp.int32)
    first = jnp.arange(count, dtype=jnp.int32)[:, None, None] * (size * size)
    flat = pixels.reshape(-1, pixels.shape[-1])

    def read(row: jax.Array, column: jax.Array) -> jax.Array:
        index = first + _mirrored(row, size) * size + _mirrored(column, size)
        return flat.at[index].get(mode="promise_in_bounds").astype(jnp.float32)

    above = read(tops, lefts) * (1 - right) + read(tops, lefts + 1) * right
    below = read(tops + 1, lefts) * (1 - right) + read(tops + 1, lefts + 1) * right
    return above * (1 - down) + below * down


def _mirrored(place: jax.Array, size: int) -> jax.Array:
    """A place beyond the edges as its mirror image within: -1 is 1, `size` is `size` - 2."""
    period = max(1, 2 * (size - 1))
    place = jnp.abs(place) % period
    return jnp.minimum(place, period - place)
