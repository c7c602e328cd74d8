"""Ways to fine-tune that efftune does not have, against `balanced`.

- `norms`: of the blocks from `--unfreeze` up, only BatchNorm's scales and shifts are trained, with
  its frozen means and variances, and the head, at three times the learning rate (FiLM as in
  Shysheya et al., 2022, https://arxiv.org/abs/2206.08671; there in all blocks);
- `sizes`: half of the epochs with pictures of 160 pixels, then half with those of 224, from the
  weights found so far (progressive resizing).

With a number of pictures a class (`--counts`), so many are drawn from each folder, and some others
judge the head alone and the network after its last epoch: they choose nothing. With 0, all are
taken, and the test split judges. Every training has an empty cache. Columns of the CSV: set,
pictures a class, draw, way, accuracy of the head alone, accuracy, seconds.

    python benchmarks/tuning_variants.py FOLDER… --ways WAY… [--counts 10,40] [--draws 3]
"""

import csv
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import keras
import numpy as np

import efftune
import few_photos
from efftune.model.tensors import set_weights
from efftune.training import network, stages
from few_photos import MODEL, drawn

COLUMNS = ("set", "count", "draw", "way", "head", "accuracy", "seconds")
WAYS = ("balanced", "norms", "sizes")
RATE = 3e-3  # for `norms`: not worse than 1e-2 on two sets
SMALL = 160  # pixels
OTHERS = 300  # that judge


@contextmanager
def norms_trained() -> Iterator[None]:
    """Train BatchNorm's scales and shifts alone: folded layers compute with them."""
    usual = network._freeze

    def freeze(backbone, stage, recipe):
        usual(backbone, stage, recipe)
        for layer in backbone.keras_model.layers:
            layer.trainable = isinstance(layer, keras.layers.BatchNormalization)

    with mock.patch.object(network, "_freeze", freeze):
        yield


@contextmanager
def half_of_the_epochs(seen: list, *, begin: object = None) -> Iterator[None]:
    """Train half of a stage's epochs, from other weights if given; note the network."""
    usual = stages.fit

    def fit(given, stage, *rest):
        if begin is not None:
            set_weights(given.backbone.keras_model, begin.backbone.keras_model.get_weights())
            given = replace(given, kernel=begin.kernel, bias=begin.bias)
        found = usual(given, replace(stage, epochs=max(1, round(stage.epochs / 2))), *rest)
        seen.append(found[0])
        return found

    with mock.patch.object(stages, "fit", fit):
        yield


def trained(way: str, train) -> tuple:
    """The run, and the seconds of all runs that it took."""
    if way == "sizes":
        seen = []
        with half_of_the_epochs(seen):
            first = train(image_size=SMALL, run_name="small")
        with half_of_the_epochs(seen, begin=seen[0]):
            run = train()
        return run, first.summary["seconds"] + run.summary["seconds"]
    with norms_trained() if way == "norms" else nullcontext():
        run = train(**({"learning_rate": RATE} if way == "norms" else {}))
    return run, run.summary["seconds"]


def source_of(folder: Path, count: int, draw: int, place: Path) -> Path:
    """A table: what is drawn is trained on, some others judge, one of each class is the test."""
    chosen, others = drawn(folder, count, draw)
    tests = {name: (path, name) for path, name in others}.values()
    rest = [each for each in others if each not in tests]
    order = np.random.default_rng(0).permutation(len(rest))[:OTHERS]
    table = place / "drawn.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        writer.writerows((*each, "train") for each in chosen)
        writer.writerows((*rest[i], "val") for i in order)
        writer.writerows((*each, "test") for each in tests)
    return table


def measure(folder: Path, count: int, draw: int, way: str, place: Path) -> dict:
    """Train in one way, and judge."""
    source = source_of(folder, count, draw, place) if count else folder
    settings = {"model": MODEL, "recipe": "balanced", "on_progress": None}
    settings |= {} if count else {"test": 0.15}

    def train(run_name="run", **choices):
        return efftune.train(source, run=place / run_name, seed=draw, **(settings | choices))

    os.environ["EFFTUNE_CACHE"] = str(place / "cache")
    run, seconds = trained(way, train)
    with (run.folder / "history.csv").open(newline="") as stream:
        first, *_, last = [float(row["val_accuracy"]) for row in csv.DictReader(stream)]
    accuracy = last if count else run.evaluation.test.accuracy
    row = (folder.name, count, draw, way, first, accuracy, seconds)
    return dict(zip(COLUMNS, row, strict=True))


def summary(rows: list[dict]) -> None:
    """Print means over draws, and differences to `balanced`."""
    groups = defaultdict(list)
    for row in rows:
        groups[int(row["count"]), row["way"], row["set"]].append(row)
    gains = defaultdict(list)
    for (count, way, name), part in sorted(groups.items()):
        values = [float(row["accuracy"]) for row in part]
        first = {r["draw"]: float(r["accuracy"]) for r in groups[count, "balanced", name]}
        gain = [float(r["accuracy"]) - first[r["draw"]] for r in part if r["draw"] in first]
        gains[count, way] += [statistics.mean(gain)] if gain else []
        head, seconds = (
            statistics.mean(float(row[each]) for row in part) for each in ("head", "seconds")
        )
        print(
            f"{count:3} {way:10} {name:12} {statistics.mean(values):.3f}"
            f" ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}  head {head:.3f}"
            f"  {seconds:5.0f} s"
        )
    for (count, way), each in gains.items():
        error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else 0.0
        print(f"{count:3} {way:10} {100 * statistics.mean(each):+.1f} ± {100 * error:.1f} points")


def main() -> None:
    """Measure what the file does not hold yet, and print a summary."""
    defaults = {"counts": "10,40", "draws": 3, "out": Path("tuning_variants.csv")}
    arguments = few_photos.parser(__doc__, WAYS, **defaults).parse_args()
    summary(few_photos.rows_of(arguments, COLUMNS, measure))


if __name__ == "__main__":
    main()
