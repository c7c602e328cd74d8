"""Training steps and forward passes of EfficientNet-B0 on one GPU, by Keras on JAX.

    python benchmarks/gpu.py [--rows depthwise whole upper scratch forward] [--small] [--out CSV]
        [--torch-python OTHER/bin/python]

Needs JAX, Keras, annotated-types, platformdirs and what these bring, neither TensorFlow nor
OpenVINO; for the peers, PyTorch and timm. Rows:

- depthwise: every depthwise shape of B0, as cuDNN's grouped convolution and as shifted
  multiply-adds: forward, input gradient, filter gradient.
- whole: a step that trains all blocks on pictures, BatchNorm and depthwise kernels frozen; beside
  Keras' own `fit`, and timm's network in PyTorch, compiled, with the same layers frozen.
- upper: the same from block 5 on kept activations.
- scratch: a step from random weights, BatchNorm trained; beside PyTorch.
- forward: from pictures to features; beside PyTorch.

Pictures and activations lie in device memory, and all steps of a measurement are one compiled
program. A row that fails says why, and the others go on. Values are medians of at least five
measurements after a warm-up, on random data. Beside each rate stand two bounds, from the bytes that
convolutions read and write and from their operations, at the rates at which this device copies and
multiplies. `--small` takes tiny shapes, to try the script on a CPU.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too

RESULT = Path(__file__).parent / "results" / "gpu.csv"
CLASSES = 120
REPEATS = 5
TORCH_SECONDS = 200  # for one row in PyTorch, most of it spent compiling
# Input side, channels, kernel and stride of B0's depthwise convolutions at 224 pixels.
DEPTHWISE = (
    *((112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (56, 144, 5, 2), (28, 240, 5, 1)),
    *((28, 240, 3, 2), (14, 480, 3, 1), (14, 480, 5, 1), (14, 672, 5, 1), (14, 672, 5, 2)),
    *((7, 1152, 5, 1), (7, 1152, 3, 1)),
)


@dataclass(frozen=True)
class Sizes:
    """What is measured: shapes for a GPU, or tiny ones."""

    side: int = 224
    pictures: int = 4096  # in device memory
    batches: tuple[int, ...] = (128, 256, 512, 1024)
    steps: int = 12  # in one program
    depthwise: tuple[tuple[int, int, int, int], ...] = DEPTHWISE
    depthwise_batch: int = 256


SMALL = Sizes(32, 32, (8,), 2, ((14, 8, 3, 1), (14, 8, 5, 2)), 4)


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    row: str
    what: str
    batch: int
    value: float
    unit: str
    bound_by_bytes: float = math.nan
    bound_by_operations: float = math.nan


@dataclass(frozen=True)
class Device:
    """The rates of the device, measured in the same run."""

    bytes_per_second: float
    operations_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--in-torch", choices=("whole", "scratch", "forward"))
    options = parser.parse_args()
    sizes = SMALL if options.small else Sizes()
    if options.in_torch:
        for result in in_torch(options.in_torch, sizes):
            print(json.dumps(astuple(result)), flush=True)
        return
    print("\n".join(described()), flush=True)
    device = rates(sizes)
    results = []
    for row in options.rows:
        start = time.perf_counter()
        try:
            for result in ROWS[row](sizes, device):
                results.append(result)
                print(line(result), flush=True)
        except Exception:  # noqa: BLE001  (the other rows go on)
            print(f"{row} failed:\n{traceback.format_exc()}", flush=True)
        if row in ("whole", "scratch", "forward"):
            results += peers(row, options)
        print(f"[{row}: {time.perf_counter() - start:.0f} s]", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(Result)])
        writer.writerows(astuple(result) for result in results)
    print("\n" + "\n".join([*described(), *map(line, results)]))


def line(result: Result) -> str:
    bounds = (result.bound_by_bytes, result.bound_by_operations)
    shown = ", ".join(f"{bound:,.0f}" for bound in bounds if not math.isnan(bound))
    value = f"{result.value:12,.3f}" if result.value < 100 else f"{result.value:12,.0f}"
    text = f"{result.row:10} {result.what:44} {result.batch:5} {value} {result.unit}"
    return f"{text}  (bounds: {shown})" if shown else text


def described() -> Iterator[str]:
    import jax
    import keras

    yield f"jax {jax.__version__}, keras {keras.__version__}, {jax.devices()[0].device_kind}"
    wanted = "name,driver_version,clocks.sm,clocks.mem,power.draw,memory.total"
    try:
        command = ("nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader")
        yield subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        yield "no nvidia-smi"


def seconds(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """The median time of a call that returns arrays of JAX."""
    import jax

    jax.block_until_ready(call())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def rates(sizes: Sizes) -> Device:
    """How fast the device copies, bytes read and written, and multiplies in bfloat16."""
    import jax
    import jax.numpy as jnp

    small = sizes == SMALL
    values = random((2**16 if small else 2**29,))
    add, dot = jax.jit(lambda x: x + 1), jax.jit(jnp.dot)
    copied = seconds(lambda: add(values))
    side = 256 if small else 8192
    matrix = random((side, side))
    multiplied = seconds(lambda: dot(matrix, matrix))
    device = Device(2 * values.nbytes / copied, 2 * side**3 / multiplied)
    print(
        f"copies {device.bytes_per_second / 1e9:,.0f} GB/s, multiplies "
        f"{device.operations_per_second / 1e12:,.2f} TFLOP/s in bfloat16",
        flush=True,
    )
    return device


def random(shape: tuple[int, ...], dtype: str = "bfloat16", seed: int = 0) -> Any:
    import jax

    key = jax.random.key(seed)
    if dtype == "uint8":
        return jax.random.randint(key, shape, 0, 256).astype(dtype)
    return jax.random.normal(key, shape, dtype)


def depthwise(sizes: Sizes, device: Device) -> Iterator[Result]:
    for shape in sizes.depthwise:
        side, channels, kernel, stride = shape
        x = random((sizes.depthwise_batch, side, side, channels))
        weights = random((kernel, kernel, channels), seed=1)
        down = -(-side // stride)
        gradient = random((sizes.depthwise_batch, down, down, channels), seed=2)
        bound = 1e6 * (x.nbytes + gradient.nbytes) / device.bytes_per_second
        outputs = {}
        for name, way in (("cuDNN", grouped), ("shifts", shifted)):
            for part, call in passes(way, stride, (x, weights, gradient)).items():
                outputs[part, name] = call()
                what = f"{side}², {channels} channels, {kernel}×{kernel}/{stride}, {part}, {name}"
                taken = 1e6 * seconds(call)
                yield Result("depthwise", what, sizes.depthwise_batch, taken, "µs", bound)
        require_same(outputs["forward", "cuDNN"], outputs["forward", "shifts"], shape)


def passes(way: Callable[..., Any], stride: int, arrays: Any) -> dict[str, Callable[[], Any]]:
    """Calls that compute a convolution and its gradients, each compiled by itself."""
    import jax

    x, weights, gradient = arrays

    def pulled(x: Any, weights: Any, gradient: Any, i: int) -> Any:
        return jax.vjp(lambda *both: way(*both, stride), x, weights)[1](gradient)[i]

    forward = jax.jit(lambda x, weights: way(x, weights, stride))
    backward = jax.jit(pulled, static_argnums=3)
    return {
        "forward": lambda: forward(x, weights),
        "input gradient": lambda: backward(x, weights, gradient, 0),
        "filter gradient": lambda: backward(x, weights, gradient, 1),
    }


def require_same(one: Any, other: Any, shape: tuple[int, ...]) -> None:
    """Both ways must compute the same, within bfloat16's rounding."""
    import jax.numpy as jnp

    one, other = one.astype("float32"), other.astype("float32")
    apart = float(jnp.abs(one - other).max() / jnp.abs(one).max())
    if not apart < 0.02:
        raise ValueError(f"grouped and shifted convolutions of {shape} are {apart:.3f} apart")


def grouped(x: Any, weights: Any, stride: int) -> Any:
    """Depthwise convolution as the backend's grouped convolution."""
    import jax

    return jax.lax.conv_general_dilated(
        x,
        weights[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted(x: Any, weights: Any, stride: int) -> Any:
    """Depthwise convolution as a sum of shifted products, which XLA fuses into one pass."""
    import jax.numpy as jnp

    kernel, side = len(weights), x.shape[1]
    down = -(-side // stride)
    missing = max(0, (down - 1) * stride + kernel - side)  # as "SAME" pads
    ends = (missing // 2, missing - missing // 2)
    padded = jnp.pad(x, ((0, 0), ends, ends, (0, 0)))
    reach = (down - 1) * stride + 1
    total = 0.0
    for i in range(kernel):
        for j in range(kernel):
            part = padded[:, i : i + reach : stride, j : j + reach : stride]
            total += part.astype("float32") * weights[i, j].astype("float32")
    return total.astype(x.dtype)


def network(side: int, stage: str) -> Any:
    """B0 with a head, in mixed precision: `whole`, `scratch`, or `upper` from block 5."""
    import keras

    from efftune.model import architectures

    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    backbone = architectures.backbone("efficientnet-b0", side)
    inputs = backbone.input
    if stage == "upper":
        inputs = next(each for each in backbone.layers if each.name.startswith("block5a")).input
    if stage != "scratch":
        for layer in backbone.layers:
            frozen = keras.layers.BatchNormalization | keras.layers.DepthwiseConv2D
            layer.trainable = not isinstance(layer, frozen)
    logits = keras.layers.Dense(CLASSES, dtype="float32", name="logits")(backbone.output)
    return keras.Model(inputs, logits)


def training(stage: str) -> Callable[[Sizes, Device], Iterator[Result]]:
    def row(sizes: Sizes, device: Device) -> Iterator[Result]:
        model = network(sizes.side, stage)
        bounds = step_bounds(model, device, trained=True)
        for batch in sizes.batches:
            taken = seconds(epoch(model, sizes, batch, stage))
            rate = sizes.steps * batch / taken
            yield Result(stage, "step, one program", batch, rate, "images/s", *bounds)
        if stage == "whole":
            yield keras_fit(model, sizes)

    return row


def epoch(model: Any, sizes: Sizes, batch: int, stage: str) -> Callable[[], Any]:
    """A call that runs some steps as one program, on pictures in device memory."""
    import jax
    import jax.numpy as jnp
    import keras

    shape = tuple(model.input.shape[1:])
    dtype = "bfloat16" if stage == "upper" else "uint8"
    pictures = random((sizes.pictures, *shape), dtype)
    labels = jax.random.randint(jax.random.key(1), (sizes.pictures,), 0, CLASSES)
    rows = jax.random.randint(jax.random.key(2), (sizes.steps, batch), 0, sizes.pictures)
    optimizer = keras.optimizers.AdamW(1e-4)
    optimizer.build(model.trainable_variables)

    def loss(trained: Any, others: Any, x: Any, y: Any) -> Any:
        logits, others = model.stateless_call(trained, others, x, training=stage == "scratch")
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), others

    def step(state: Any, chosen: Any) -> Any:
        trained, others, slots = state
        x = pictures[chosen].astype("bfloat16" if stage == "upper" else "float32")
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, others), gradients = gradient(trained, others, x, labels[chosen])
        trained, slots = optimizer.stateless_apply(slots, gradients, trained)
        return (trained, others, slots), value

    program = jax.jit(lambda state, rows: jax.lax.scan(step, state, rows))
    parts = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = tuple([variable.value for variable in part] for part in parts)
    return lambda: program(state, rows)


def keras_fit(model: Any, sizes: Sizes) -> Result:
    import keras
    import numpy as np

    batch = sizes.batches[len(sizes.batches) // 2]
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    count = sizes.steps * batch
    side = sizes.side
    pictures = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    labels = np.arange(count) % CLASSES
    model.fit(pictures, labels, batch, verbose=0)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model.fit(pictures, labels, batch, verbose=0)
        taken.append(time.perf_counter() - start)
    rate = count / statistics.median(taken)
    return Result("whole", "Keras' fit on JAX", batch, rate, "images/s")


def forward(sizes: Sizes, device: Device) -> Iterator[Result]:
    import jax

    model = network(sizes.side, "whole")
    bounds = step_bounds(model, device, trained=False)
    trained, others = (
        [variable.value for variable in part]
        for part in (model.trainable_variables, model.non_trainable_variables)
    )
    pictures = random((max(sizes.batches), sizes.side, sizes.side, 3), "uint8")
    run = jax.jit(lambda x: model.stateless_call(trained, others, x.astype("float32"))[0])
    for batch in sizes.batches:
        rate = batch / seconds(lambda part=pictures[:batch]: run(part))
        yield Result("forward", "to features and logits", batch, rate, "images/s", *bounds)


def step_bounds(model: Any, device: Device, *, trained: bool) -> tuple[float, float]:
    """Images a second at the most, by the bytes and by the operations of the convolutions.

    A convolution reads its input and writes its output, in bfloat16; so does its input gradient.
    The filter gradient, which frozen kernels do not need, reads both.
    """
    import keras

    moved = operations = 0.0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            values = math.prod(layer.input.shape[1:]) + math.prod(layer.output.shape[1:])
            kernel = math.prod(layer.kernel.shape[:3])
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                kernel = math.prod(layer.kernel.shape[:2])
            passes = 1 if not trained else 3 if layer.trainable else 2
            moved += 2 * values * passes
            operations += 2 * kernel * math.prod(layer.output.shape[1:]) * passes
    return device.bytes_per_second / moved, device.operations_per_second / operations


def peers(row: str, options: argparse.Namespace) -> list[Result]:
    """The same in PyTorch, in a process of its own: its memory is free again afterwards."""
    small = ["--small"] if options.small else []
    command = [options.torch_python, __file__, "--in-torch", row, *small]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TORCH_SECONDS
        )
        output, problem = done.stdout, "" if done.returncode == 0 else done.stderr[-400:]
    except subprocess.TimeoutExpired as error:
        output, problem = (error.stdout or b"").decode(), f"longer than {TORCH_SECONDS} s"
    results = [Result(*json.loads(each)) for each in output.splitlines() if each.startswith("[")]
    for result in results:
        print(line(result), flush=True)
    if problem:
        print(f"{row} in PyTorch: {problem}", flush=True)
    return results


def in_torch(row: str, sizes: Sizes) -> Iterator[Result]:
    import timm
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    model = timm.create_model("efficientnet_b0", num_classes=CLASSES)
    model = model.to(place, memory_format=torch.channels_last)
    model.train(row == "scratch")
    for module in model.modules() if row == "whole" else ():
        depthwise = isinstance(module, torch.nn.Conv2d) and module.groups > 1
        if depthwise or isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    what = f"timm in PyTorch {torch.__version__}, compiled"
    compiled = torch.compile(model) if place == "cuda" else model
    for batch in sizes.batches:
        x = torch.randint(0, 256, (batch, 3, sizes.side, sizes.side), device=place).byte()
        x = x.to(memory_format=torch.channels_last)
        y = torch.randint(0, CLASSES, (batch,), device=place)
        taken = torch_seconds(torch_step(compiled, x, y, row, place), place, sizes.steps)
        yield Result(row, what, batch, batch / taken, "images/s")


def torch_step(model: Any, x: Any, y: Any, row: str, place: str) -> Callable[[], None]:
    import torch

    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=place == "cuda")

    def logits() -> Any:
        with torch.autocast(place, torch.bfloat16):
            return model((x.float() - 127.0) / 58.0)

    def step() -> None:
        if row == "forward":
            with torch.inference_mode():
                logits()
            return
        torch.nn.functional.cross_entropy(logits().float(), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def torch_seconds(step: Callable[[], None], place: str, steps: int) -> float:
    """The median time of a step."""
    import torch

    wait = torch.cuda.synchronize if place == "cuda" else lambda: None
    for _ in range(3):
        step()
    taken = []
    for _ in range(REPEATS):
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        taken.append((time.perf_counter() - start) / steps)
    return statistics.median(taken)


ROWS: dict[str, Callable[[Sizes, Device], Iterator[Result]]] = {
    "depthwise": depthwise,
    "forward": forward,
    "whole": training("whole"),
    "upper": training("upper"),
    "scratch": training("scratch"),
}

if __name__ == "__main__":
    main()
