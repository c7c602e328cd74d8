import keras
import numpy as np
import pytest
from keras import initializers, ops

from efftune.model import architectures, initial_weights
from efftune.model.initial_weights import drawn_by_numpy

SHAPES = [(3, 3, 40, 60), (1, 1, 80, 200), (100, 200)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("kind", ["truncated_normal", "untruncated_normal", "uniform"])
def test_weights_have_keras_distribution(kind, mode, shape):
    initializer = initializers.VarianceScaling(2.0, mode, kind, seed=3)
    theirs = ops.convert_to_numpy(initializer(shape))
    with drawn_by_numpy():
        ours, again = initializer(shape), initializer(shape)
    assert isinstance(ours, np.ndarray)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, again)
    assert ours.mean() == pytest.approx(0, abs=4 * theirs.std() / np.sqrt(ours.size))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.25)


def test_keras_draws_again_outside():
    with pytest.raises(LookupError), drawn_by_numpy():
        raise LookupError
    assert not isinstance(initializers.Zeros()((2,)), np.ndarray)


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
