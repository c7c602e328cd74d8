"""What two of our choices save where Keras runs on JAX, here on the CPU.

    python benchmarks/jax_on_cpu.py

- Depthwise convolutions as shifted products, beside JAX's own: a forward pass of Lite0, and one
  with its gradients, BatchNorm and depthwise kernels frozen.
- Initial weights drawn by NumPy, beside Keras' initializers: seconds to build B0.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

from efftune.model import architectures
from efftune.model.backbone import Backbone
from efftune.model.folded_layers import Arithmetic

SIDE, BATCH, REPEATS = 224, 8, 5


def main() -> None:
    print(f"jax {jax.__version__}, keras {keras.__version__}, {jax.devices()}")
    start = time.perf_counter()
    architectures.backbone("efficientnet-b0", SIDE)
    print(f"B0 built with NumPy's numbers: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    architectures.backbone.__wrapped__("efficientnet-b0", SIDE)
    print(f"B0 built with Keras' initializers: {time.perf_counter() - start:.1f} s")
    backbone = Backbone("efficientnet-lite0", SIDE)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.float32)
    for layer in backbone.keras_model.layers:
        frozen = keras.layers.BatchNormalization | keras.layers.DepthwiseConv2D
        layer.trainable = not isinstance(layer, frozen)
    for name, way in (("JAX's own", "backend"), ("shifted products", "shifts")):
        model = backbone.upper("pixels", Arithmetic(depthwise=way))
        trained, others = (
            [variable.value for variable in part]
            for part in (model.trainable_variables, model.non_trainable_variables)
        )

        def features(trained: Any, model: Any = model, others: Any = others) -> Any:
            return model.stateless_call(trained, others, pixels)[0]

        def gradients(trained: Any, features: Any = features) -> Any:
            return jax.grad(lambda trained: features(trained).sum())(trained)

        for what, call in (("forward", features), ("forward and backward", gradients)):
            compiling, taken = milliseconds(jax.jit(call), trained)
            print(f"{name}, {what}: {taken:.1f} ms per picture, compiled in {compiling:.1f} s")


def milliseconds(call: Callable[[Any], Any], trained: Any) -> tuple[float, float]:
    """Seconds of the first call, and milliseconds per picture of later ones."""
    taken = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(call(trained))
        taken.append(time.perf_counter() - start)
    return taken[0], 1e3 * statistics.median(taken[1:]) / BATCH


if __name__ == "__main__":
    main()
