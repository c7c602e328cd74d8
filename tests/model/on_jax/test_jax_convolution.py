"""The convolutions for GPUs; their kernels are interpreted here, which is slow and exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efftune.model import jax_convolution
from efftune.model.backbone import Backbone
from efftune.model.folded_layers import Arithmetic, same_padding, shifted

SHAPES = [  # batch, height, width, channels, kernel, stride, padding
    (2, 9, 8, 33, 3, 2, "same"),
    pytest.param((2, 7, 7, 40, 3, 1, "same"), marks=pytest.mark.long),
    pytest.param((3, 6, 6, 4, 5, 1, "same"), marks=pytest.mark.long),
    (1, 8, 10, 8, 5, 2, ((1, 2), (2, 1))),
    pytest.param((1, 9, 7, 8, 3, 2, ((0, 1), (1, 0))), marks=pytest.mark.long),
]

ONE_EACH = ((1, 1), (1, 1))


def arrays(*shapes, dtype=np.float32):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_depthwise_convolution_and_its_gradients(shape):
    *sides, channels, size, stride, padding = shape
    x, kernel = arrays((*sides, channels), (size, size, channels))
    if padding == "same":
        padding = same_padding(sides[1:], size, stride)
    ways = jax_convolution.depthwise, shifted
    (found, back), (expected, expected_back) = (
        jax.vjp(lambda *both, way=way: way(*both, stride, padding), x, kernel) for way in ways
    )
    assert found == pytest.approx(np.asarray(expected), abs=1e-5)
    (given,) = arrays(found.shape)
    for one, other in zip(back(given), expected_back(given), strict=True):
        assert one == pytest.approx(np.asarray(other), abs=1e-4)


def test_bfloat16_is_summed_in_float32():
    x, kernel = arrays((2, 8, 8, 32), (5, 5, 32))
    low = x.astype(jnp.bfloat16)
    found = jax_convolution.depthwise(low, kernel, 1, ONE_EACH)
    assert found.dtype == jnp.bfloat16
    exact = shifted(low.astype(jnp.float32), kernel, 1, ONE_EACH)
    assert found.astype(jnp.float32) == pytest.approx(np.asarray(exact), rel=2**-8, abs=1e-4)


@pytest.mark.parametrize("count", [7, 1024, 1536, 5000])
def test_a_product_and_its_gradients_whatever_the_number_of_rows(count):
    rows, kernel, given = arrays((count, 6), (6, 5), (count, 5))
    found, back = jax.vjp(jax_convolution.product, rows, kernel)
    assert found == pytest.approx(np.asarray(rows @ kernel), abs=1e-5)
    for_rows, for_kernel = back(given)
    assert for_rows == pytest.approx(np.asarray(given @ kernel.T), abs=1e-5)
    assert for_kernel == pytest.approx(np.asarray(rows.T @ given), abs=1e-3)


def test_a_products_kernel_has_a_gradient_in_float32():
    rows, given = arrays((1024, 6), (1024, 5), dtype=jnp.bfloat16)
    (kernel,) = arrays((6, 5))
    _, gradient = jax.vjp(jax_convolution.product, rows, kernel)[1](given)
    exact = rows.astype(jnp.float32).T @ given.astype(jnp.float32)
    assert gradient.dtype == jnp.float32
    assert gradient == pytest.approx(np.asarray(exact), abs=1e-3)


@pytest.mark.parametrize(
    ("stride", "padding"), [*itertools.product([1, 2], [ONE_EACH, ((0, 1), (2, 0))])]
)
def test_patches_are_what_a_convolution_reads(stride, padding):
    x, kernel = arrays((2, 9, 8, 3), (3, 3, 3, 5))
    found = jax_convolution.patches(x, 3, stride, padding) @ kernel.reshape(27, 5)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert found == pytest.approx(np.asarray(expected), abs=1e-4)


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-b0", 32, weights="none").randomly_initialized(0)


def test_an_array_that_the_kernels_cannot_count_is_convolved_without(backbone, monkeypatch):
    monkeypatch.setattr(jax_convolution, "_MOST_VALUES", 1)
    test_a_network_of_kernels_is_the_network(backbone, "block7a")


@pytest.mark.parametrize("block", ["block7a", pytest.param("pixels", marks=pytest.mark.long)])
def test_a_network_of_kernels_is_the_network(backbone, block):
    (x,) = arrays((2, *(backbone.shape(block) if block != "pixels" else (32, 32, 3))))
    results = []
    for way in ("shifts", "kernels"):
        network = backbone.upper(block, Arithmetic(depthwise=way))
        trained, others = network.trainable_variables, network.non_trainable_variables

        def total(values, network=network, others=others):
            fixed = [each.value for each in others]
            return network.stateless_call(values, fixed, x, training=False)[0].sum()

        values = [each.value for each in trained]
        results.append(jax.jit(jax.value_and_grad(total))(values))
    (expected, gradients), (found, ours) = results
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert max(float(abs(each).max()) for each in gradients) > 1e-3  # there is something to compare
    for one, other in zip(ours, gradients, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max() + 1e-7
