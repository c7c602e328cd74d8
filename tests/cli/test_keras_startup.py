import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from efftune.cli import keras_startup

keras_startup.use_openvino()
import datasets  # asks which frameworks are installed
import keras

print(keras.backend.backend(), sorted({"jax", "tensorflow"} & set(sys.modules)))
try:
    import jax
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.ci
def test_other_backends_are_not_imported_and_do_not_seem_missing():
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "openvino []\njax is not used in this process\n"
