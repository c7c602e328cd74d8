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


def differences(name, expected):
    """Of each array, those above 1 relative to the value."""
    found = few_steps.after_steps(name)
    assert {f"{name}:{key}" for key in found} <= set(expected)
    for key, value in found.items():
        yield key, np.abs(value - expected[f"{name}:{key}"]) / np.maximum(1, np.abs(value))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return on_tensorflow(tmp_path_factory.mktemp("steps") / "found.npz", "head", "upper", "whole")


@pytest.mark.parametrize("name", ["head", "upper", "whole"])
def test_steps_are_those_of_tensorflow(name, expected, one_device):
    """Adam's step is as long for a gradient that is 0 but for rounding: a few weights are off."""
    for key, off in differences(name, expected):
        assert off.max() < 1e-4, key
        assert off.mean() < 1e-6, key


@pytest.mark.long
def test_a_step_from_random_weights_is_that_of_tensorflow(tmp_path, one_device):
    for key, off in differences("scratch", on_tensorflow(tmp_path / "found.npz", "scratch")):
        assert off.max() < 1e-4, key
        assert off.mean() < few_steps.RATE / 2, key
