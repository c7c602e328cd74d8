"""Runs the tests in folders `on_jax` in a process of its own, with JAX and four virtual devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = [str(path) for path in sorted(ROOT.glob("tests/*/on_jax"))]
JAX = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes longer than these programs
}


def run(*options):
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *PLACES, *options]
    environment = {key: value for key, value in os.environ.items() if "XDIST" not in key} | JAX
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ci
def test_programs_of_jax():
    pytest.importorskip("jax")
    run()


@pytest.mark.long
def test_programs_of_jax_that_take_long():
    pytest.importorskip("jax")
    run("-m", "long")


@pytest.mark.slow
def test_programs_of_jax_that_take_longest():
    pytest.importorskip("jax")
    run("-m", "slow")


@pytest.mark.shared
def test_programs_of_jax_on_photos(clothing):
    pytest.importorskip("jax")
    run("-m", "shared")
