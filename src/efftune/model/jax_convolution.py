"""Convolutions under JAX on NVIDIA GPUs.

Depthwise ones are kernels of Pallas (Triton): cuDNN's general kernels, and what XLA makes of
shifted products, take ten and more times as long as their memory traffic. Each program computes
some places of some channels, and reads the neighbours of its places from the GPU's caches.

Pointwise ones, and those of few channels, are matrix products. Their kernels' gradients are sums
over millions of rows with few results, which are split so that the whole GPU has work.
"""

import math
import warnings
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.pallas import triton

from efftune.errors import EfftuneWarning
from efftune.model.folded_layers import Padding

_PLACES = 64  # that a program computes at a time
_CHANNELS = 32
_WARPS = 4
_PARTS = 512  # that sums over all places are made of
_SPLIT_VALUES = 2**21  # in the parts of a matrix product, at most
_SPLIT_ROWS = 512  # in each part, at least
_MOST_VALUES = 2**31  # of an array, whose places are counted in int32
_ONE_EACH: Padding = ((1, 1), (1, 1))


class _Shapes(NamedTuple):
    """Of a convolution: input (height, width), output, kernel, stride, and padding on top, left."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    size: int
    stride: int
    before: tuple[int, int]


@cache
def works() -> bool:
    """Whether the kernels compile and compute here; warns if not, as all else is slower."""
    x, kernel = jnp.ones((1, 4, 4, 8), jnp.bfloat16), jnp.ones((3, 3, 8))
    try:
        total = jax.jit(jax.value_and_grad(lambda x: depthwise(x, kernel, 1, _ONE_EACH).sum()))
        found, gradient = total(x)
        is_right = float(found) == 100 * 8 and float(gradient[0, 1, 1, 0]) == 9
        problem = "" if is_right else "they compute something else"
    except Exception as error:  # noqa: BLE001  (whatever it is, there is another way)
        problem = str(error) or type(error).__name__
    if problem:
        text = f"The kernels for this GPU do not work, so slower ones are used: {problem[:300]}"
        warnings.warn(text, EfftuneWarning, stacklevel=2)
    return not problem


def fits(x: Array) -> bool:
    """Whether `depthwise` can take an array."""
    return bool(math.prod(x.shape) < _MOST_VALUES)


def depthwise(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Depthwise convolution, computed in float32.

    Args:
        x: activations (batch, height, width, channels); see `fits`.
        kernel: float32 (size, size, channels).
        stride: on both axes.
        padding: zeros before and after, on both axes.

    Returns:
        Activations of the type of `x`.
    """
    size, sides = kernel.shape[0], (x.shape[1], x.shape[2])
    outputs = _outputs(sides, size, stride, padding)
    before = (padding[0][0], padding[1][0])
    return _convolved(_Shapes(sides, outputs, size, stride, before), x, kernel)


def product(rows: Array, kernel: Array) -> Array:
    """A matrix product, computed in the type of its rows and summed in float32.

    Args:
        rows: float32 or bfloat16 (rows, inputs).
        kernel: float32 (inputs, outputs); so is its gradient.

    Returns:
        (rows, outputs), of the type of `rows`.
    """
    return _product(rows, kernel)


def channels_last(x: Array) -> Array:
    """The same array with its channels next to each other in memory; so is its gradient."""
    if not isinstance(x, jax.core.Tracer):
        return x
    constrained: Array = with_layout_constraint(x, Layout(tuple(range(x.ndim))))
    return constrained


def patches(x: Array, size: int, stride: int, padding: Padding) -> Array:
    """What each place of a convolution reads, next to each other, as rows of a matrix product.

    Args:
        x: activations (batch, height, width, channels).
        size: rows and columns of the kernel.
        stride: on both axes.
        padding: zeros before and after, on both axes.

    Returns:
        (batch, height, width, size * size * channels).
    """
    outputs = _outputs((x.shape[1], x.shape[2]), size, stride, padding)
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    bottom, right = ((each - 1) * stride + 1 for each in outputs)
    taps = [(i, j) for i in range(size) for j in range(size)]
    parts = [x[:, i : i + bottom : stride, j : j + right : stride] for i, j in taps]
    return jnp.concatenate(parts, axis=-1)


def _outputs(sides: tuple[int, int], size: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Height and width of a convolution's result."""
    height, width = (
        (side + sum(ends) - size) // stride + 1 for side, ends in zip(sides, padding, strict=True)
    )
    return height, width


@jax.custom_vjp  # type: ignore[untyped-decorator]
def _product(rows: Array, kernel: Array) -> Array:
    return _dot(rows, kernel.astype(rows.dtype), "ri,io->ro")


def _product_forward(rows: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(rows, kernel), (rows, kernel)


def _product_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    rows, kernel = kept
    count, parts = len(rows), 1
    while (
        count % (2 * parts) == 0
        and count // (2 * parts) >= _SPLIT_ROWS
        and 2 * parts * kernel.size <= _SPLIT_VALUES
    ):
        parts *= 2
    # Indices: part, row, input, output.
    a, b = (each.reshape(parts, count // parts, -1) for each in (rows, gradient))
    sums = _dot(a, b, "pri,pro->pio", "float32")
    cast = kernel.astype(rows.dtype)
    given = _dot(gradient, cast, "ro,io->ri")
    return given, sums.sum(axis=0).astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def _dot(a: Array, b: Array, indices: str, dtype: str | None = None) -> Array:
    """A sum of products, as `einsum` writes them; float32 is computed exactly."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    found: Array = jnp.einsum(
        indices, a, b, precision=precision, preferred_element_type=dtype or a.dtype
    )
    return found


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolved(shapes: _Shapes, x: Array, kernel: Array) -> Array:
    return _gathered(shapes, x, kernel, backward=False)


def _forward(shapes: _Shapes, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolved(shapes, x, kernel), (x, kernel)


def _backward(shapes: _Shapes, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    # Whichever of both is not needed is never computed.
    return (
        _gathered(shapes, gradient, kernel, backward=True),
        _kernel_gradient(shapes, x, gradient).astype(kernel.dtype),
    )


_convolved.defvjp(_forward, _backward)


@partial(jax.jit, static_argnums=0, static_argnames="backward")  # traces a shape only once
def _gathered(shapes: _Shapes, x: Array, kernel: Array, *, backward: bool) -> Array:
    """The convolution of `x`, or the gradient of its input if `x` is that of its output."""
    sides = shapes.inputs if backward else shapes.outputs
    batch, channels = x.shape[0], x.shape[-1]
    places = batch * math.prod(sides)
    grid = (pallas.cdiv(places, _PLACES), pallas.cdiv(channels, _CHANNELS))
    run = pallas.pallas_call(
        partial(_gather, shapes=shapes, places=places, backward=backward),
        out_shape=jax.ShapeDtypeStruct((places, channels), x.dtype),
        grid=grid,
        in_specs=[_anywhere(), _anywhere()],
        out_specs=_anywhere(),
        interpret=_interprets(),
        name="depthwise_input_gradient" if backward else "depthwise",
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
    )
    return run(x.reshape(-1, channels), kernel).reshape(batch, *sides, channels)


def _gather(x: Any, kernel: Any, out: Any, *, shapes: _Shapes, places: int, backward: bool) -> None:
    number, channel, ours = _block(x.shape[-1])
    sides, others = shapes.outputs, shapes.inputs
    if backward:
        sides, others = others, sides
    picture, row, column = _coordinates(number, sides)
    total = jnp.zeros((_PLACES, _CHANNELS), jnp.float32)
    for i in range(shapes.size):
        for j in range(shapes.size):
            y, y_counts = _source(row, i, shapes, 0, backward=backward)
            z, z_counts = _source(column, j, shapes, 1, backward=backward)
            counts = y_counts & z_counts & (number < places)
            place = (picture * others[0] + y) * others[1] + z
            mask = counts[:, None] & ours[None, :]
            values = triton.load(x.at[place[:, None], channel[None, :]], mask=mask, other=0.0)
            weights = triton.load(kernel.at[i, j, channel], mask=ours, other=0.0)
            total += values.astype(jnp.float32) * weights[None, :]
    mask = (number < places)[:, None] & ours[None, :]
    triton.store(out.at[number[:, None], channel[None, :]], total.astype(out.dtype), mask=mask)


def _source(
    place: Array, tap: int, shapes: _Shapes, axis: int, *, backward: bool
) -> tuple[Array, Array]:
    """Row (or column) that a tap reads for each row (or column), and whether it is one."""
    if not backward:
        found = place * shapes.stride + (tap - shapes.before[axis])
        return found, (found >= 0) & (found < shapes.inputs[axis])
    met = place + (shapes.before[axis] - tap)
    found, rest = _divided(met, shapes.stride)
    return found, (met >= 0) & (rest == 0) & (found < shapes.outputs[axis])


@partial(jax.jit, static_argnums=0)
def _kernel_gradient(shapes: _Shapes, x: Array, gradient: Array) -> Array:
    """The gradient of the kernel, float32 (size, size, channels)."""
    batch, channels, size = x.shape[0], x.shape[-1], shapes.size
    places = batch * math.prod(shapes.outputs)
    blocks = pallas.cdiv(places, _PLACES)
    parts = min(_PARTS, blocks)
    run = pallas.pallas_call(
        partial(_sum, shapes=shapes, places=places, blocks=pallas.cdiv(blocks, parts)),
        out_shape=jax.ShapeDtypeStruct((parts, size, size, channels), jnp.float32),
        grid=(parts, pallas.cdiv(channels, _CHANNELS), size),
        in_specs=[_anywhere(), _anywhere()],
        out_specs=_anywhere(),
        interpret=_interprets(),
        name="depthwise_kernel_gradient",
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
    )
    return run(x.reshape(-1, channels), gradient.reshape(-1, channels)).sum(axis=0)


def _sum(x: Any, gradient: Any, out: Any, *, shapes: _Shapes, places: int, blocks: int) -> None:
    """The sums of one part of the places, for one row of the kernel."""
    part, i = pallas.program_id(0), pallas.program_id(2)
    _, channel, ours = _block(x.shape[-1])

    def add(block: Any, totals: tuple[Array, ...]) -> tuple[Array, ...]:
        number = (part * blocks + block) * _PLACES + jnp.arange(_PLACES)
        picture, row, column = _coordinates(number, shapes.outputs)
        mask = (number < places)[:, None] & ours[None, :]
        place = number[:, None], channel[None, :]
        given = triton.load(gradient.at[place], mask=mask, other=0.0).astype(jnp.float32)
        y, y_counts = _source(row, i, shapes, 0, backward=False)
        found = []
        for j, total in enumerate(totals):
            z, z_counts = _source(column, j, shapes, 1, backward=False)
            read = (picture * shapes.inputs[0] + y) * shapes.inputs[1] + z
            counts = (y_counts & z_counts)[:, None] & mask
            values = triton.load(x.at[read[:, None], channel[None, :]], mask=counts, other=0.0)
            found.append(total + values.astype(jnp.float32) * given)
        return tuple(found)

    zeros = tuple(jnp.zeros((_PLACES, _CHANNELS), jnp.float32) for _ in range(shapes.size))
    for j, total in enumerate(jax.lax.fori_loop(0, blocks, add, zeros)):
        triton.store(out.at[part, i, j, channel], total.sum(axis=0), mask=ours)


def _block(channels: int) -> tuple[Array, Array, Array]:
    """Numbers of a program's places and of its channels, and which of these exist."""
    number = pallas.program_id(0) * _PLACES + jnp.arange(_PLACES)
    channel = pallas.program_id(1) * _CHANNELS + jnp.arange(_CHANNELS)
    return number, channel, channel < channels


def _coordinates(number: Array, sides: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Picture, row and column of each place."""
    height, width = sides
    picture, place = _divided(number, height * width)
    return picture, *_divided(place, width)


def _divided(numbers: Array, by: int) -> tuple[Array, Array]:
    """Quotients and remainders of numbers from 0; Python's, of any numbers, take more steps."""
    divisor = jnp.full_like(numbers, by)
    return jax.lax.div(numbers, divisor), jax.lax.rem(numbers, divisor)


def _anywhere() -> pallas.BlockSpec:
    return pallas.BlockSpec(memory_space=pallas.ANY)


def _interprets() -> bool:
    """Whether to interpret the kernels, which only tests do: elsewhere they run on GPUs."""
    backend: str = jax.default_backend()
    return backend == "cpu"
