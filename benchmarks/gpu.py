"""What efftune does on one GPU, beside PyTorch and Keras' own `fit`.

    python benchmarks/gpu.py [--rows job forward ...] [--photos FOLDER] [--seconds 470] [--small]
        [--ways kernels ...] [--batches 256 ...] [--peers torch ...] [--out CSV]
        [--profile FOLDER] [--torch-python OTHER/bin/python]

Needs JAX and what efftune needs but for TensorFlow, OpenVINO and pi-heif; for the peers, PyTorch
and timm. Rows, in the order in which they are measured:

- job: `efftune train --recipe balanced` on as many photos as Stanford Dogs has (`made_photos.py`,
  from those below --photos), from a cold process with an empty cache to the finished run folder.
- forward: from pictures to features: the program alone, and with pictures from the host's memory.
- whole: steps that train all blocks on pictures, BatchNorm and depthwise kernels frozen, views made
  on the device; beside Keras' `fit`, and timm's network in PyTorch, compiled, with the same layers
  frozen.
- upper: the same from block 5 on kept activations, which are read from disk.
- scratch: steps from random weights, BatchNorm trained; beside PyTorch.
- depthwise: every depthwise shape of B0, as cuDNN's grouped convolution, by our own kernels and as
  shifted multiply-adds: forward, input gradient, filter gradient.
- jobs: the job with `--recipe thorough`, and with the head and tune phases of `keras-example`.

The steps are those of efftune: a stage's trainer, on the data that a stage is given. A row that
fails says why, and the others go on; one for which no time is left is left out, and said so. Values
are medians of at least five measurements after a warm-up, on random data; jobs are single runs.
Beside each rate stand two bounds, from the bytes that convolutions read and write and from their
operations, at the rates at which this device copies and multiplies. `--small` takes tiny shapes, to
try the script on a CPU.
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too

RESULT = Path(__file__).parent / "results" / "gpu.csv"
REPEATS = 5
WAYS = {"kernels": "kernels", "shifts": "shifts", "cuDNN": "backend"}
PEERS = ("keras", "torch")
TORCH_SECONDS = 100  # for one row in PyTorch, most of it spent compiling
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
    pictures: int = 8192
    batches: tuple[int, ...] = (256, 512, 128, 1024)  # the most telling first
    steps: int = 12  # that peers run at a time
    depthwise: tuple[tuple[int, int, int, int], ...] = DEPTHWISE
    depthwise_batch: int = 256
    photos: tuple[int, int] = (12_000, 8_580)  # for training and the test
    classes: int = 120


SMALL = Sizes(32, 32, (8,), 2, ((14, 8, 3, 1), (14, 8, 5, 2)), 4, (24, 12), 3)


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


@dataclass(frozen=True)
class Context:
    """What every row is given."""

    sizes: Sizes
    device: Device
    options: argparse.Namespace
    end: float

    def has_time(self, what: str) -> bool:
        """Whether to begin what is named; says so if not."""
        if time.perf_counter() < self.end:
            return True
        print(f"{what}: left out, no time is left", flush=True)
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--photos", type=Path, help="real photos to make more of")
    parser.add_argument("--batches", nargs="+", type=int, help="sizes of batches")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="for depthwise")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--seconds", type=float, default=470, help="after which no row begins")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--profile", type=Path, help="where to write the kernels of each stage")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--in-torch", choices=("whole", "scratch", "forward"))
    options = parser.parse_args()
    sizes = SMALL if options.small else Sizes()
    if options.batches:
        sizes = replace(sizes, batches=tuple(options.batches))
    if options.in_torch:
        for result in in_torch(options.in_torch, sizes):
            print(json.dumps(astuple(result)), flush=True)
        return
    began = time.perf_counter()
    print("\n".join(described()), flush=True)
    context = Context(sizes, rates(sizes), options, began + options.seconds)
    results = []
    for row in options.rows:
        start = time.perf_counter()
        try:
            for result in ROWS[row](context):
                results.append(result)
                print(line(result), flush=True)
        except Exception:  # noqa: BLE001  (the other rows go on)
            print(f"{row} failed:\n{traceback.format_exc()}", flush=True)
        print(f"[{row}: {time.perf_counter() - start:.0f} s]", flush=True)
        write(options.out, results)
    print("\n" + "\n".join([*described(), *map(line, results)]))


def write(path: Path, results: list[Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(Result)])
        writer.writerows(astuple(result) for result in results)


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


def depthwise(context: Context) -> Iterator[Result]:
    from efftune.model import jax_convolution
    from efftune.model.folded_layers import shifted

    sizes, device = context.sizes, context.device
    ways = {
        "cuDNN": grouped,
        "kernels": partial(jax_convolution.depthwise, padding="same"),
        "shifts": partial(shifted, padding="same"),
    }
    for shape in sizes.depthwise:
        side, channels, kernel, stride = shape
        if not context.has_time(f"depthwise {shape}"):
            return
        x = random((sizes.depthwise_batch, side, side, channels))
        weights = random((kernel, kernel, channels), seed=1)
        down = -(-side // stride)
        gradient = random((sizes.depthwise_batch, down, down, channels), seed=2)
        bound = 1e6 * (x.nbytes + gradient.nbytes) / device.bytes_per_second
        outputs = {}
        for name, way in ways.items():
            for part, call in passes(way, stride, (x, weights, gradient)).items():
                outputs[part, name] = call()
                what = f"{side}², {channels} channels, {kernel}×{kernel}/{stride}, {part}, {name}"
                taken = 1e6 * seconds(call)
                yield Result("depthwise", what, sizes.depthwise_batch, taken, "µs", bound)
        for name in ("kernels", "shifts"):
            require_same(outputs["forward", "cuDNN"], outputs["forward", name], shape)


def passes(way: Callable[..., Any], stride: int, arrays: Any) -> dict[str, Callable[[], Any]]:
    """Calls that compute a convolution and its gradients, each compiled by itself."""
    import jax

    x, weights, gradient = arrays

    def pulled(x: Any, weights: Any, gradient: Any, i: int) -> Any:
        return jax.vjp(lambda *both: way(*both, stride=stride), x, weights)[1](gradient)[i]

    forward = jax.jit(lambda x, weights: way(x, weights, stride=stride))
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


def job(recipes: dict[str, list[str]]) -> Callable[[Context], Iterator[Result]]:
    def row(context: Context) -> Iterator[Result]:
        for recipe, choices in recipes.items():
            if context.has_time(f"job {recipe}"):
                yield train(context, recipe, choices)

    return row


def train(context: Context, recipe: str, choices: list[str]) -> Result:
    """The command, from its start to its end; what it prints stands in the output."""
    small = ["--image-size", "32", "--batch-size", "8", "--epochs", "1"]
    place = Path(tempfile.mkdtemp())
    source = photos(context.options.photos, context.sizes)
    command = [
        *(sys.executable, "-m", "efftune", "train", source, "--quiet", "--json"),
        *("--run", place / "run", "--recipe", recipe, *choices),
        *(small if context.options.small else []),
    ]
    environment = os.environ | {"EFFTUNE_CACHE": str(place / "cache")}
    for name in ("KERAS_BACKEND", "XLA_PYTHON_CLIENT_PREALLOCATE"):  # as users have it
        environment.pop(name, None)
    start = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=max(60, context.end - start + 60),  # so that what was measured is not lost
    )
    taken = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    record = json.loads((place / "run" / "run.json").read_text())
    print(done.stdout.strip(), json.dumps(record["seconds"]), record["machine"], flush=True)
    used = sum(record["data"]["pictures"].values())
    return Result("job", f"{recipe} {' '.join(choices)}".strip(), used, taken, "s")


@cache
def photos(source: Path | None, sizes: Sizes) -> Path:
    """As many photos as the public example has."""
    folder, start = Path(tempfile.mkdtemp()) / "photos", time.perf_counter()
    script = Path(__file__).with_name("made_photos.py")
    numbers = [*map(str, sizes.photos), "--classes", str(sizes.classes)]
    given = ["--from", str(source)] if source else []
    command = [sys.executable, str(script), str(folder), "--count", *numbers, *given]
    subprocess.run(command, check=True)
    print(f"made {sum(sizes.photos):,} photos in {time.perf_counter() - start:.0f} s", flush=True)
    return folder


def training(stage: str) -> Callable[[Context], Iterator[Result]]:
    def row(context: Context) -> Iterator[Result]:
        sizes = context.sizes
        trainer_of = trainers(context, stage)
        for number, batch in enumerate(sizes.batches):
            for way in context.options.ways if number == 0 else context.options.ways[:1]:
                if not context.has_time(f"{stage}, {way}, batch of {batch}"):
                    continue
                try:
                    with depthwise_by(way):
                        trainer, bounds = trainer_of(batch)
                        rate = steps_per_second(trainer, sizes.pictures, batch) * batch
                        if context.options.profile and number == 0:
                            name = context.options.profile / f"{stage}-{way}.csv"
                            profile(trainer, name, sizes.pictures, batch)
                except Exception as error:  # noqa: BLE001  (the others go on)
                    print(f"{stage}, {way}, batch of {batch} failed: {error}"[:1000], flush=True)
                    continue
                finally:
                    trainer = None  # and its memory, which peers need
                yield Result(stage, f"steps, depthwise by {way}", batch, rate, "images/s", *bounds)
            if number == min(1, len(sizes.batches) - 1):  # before large batches fill the memory
                yield from others(context, stage)

    return row


def others(context: Context, stage: str) -> Iterator[Result]:
    """The same by others."""
    wanted = context.options.peers
    if "keras" in wanted and stage == "whole" and context.has_time("Keras' fit"):
        yield keras_fit(context.sizes)
    if "torch" in wanted and stage != "upper" and context.has_time(f"{stage} in PyTorch"):
        yield from peers(stage, context.options)


def trainers(context: Context, name: str) -> Callable[[int], tuple[Any, tuple[float, float]]]:
    """A function from batch sizes to a stage's trainer, and bounds of its images per second."""
    import numpy as np

    from efftune.model.backbone import Backbone
    from efftune.recipe.recipe import Recipe, Stage
    from efftune.training.batches import LabelledInputs, StageData
    from efftune.training.network import Network
    from efftune.training.trainer import trainer_for

    sizes = context.sizes
    backbone = Backbone("efficientnet-b0", sizes.side, weights="none", device="gpu")
    backbone = backbone.randomly_initialized(0)
    block = "block5a" if name == "upper" else "pixels"
    inputs = kept(backbone, block, sizes) if name == "upper" else decoded(sizes)
    labels = np.arange(sizes.pictures) % sizes.classes
    data = LabelledInputs(inputs, labels)
    random = np.random.default_rng(0)
    head = random.normal(0, 0.01, (backbone.entry.features, sizes.classes)).astype(np.float32)

    def made(batch: int) -> tuple[Any, tuple[float, float]]:
        recipe = Recipe(batch_size=batch, flip="yes", augment="standard")
        stage = Stage(name, block, REPEATS + 2, 1e-4)
        bias = np.zeros(sizes.classes, np.float32)
        network = Network(backbone, (head, bias), stage, recipe)
        weights = np.ones(sizes.pictures, np.float32)
        stage_data = StageData(data, weights, data, stage.epochs, batch, batch)
        trainer = trainer_for(network.training_model, network.inference_model, stage_data)
        part = backbone.keras_model if block == "pixels" else backbone.cut(block)[1]
        return trainer, step_bounds(part, context.device, trained=True)

    return made


def decoded(sizes: Sizes) -> Any:
    """Pictures in the host's memory, augmented in each epoch."""
    import numpy as np

    from efftune.recipe.recipe import Recipe
    from efftune.training.batches import DecodedImages

    shape = (sizes.pictures, sizes.side, sizes.side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    digests = [i.to_bytes(32, "little") for i in range(sizes.pictures)]
    return DecodedImages(pixels, digests, Recipe(flip="yes", augment="standard", views=0))


def kept(backbone: Any, block: str, sizes: Sizes) -> Any:
    """Activations of two views at a block's input, on disk."""
    import numpy as np

    from efftune.features.cache import CachedRows, FeatureCache
    from efftune.training.batches import CachedViews

    digests = [i.to_bytes(32, "little") for i in range(sizes.pictures)]
    random, views = np.random.default_rng(0), []
    for _ in range(2):
        store = FeatureCache(Path(tempfile.mkdtemp()), "float16", backbone.shape(block))
        for start in range(0, len(digests), 1024):
            part = digests[start : start + 1024]
            values = random.random((len(part), *store.shape), np.float32)
            store.add(part, values.astype(np.float16))
        views.append(CachedRows(store, digests))
    return CachedViews(views, seed=0)


def steps_per_second(trainer: Any, pictures: int, batch: int) -> float:
    """Steps of whole epochs, with all that belongs to them; the first two are for warming up."""
    import numpy as np

    random, taken = np.random.default_rng(0), []
    steps = pictures // batch
    for epoch in range(1, REPEATS + 3):
        order = random.permutation(pictures)[: steps * batch].reshape(steps, batch)
        start = time.perf_counter()
        outcomes = list(trainer.train(epoch, order))
        taken.append(time.perf_counter() - start)
        if not all(math.isfinite(loss) for loss, _ in outcomes):
            raise ValueError("the loss is not finite")
    return steps / statistics.median(taken[2:])


def profile(trainer: Any, path: Path, pictures: int, batch: int) -> None:
    """Write the kernels of an epoch, with the microseconds and the calls of each in a step."""
    import jax
    import numpy as np

    steps = pictures // batch
    folder = Path(tempfile.mkdtemp())
    order = np.arange(steps * batch).reshape(steps, batch)
    with jax.profiler.trace(folder):
        list(trainer.train(1, order))
    found: dict[tuple[str, str, str], list[float]] = {}
    data = jax.profiler.ProfileData.from_file(str(next(folder.rglob("*.xplane.pb"))))
    planes = list(data.planes)
    on_device = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in on_device or planes:
        for row in plane.lines:
            for event in row.events:
                kernel = dict(event.stats).get("hlo_op", "")
                names = (row.name, event.name, str(kernel))
                found.setdefault(names, []).append(event.duration_ns / 1e3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["line", "kernel", "operation", "microseconds", "calls"])
        for names, taken in sorted(found.items(), key=lambda each: -sum(each[1])):
            writer.writerow([*names, f"{sum(taken) / steps:.1f}", f"{len(taken) / steps:.2f}"])


@contextmanager
def depthwise_by(way: str) -> Iterator[None]:
    """Let networks built inside compute depthwise convolutions in one of both ways."""
    from efftune.model import folding

    original = folding.arithmetic
    folding.arithmetic = lambda *choices: replace(original(*choices), depthwise=WAYS[way])
    try:
        yield
    finally:
        folding.arithmetic = original


def keras_fit(sizes: Sizes) -> Result:
    import keras
    import numpy as np

    from efftune.model import architectures

    batch = sizes.batches[0]
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        backbone = architectures.backbone("efficientnet-b0", sizes.side)
        for layer in backbone.layers:
            frozen = keras.layers.BatchNormalization | keras.layers.DepthwiseConv2D
            layer.trainable = not isinstance(layer, frozen)
        logits = keras.layers.Dense(sizes.classes, dtype="float32", name="logits")(backbone.output)
        model = keras.Model(backbone.input, logits)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    count = sizes.steps * batch
    shape = (count, sizes.side, sizes.side, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.arange(count) % sizes.classes
    model.fit(pictures, labels, batch, verbose=0)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model.fit(pictures, labels, batch, verbose=0)
        taken.append(time.perf_counter() - start)
    rate = count / statistics.median(taken)
    return Result("whole", "Keras' fit on JAX", batch, rate, "images/s")


def forward(context: Context) -> Iterator[Result]:
    import jax
    import numpy as np

    from efftune.model.backbone import FEATURES, Backbone

    sizes = context.sizes
    backbone = Backbone("efficientnet-b0", sizes.side, weights="none", device="gpu")
    bounds = step_bounds(backbone.keras_model, context.device, trained=False)
    shape = (sizes.pictures, sizes.side, sizes.side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for way in context.options.ways:
        for precision in ("bf16", "f32"):
            what = f"{precision}, depthwise by {way}"
            if not context.has_time(f"forward, {what}"):
                continue
            with depthwise_by(way):
                build = partial(backbone._part, (FEATURES,))
                network = backbone.engine.network(build, size=sizes.side, precision=precision)
                batch = network.batch_sizes[-1]
                program, weights = network._program(batch)
            pictures = jax.device_put(np.resize(pixels, (batch, *shape[1:])))
            call = partial(program, weights, pictures)
            rate = 10 * batch / seconds(lambda call=call: [call() for _ in range(10)])
            yield Result("forward", f"program, {what}", batch, rate, "images/s", *bounds)
            if way == context.options.ways[0]:
                start = time.perf_counter()
                network.run(range(len(pixels)), lambda i: pixels[i][None], lambda *_: None)
                rate = len(pixels) / (time.perf_counter() - start)
                yield Result("forward", f"from host memory, {what}", batch, rate, "images/s")
    if "torch" in context.options.peers and context.has_time("forward in PyTorch"):
        yield from peers("forward", context.options)


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
    if problem:
        print(f"{row} in PyTorch: {problem}", flush=True)
    return [Result(*json.loads(each)) for each in output.splitlines() if each.startswith("[")]


def in_torch(row: str, sizes: Sizes) -> Iterator[Result]:
    import timm
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    model = timm.create_model("efficientnet_b0", num_classes=sizes.classes)
    model = model.to(place, memory_format=torch.channels_last)
    model.train(row == "scratch")
    for module in model.modules() if row == "whole" else ():
        depthwise = isinstance(module, torch.nn.Conv2d) and module.groups > 1
        if depthwise or isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    what = f"timm in PyTorch {torch.__version__}, compiled"
    compiled = torch.compile(model) if place == "cuda" else model
    for batch in sizes.batches[:2]:  # each is compiled anew
        x = torch.randint(0, 256, (batch, 3, sizes.side, sizes.side), device=place).byte()
        x = x.to(memory_format=torch.channels_last)
        y = torch.randint(0, sizes.classes, (batch,), device=place)
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


EXAMPLE = ["--phases", "head,tune"]
ROWS: dict[str, Callable[[Context], Iterator[Result]]] = {
    "job": job({"balanced": []}),
    "forward": forward,
    "whole": training("whole"),
    "upper": training("upper"),
    "scratch": training("scratch"),
    "depthwise": depthwise,
    "jobs": job({"thorough": [], "keras-example": EXAMPLE}),
}

if __name__ == "__main__":
    main()
