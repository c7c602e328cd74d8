"""The choices behind `--recipe quick`, measured: fit and head.

Everything is judged by five-fold cross-validation on the training split alone, with several seeds;
test pictures are never looked at.

    python benchmarks/choices.py [SOURCE ...] [--seeds 0 1]

SOURCE defaults to sample:digits and, where set, $EFFTUNE_CLOTHING.
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

CachedRows = NDArray[np.float32]
Labels = NDArray[np.int64]
Fitted = Callable[[CachedRows], CachedRows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    clothing = os.environ.get("EFFTUNE_CLOTHING")
    parser.add_argument("sources", nargs="*", default=["sample:digits", *filter(None, [clothing])])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    print(f"{'source':12}{'choice':30}{'accuracy':>10}{'±':>8}{'loss':>8}{'head s':>8}")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["source", "choice", "accuracy", "sd_over_seeds", "loss", "head_seconds"])
        for source in asked.sources:
            for choice, accuracies, loss, seconds in measured(source, asked.seeds):
                mean, spread = np.mean(accuracies), np.std(accuracies)
                name = Path(source).name.removeprefix("sample:")
                print(
                    f"{name:12}{choice:30}{mean:10.4f}{spread:8.4f}{loss:8.4f}{seconds:8.2f}",
                    flush=True,
                )
                writer.writerow([name, choice, mean, spread, loss, seconds])


def measured(source: str, seeds: list[int]) -> Iterator[tuple[str, list[float], float, float]]:
    recipe = Recipe()
    examples = discovery.find(source).split(
        recipe.data.val_fraction, recipe.data.test_fraction, recipe.seed
    )
    rows, names = examples.of("train"), examples.class_names
    truth = labels(rows, names)

    for fit in ("stretch", "crop", "pad"):
        values = extracted(rows, fit=fit)
        yield f"fit {fit}", *judged(values, truth, seeds, regression)
    values = extracted(rows, fit=recipe.backbone.fit)
    for name, train in (("Keras head, as the example", keras_head), ("regression", regression)):
        yield f"head {name}", *judged(values, truth, seeds, train)


def extracted(rows: tuple[Example, ...], **choices: object) -> CachedRows:
    backbone = Backbone("efficientnet-lite0")
    settings = ExtractionSettings(precision=openvino_engine.fastest_precision(), **choices)
    return extraction.extract([row.path for row in rows], backbone, settings).pooled()


def judged(
    values: CachedRows,
    truth: Labels,
    seeds: list[int],
    train: Callable[[CachedRows, Labels], Fitted],
) -> tuple[list[float], float, float]:
    accuracies, losses, seconds = [], [], []
    for seed in seeds:
        fold_of = np.empty_like(truth)
        order = np.random.default_rng(seed).permutation(len(truth))
        for label in np.unique(truth):
            members = order[truth[order] == label]
            fold_of[members] = np.arange(len(members)) % FOLDS
        probabilities = np.zeros((len(truth), truth.max() + 1), np.float32)
        for fold in range(FOLDS):
            inside = fold_of != fold
            start = time.perf_counter()
            fitted = train(values[inside], truth[inside])
            seconds.append(time.perf_counter() - start)
            probabilities[~inside] = fitted(values[~inside])
        accuracies.append(float((probabilities.argmax(axis=1) == truth).mean()))
        likelihood = probabilities[np.arange(len(truth)), truth].clip(1e-7)
        losses.append(float(-np.log(likelihood).mean()))
    return accuracies, float(np.mean(losses)), float(np.mean(seconds))


def regression(values: CachedRows, truth: Labels) -> Fitted:
    return regression_head.fit(values, truth, np.arange(len(truth)), Recipe()).probabilities


def keras_head(values: CachedRows, truth: Labels) -> Fitted:
    """BatchNorm, dropout 0.2, dense softmax; Adam 1e-2, batches of 64, 25 epochs."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(int(truth.max()) + 1, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="sparse_categorical_crossentropy")
    model.fit(values, truth, batch_size=64, epochs=25, verbose=0)
    return lambda rows: model.predict(rows, verbose=0)


if __name__ == "__main__":
    main()
