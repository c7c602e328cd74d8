"""Ablation for `--recipe quick`: how pictures are fitted to squares, and the kind of head.

Everything is evaluated by five-fold cross-validation on the training split, with several seeds; the
test split is not used.

    python benchmarks/choices.py [SOURCE ...] [--seeds 0 1]

SOURCE defaults to sample:digits and, if set, $EFFTUNE_CLOTHING.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Example, labels
from efftune.data.sources import discovery
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import Backbone
from efftune.model.engines import openvino_engine
from efftune.recipe.recipe import Recipe
from efftune.system import machine
from efftune.training import regression_head

RESULTS = Path(__file__).parent / "results" / "choices.csv"
FOLDS = 5

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Predictor = Callable[[Features], Features]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    clothing = os.environ.get("EFFTUNE_CLOTHING")
    parser.add_argument("sources", nargs="*", default=["sample:digits", *filter(None, [clothing])])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    print(f"{'source':12}{'choice':30}{'accuracy':>10}{'±':>8}{'loss':>8}{'head s':>8}")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["source", "choice", "accuracy", "sd_over_seeds", "loss", "head_seconds"])
        for source in arguments.sources:
            for choice, accuracies, loss, seconds in measure(source, arguments.seeds):
                mean, spread = np.mean(accuracies), np.std(accuracies)
                name = Path(source).name.removeprefix("sample:")
                print(
                    f"{name:12}{choice:30}{mean:10.4f}{spread:8.4f}{loss:8.4f}{seconds:8.2f}",
                    flush=True,
                )
                writer.writerow([name, choice, mean, spread, loss, seconds])


def measure(source: str, seeds: list[int]) -> Iterator[tuple[str, list[float], float, float]]:
    recipe = Recipe()
    examples = discovery.find(source).split(*recipe.data.shares, recipe.seed)
    rows, names = examples.of("train"), examples.class_names
    targets = labels(rows, names)

    for fit in ("stretch", "crop", "pad"):
        values = extract(rows, fit=fit)
        yield f"fit {fit}", *cross_validate(values, targets, seeds, regression)
    values = extract(rows, fit=recipe.backbone.fit)
    for name, train in (("Keras head, as the example", keras_head), ("regression", regression)):
        yield f"head {name}", *cross_validate(values, targets, seeds, train)


def extract(rows: tuple[Example, ...], **choices: object) -> Features:
    backbone = Backbone("efficientnet-lite0")
    settings = ExtractionSettings(precision=openvino_engine.fastest_precision(), **choices)
    return extraction.extract([row.path for row in rows], backbone, settings).pooled()


def cross_validate(
    values: Features,
    targets: Labels,
    seeds: list[int],
    train: Callable[[Features, Labels], Predictor],
) -> tuple[list[float], float, float]:
    accuracies, losses, seconds = [], [], []
    for seed in seeds:
        fold_of = np.empty_like(targets)
        order = np.random.default_rng(seed).permutation(len(targets))
        for label in np.unique(targets):
            members = order[targets[order] == label]
            fold_of[members] = np.arange(len(members)) % FOLDS
        probabilities = np.zeros((len(targets), targets.max() + 1), np.float32)
        for fold in range(FOLDS):
            training = fold_of != fold
            start = time.perf_counter()
            predictor = train(values[training], targets[training])
            seconds.append(time.perf_counter() - start)
            probabilities[~training] = predictor(values[~training])
        accuracies.append(float((probabilities.argmax(axis=1) == targets).mean()))
        likelihood = probabilities[np.arange(len(targets)), targets].clip(1e-7)
        losses.append(float(-np.log(likelihood).mean()))
    return accuracies, float(np.mean(losses)), float(np.mean(seconds))


def regression(values: Features, targets: Labels) -> Predictor:
    return regression_head.fit(values, targets, np.arange(len(targets)), Recipe()).probabilities


def keras_head(values: Features, targets: Labels) -> Predictor:
    """BatchNorm, dropout 0.2, dense softmax; Adam 1e-2, batches of 64, 25 epochs."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(int(targets.max()) + 1, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="sparse_categorical_crossentropy")
    model.fit(values, targets, batch_size=64, epochs=25, verbose=0)
    return lambda rows: model.predict(rows, verbose=0)


if __name__ == "__main__":
    main()
