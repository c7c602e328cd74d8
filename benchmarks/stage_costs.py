"""Milliseconds per photo for each step of training, and the utilisation of the CPU.

Measures decoding, an augmented view, the frozen part up to each block, and a training step from
each block up, including the input pipeline. The peak is a large matrix product by the same library,
in float32 and in bfloat16; utilisation counts only the multiplications that the step requires.

    make bench NAME=stage_costs
"""

import argparse
import csv
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from efftune.data import augmentation, images
from efftune.data.sources import discovery
from efftune.features.cache import CachedRows, FeatureCache
from efftune.model.backbone import FEATURES, Backbone
from efftune.model.engines.openvino_engine import fastest_precision
from efftune.recipe.recipe import Recipe, Stage
from efftune.system import machine
from efftune.training.batches import CachedViews, DecodedImages, LabelledInputs
from efftune.training.network import Network

ROOT = Path(__file__).parents[1]
CLOTHING = os.environ.get("EFFTUNE_CLOTHING", str(ROOT.parent / "shared/data/clothing"))
RESULTS = ROOT / "benchmarks/results/stage_costs.csv"
BLOCKS = ("block7", "block6", "block5", "block4", "block3")
PHOTOS, STEPS, CLASSES = 512, 12, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    batch = parser.parse_args().batch
    print(f"{machine.machine()}\n{machine.versions()}\n")
    fast = "bfloat16" if fastest_precision() == "bf16" else "float32"
    peaks = {dtype: peak(dtype) for dtype in ("float32", "bfloat16")}
    rows = [row.path for row in discovery.find(CLOTHING).rows if row.usable]
    paths = rows[:: max(1, len(rows) // PHOTOS)][:PHOTOS]
    backbone = Backbone("efficientnet-lite0")

    start = time.perf_counter()
    pixels = images.decode_all(paths, backbone.image_size, "crop")
    table = [("decode, two threads", 1e3 * (time.perf_counter() - start) / len(paths), 0.0)]
    table.append(("augmented view, one thread", view_ms(pixels), 0.0))
    for block in (*BLOCKS[::-1], FEATURES):
        output = block if block == FEATURES else backbone.block(block)
        work = sum(costs(backbone, None, output).values())
        table.append((f"frozen part to {block}", frozen_ms(backbone, output, pixels), 2e-9 * work))
    for block in (*BLOCKS, "pixels"):
        ms, trace_seconds = step_ms(backbone, block, batch, pixels)
        name = "everything" if block == "pixels" else f"from {block}"
        work = trained_work(backbone, block)
        table.append((f"training step, {name} (traced in {trace_seconds:.1f} s)", ms, 2e-9 * work))

    print(f"peak: {peaks['float32']:.0f} GFLOPS in float32, {peaks['bfloat16']:.0f} in bfloat16\n")
    print(f"| | ms per photo | GFLOP | share of the {fast} peak |\n|---|--:|--:|--:|")
    for name, ms, gflop in table:
        share = f"{gflop / (1e-3 * ms) / peaks[fast]:.0%}" if gflop else ""
        print(f"| {name} | {ms:.2f} | {f'{gflop:.2f}' if gflop else ''} | {share} |")
    with RESULTS.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([("what", "ms_a_photo", "gflop"), *table])


def peak(dtype: str) -> float:
    """GFLOPS of a product of two matrices of 4,096 rows and columns."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.normal((4096, 4096)), dtype)
    product = tf.function(lambda x: tf.reduce_max(x @ x))
    return 2 * 4096**3 / median(lambda: product(matrix).numpy(), 5) / 1e9


def median(run: Callable[[], object], times: int) -> float:
    """Median seconds per call, after one warm-up call."""
    run()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def view_ms(pixels: images.Pixels) -> float:
    plans = [augmentation.plan(0, digest(i), 1, "standard", "yes") for i in range(len(pixels))]

    def run() -> None:
        for picture, plan in zip(pixels, plans, strict=True):
            augmentation.apply(picture, plan)

    return 1e3 * median(run, 3) / len(pixels)


def frozen_ms(backbone: Backbone, output: str, pixels: images.Pixels) -> float:
    dtypes = ["float32" if output == FEATURES else "float16"]
    network = backbone.pretrained([output], precision=fastest_precision(), dtypes=dtypes)

    def run() -> None:
        network.run(range(len(pixels)), lambda i: pixels[i][None], lambda _i, _n, _out: None)

    return 1e3 * median(run, 3) / len(pixels)


def step_ms(
    backbone: Backbone, block: str, batch: int, pixels: images.Pixels
) -> tuple[float, float]:
    """Milliseconds per photo of a training step with its input pipeline; seconds to trace it."""
    recipe = Recipe(flip="yes", views=0)
    digests = [digest(i) for i in range(len(pixels))]
    if block == "pixels":
        inputs: CachedViews | DecodedImages = DecodedImages(pixels, digests, recipe)
    else:
        store = FeatureCache(
            Path(tempfile.mkdtemp()), "float16", backbone.shape(backbone.block(block))
        )
        values = np.random.default_rng(0).normal(0, 1, (len(digests), *store.shape))
        store.add(digests, values.astype(np.float16))
        inputs = CachedViews([CachedRows(store, digests)], seed=0)
    data = LabelledInputs(inputs, np.arange(len(digests)) % CLASSES)
    head = (np.zeros((1280, CLASSES), np.float32), np.zeros(CLASSES, np.float32))
    start = time.perf_counter()
    network = Network(backbone, head, Stage("upper", block, 1, 1e-9), recipe)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(batch) % CLASSES]
    weights = np.ones(batch, np.float32)
    random = np.random.default_rng(0)

    def run() -> None:
        pictures = random.integers(0, len(digests), batch)
        network.training_model.train_on_batch(data.batch(pictures, 1), targets, weights)

    run()
    trace_seconds = time.perf_counter() - start
    return 1e3 * median(run, STEPS) / batch, trace_seconds


def costs(backbone: Backbone, first: str | None, last: str = FEATURES) -> dict[str, int]:
    """Multiplications of each convolution from block `first` up, or below block `last`."""
    part = backbone.keras_model
    if first not in (None, "pixels"):
        part = backbone.cut(backbone.block(first))[1]
    elif last != FEATURES:
        part = backbone.cut(last)[0]
    multiplications = {}
    for layer in part.layers:
        if "conv" in layer.name:
            kernel, output = layer.get_weights()[0], layer.output.shape
            depthwise = layer.name.endswith("dwconv")
            each = kernel.size if depthwise else kernel.size // kernel.shape[-1] * output[-1]
            multiplications[layer.name] = int(output[1] * output[2] * each)
    return multiplications


def trained_work(backbone: Backbone, block: str) -> int:
    """Multiplications of a step: forward, input gradients and kernel gradients."""
    multiplications = costs(backbone, block)
    depthwise = sum(work for name, work in multiplications.items() if name.endswith("dwconv"))
    first = next(iter(multiplications.values()))
    return 3 * sum(multiplications.values()) - depthwise - first


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


if __name__ == "__main__":
    main()
