import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from . import few_steps


def on_tensorflow(path, *names):
    command = [sys.executable, "-m", "training.on_jax.few_steps", str(path), *names]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=True)
    return dict(np.load(path))


def assert_same(name, expected, rounding):
    """Adam's step is as long for a gradient that is 0 but for rounding: a few weights are off.

    Of a deep network's random weights, rounding grows from layer to layer: TensorFlow with other
    kernels (`TF_ENABLE_ONEDNN_OPTS=0`) differs from itself by 3e-5 of a BatchNorm's variances.
    """
    found = few_steps.after_steps(name)
    assert {f"{name}:{key}" for key in found} <= set(expected)
    for key, change in found.items():
        off = np.abs(change - expected[f"{name}:{key}"])
        assert off.max() < 1e-4 * max(1, np.abs(change).max()), key
        assert off.mean() <= 0.03 * np.abs(change).mean() + rounding, key


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return on_tensorflow(tmp_path_factory.mktemp("steps") / "found.npz", "head", "upper")


@pytest.mark.parametrize("name", ["head", "upper"])
def test_steps_are_those_of_tensorflow(name, expected, one_device):
    assert_same(name, expected, 1e-8)


@pytest.mark.long
def test_steps_of_all_blocks_are_those_of_tensorflow(tmp_path, one_device):
    assert_same("whole", on_tensorflow(tmp_path / "found.npz", "whole"), 1e-8)


@pytest.mark.long
def test_a_step_from_random_weights_is_that_of_tensorflow(tmp_path, one_device):
    # A shift before the next BatchNorm has no gradient but for rounding.
    expected = on_tensorflow(tmp_path / "found.npz", "scratch")
    assert_same("scratch", expected, few_steps.RATE / 10)
