import jax
import keras
import numpy as np
import pytest
from keras import initializers, ops

from efftune.model import architectures, initial_weights
from efftune.model.initial_weights import drawn_by_numpy
from efftune.model.tensors import set_weights

SHAPES = [(3, 3, 40, 60), (1, 1, 80, 200), (100, 200)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("kind", ["truncated_normal", "untruncated_normal", "uniform"])
def test_weights_have_keras_distribution(kind, mode, shape):
    initializer = initializers.VarianceScaling(2.0, mode, kind, seed=3)
    theirs = ops.convert_to_numpy(initializer(shape))
    with drawn_by_numpy():
        ours, again = np.asarray(initializer(shape)), np.asarray(initializer(shape))
    assert not np.array_equal(ours, theirs)  # so they were drawn by another generator
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, again)
    assert ours.mean() == pytest.approx(0, abs=4 * theirs.std() / np.sqrt(ours.size))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.25)


def test_keras_draws_again_outside():
    initializer = initializers.VarianceScaling(seed=3)
    before = ops.convert_to_numpy(initializer((5, 6)))
    with pytest.raises(LookupError), drawn_by_numpy():
        raise LookupError
    assert np.array_equal(ops.convert_to_numpy(initializer((5, 6))), before)


def test_weights_are_made_and_set_without_a_program(caplog):
    jax.config.update("jax_log_compiles", True)
    try:
        with drawn_by_numpy():
            layer = keras.layers.Dense(61)
            layer.build((None, 59))
        set_weights(layer, [np.zeros((59, 61)), np.ones(61, np.float32)])
        assert "Compiling" not in caplog.text
        layer.set_weights([np.zeros((59, 61)), np.ones(61)])  # Keras' own way has one
        assert "Compiling" in caplog.text
    finally:
        jax.config.update("jax_log_compiles", False)
    assert np.array_equal(ops.convert_to_numpy(layer.bias), np.ones(61))


def test_networks_begin_with_different_and_seeded_kernels():
    model = architectures.backbone("efficientnet-lite0", 32)
    first, second = (model.get_layer(f"block{each}_project_conv") for each in ("3b", "4b"))
    assert ops.convert_to_numpy(first.kernel).std() > 0
    assert np.abs(ops.convert_to_numpy(second.kernel)).max() > 0
    kernels = []
    for seed in (0, 1, 0):
        initial_weights.initialize(model, seed)
        kernels.append(ops.convert_to_numpy(first.kernel).copy())
    assert np.array_equal(kernels[0], kernels[2])
    assert not np.array_equal(kernels[0], kernels[1])
    assert keras.backend.standardize_dtype(first.kernel.dtype) == "float32"
