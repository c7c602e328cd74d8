"""What graphs are made of on GPUs, which are not needed to make them."""

from types import SimpleNamespace

import jax
import keras
import pytest

from efftune.errors import EfftuneWarning
from efftune.model import jax_convolution
from efftune.model.backbone import Backbone
from efftune.model.folded_layers import Arithmetic
from efftune.model.folding import arithmetic, has_backend_convolutions


def gpus(*capabilities):
    return lambda: [SimpleNamespace(compute_capability=each) for each in capabilities]


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(["9.0"], "kernels"), (["8.0"], "kernels"), (["7.5"], "shifts"), (["9.0", "9.0"], "shifts")],
)
def test_kernels_are_for_one_gpu_that_triton_knows(monkeypatch, devices, expected):
    monkeypatch.setattr(jax, "local_devices", gpus(*devices))
    assert arithmetic("gpu", "bf16") == Arithmetic("bfloat16", "bfloat16", expected)


@pytest.mark.parametrize("broken", ["raises", "is wrong"])
def test_kernels_that_do_not_work_are_not_used(monkeypatch, broken):
    def gathered(shapes, x, kernel, *, backward):
        if broken == "raises":
            raise NotImplementedError("no such target")
        return x * 2

    monkeypatch.setattr(jax, "local_devices", gpus("9.0"))
    monkeypatch.setattr(jax_convolution, "_gathered", gathered)
    jax_convolution.works.cache_clear()
    with pytest.warns(EfftuneWarning, match="do not work, so slower ones are used"):
        assert arithmetic("gpu", "bf16").depthwise == "shifts"
    jax_convolution.works.cache_clear()


def test_on_a_cpu_depthwise_convolutions_are_shifted_products():
    assert arithmetic("cpu", "bf16") == Arithmetic("bfloat16", "float32", "shifts")


@pytest.mark.parametrize(
    ("model", "way", "expected"),
    [
        ("efficientnet-b0", "kernels", False),
        ("efficientnet-lite0", "kernels", False),
        ("efficientnet-v2-b0", "kernels", True),  # its lower blocks convolve densely
        ("efficientnet-b0", "shifts", True),  # the pixels
        ("efficientnet-b0", "backend", True),
    ],
)
def test_convolutions_that_are_left_to_the_backend_are_noticed(model, way, expected):
    backbone = Backbone(model, 32, weights="none")
    part = backbone.upper("pixels", Arithmetic(depthwise=way))
    assert has_backend_convolutions(part) == expected
    nested = keras.Model(part.input, part(part.input))
    assert has_backend_convolutions(nested) == expected
