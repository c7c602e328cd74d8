import os
import subprocess
import sys

import pytest

from efftune.errors import EfftuneWarning, UsageError
from efftune.model.engines import devices, openvino_engine
from efftune.system import machine

NO_GPU = "no NVIDIA driver was found"


@pytest.fixture(autouse=True)
def forgotten():
    """What an earlier test found out about this machine."""
    yield
    devices._gpu_problem.cache_clear()
    devices._warn_once.cache_clear()


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A machine with NVIDIA's driver; JAX sees no GPU on this one."""
    (tmp_path / "version").touch()
    monkeypatch.setattr(devices, "_DRIVERS", (tmp_path / "version",))
    monkeypatch.setattr(devices, "keras_backend", lambda: "jax")
    devices._gpu_problem.cache_clear()


@pytest.fixture
def no_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_DRIVERS", (tmp_path / "none",))
    devices._gpu_problem.cache_clear()


def test_cpu_is_run_by_openvino():
    assert devices.chosen("cpu") == "cpu"
    assert devices.engine("cpu") is openvino_engine
    assert devices.name("cpu") == ""


def test_what_is_no_device_is_refused():
    with pytest.raises(UsageError, match="Unknown device 'None'"):
        devices.chosen(None)


def test_unknown_device_is_refused():
    with pytest.raises(UsageError, match=r"Unknown device 'tpu'.*auto, cpu, gpu"):
        devices.chosen("tpu")


def test_gpu_on_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "keras_backend", lambda: "tensorflow")
    assert devices.chosen("auto") == "cpu"
    with pytest.raises(UsageError, match=r"Keras runs on tensorflow.*unset KERAS_BACKEND"):
        devices.chosen("gpu")


def test_gpu_that_keras_keeps_from_use_is_said(driver, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(devices, "keras_backend", lambda: "tensorflow")
    with pytest.warns(EfftuneWarning, match="set it to jax before Keras is imported"):
        assert devices.chosen("auto") == "cpu"


def test_backend_of_the_users_choice_is_taken_in_silence(driver, monkeypatch, recwarn):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(devices, "keras_backend", lambda: "tensorflow")
    assert devices.chosen("auto") == "cpu"
    assert not recwarn.list


PREDICTING = """
import sys
from efftune.model.engines import devices
assert devices.for_prediction("cpu") == "cpu"
assert "jax" not in sys.modules  # a later training may use the GPU
assert devices.chosen("cpu") == "cpu"
assert sys.modules["jax"].config.jax_platforms == "cpu"
"""


def test_only_training_on_the_cpu_keeps_jax_off_gpus():
    environment = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", PREDICTING],
        env=environment | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_missing_gpu_is_refused(no_driver, monkeypatch):
    monkeypatch.setattr(devices, "keras_backend", lambda: "jax")
    with pytest.raises(UsageError, match=f"--device gpu: {NO_GPU}"):
        devices.chosen("gpu")


def test_gpu_without_jax_is_said_how_to_use(driver, monkeypatch):
    monkeypatch.setattr(devices, "_is_installed", lambda name: name != "jax")
    with pytest.warns(
        EfftuneWarning, match=r'JAX is not installed; .*pip install "efftune\[gpu\]"'
    ):
        assert devices.chosen("auto") == "cpu"
    with pytest.raises(UsageError, match="pip install"):
        devices.chosen("gpu")


def test_gpu_that_jax_cannot_use_is_said_why(driver):
    pytest.importorskip("jax")
    with pytest.warns(EfftuneWarning, match=r"The GPU is not used: JAX cannot use it \(.*gpu.*\)"):
        assert devices.chosen("auto") == "cpu"
    with pytest.raises(UsageError, match="update NVIDIA's driver"):
        devices.chosen("gpu")


def test_warning_comes_once(driver, recwarn, monkeypatch):
    monkeypatch.setattr(devices, "_is_installed", lambda name: name != "jax")
    for _ in range(3):
        devices.chosen("auto")
    assert len(recwarn) == 1


LOADED = """
import os, sys
from efftune.model.engines import devices
assert devices.chosen("auto") == "cpu"
assert "KERAS_BACKEND" not in os.environ
print(sorted({"jax", "keras", "tensorflow", "openvino"} & set(sys.modules)))
"""


def test_choice_imports_nothing_where_there_is_no_driver():
    if any(each.exists() for each in devices._DRIVERS):
        pytest.skip("this machine has NVIDIA's driver")
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


MISSING = """
import os, sys
sys.modules["tensorflow"] = sys.modules["openvino"] = None  # as if they were not installed
from efftune.model.engines import devices
assert devices.chosen("auto") == "cpu"
assert os.environ["KERAS_BACKEND"] == "jax"
assert devices.engine("cpu").NAME == "jax"
"""


@pytest.mark.ci
def test_jax_takes_the_place_of_what_is_missing():
    pytest.importorskip("jax")
    done = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_jax_beside_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "_is_installed", lambda name: name != "openvino")
    monkeypatch.setattr(devices, "keras_backend", lambda: "tensorflow")
    with pytest.raises(UsageError, match=r"Keras runs on tensorflow.*install openvino"):
        devices.engine("cpu")


def test_variable_that_hides_the_gpu_is_named(driver, monkeypatch):
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(devices, "_keep_off_gpu", lambda: "cpu")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cpu")
    with pytest.raises(UsageError, match="JAX may use cpu only in this process"):
        devices.chosen("gpu")
    jax.config.update("jax_platforms", before)


def test_cpu_is_refused_after_a_gpu_was_used_but_for_predictions(monkeypatch):
    jax = pytest.importorskip("jax")
    before = jax.config.jax_platforms
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(devices, "keras_backend", lambda: "jax")
    monkeypatch.setattr(devices, "has_openvino", lambda: False)
    with pytest.raises(UsageError, match="JAX has begun with a GPU"):
        devices.chosen("cpu")
    assert devices.for_prediction("cpu") == "cpu"
    assert devices.engine("cpu").NAME == "jax"
    jax.config.update("jax_platforms", before)


def test_memory_is_that_of_the_device():
    assert devices.memory_bytes("cpu") == machine.memory_bytes()


def test_nothing_to_compute_with_is_an_error(monkeypatch):
    monkeypatch.setattr(devices, "_is_installed", lambda _name: False)
    with pytest.raises(UsageError, match="pip install openvino"):
        devices.engine("cpu")
