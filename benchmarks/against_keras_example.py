"""efftune against the public Keras example on the same folder: accuracy against seconds.

The example is "Image classification via fine-tuning with EfficientNet": tf.data, its own four
augmentation layers, batches of 64; a frozen backbone under a head of BatchNorm, dropout and a dense
layer, Adam at 1e-2, 25 epochs; then the last 20 layers without BatchNorm, Adam at 1e-5, 4 epochs.
All runs use EfficientNet-Lite0 with the same ImageNet weights. Whole processes are timed, from a
cold start with an empty cache. `--recipes keras-example` is efftune's version of the same training
(`--phases head,tune`); the best validation accuracy of the frozen epochs is also printed for both.
`--scratch-epochs 3` adds the first section of the example on both sides: training from random
weights, for that many of its 40 epochs.

`--short` runs 3 + 1 epochs of the example and extrapolates its time to all of them; its accuracy is
that of the short run.

    make bench NAME=against_keras_example
    python benchmarks/against_keras_example.py [FOLDER] [--short] [--seeds 0 1 2] [--recipes quick]

FOLDER must contain train, validation and test folders. It defaults to $EFFTUNE_CLOTHING.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from efftune.system import machine

RESULTS = Path(__file__).parent / "results"
EPOCHS, SHORT_EPOCHS = (25, 4), (3, 1)
KEYS = ("scratch", "head", "val", "test")
Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=["quick", "balanced", "thorough"])
    parser.add_argument("--scratch-epochs", type=int, default=0)
    parser.add_argument("--example-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.folder:
        parser.error("give a folder, or set EFFTUNE_CLOTHING")
    epochs = (arguments.scratch_epochs, *(SHORT_EPOCHS if arguments.short else EPOCHS))
    if arguments.example_only:
        example(Path(arguments.folder), epochs)
        return
    sides = {
        f"efftune {recipe}": [run_efftune(arguments, recipe, seed) for seed in arguments.seeds]
        for recipe in arguments.recipes
    }
    curve = run_example()
    report(sides, extrapolated(curve) if arguments.short else curve, arguments)


def run_efftune(arguments: argparse.Namespace, recipe: str, seed: int) -> Row:
    with tempfile.TemporaryDirectory() as place:
        environment = os.environ | {"EFFTUNE_CACHE": f"{place}/cache"}
        options = ["--recipe", recipe, "--seed", str(seed), "--run", f"{place}/run"]
        if recipe == "keras-example" and arguments.scratch_epochs:
            options += ["--set", f"scratch_epochs={arguments.scratch_epochs}"]
        elif recipe == "keras-example":
            options += ["--phases", "head,tune"]
        command = [sys.executable, "-m", "efftune", "train", arguments.folder, *options]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--json", "--quiet"], env=environment, capture_output=True, check=True
        )
        seconds = time.perf_counter() - start
        with Path(place, "run", "history.csv").open(encoding="utf-8", newline="") as stream:
            epochs = list(csv.DictReader(stream))
    summary = json.loads(done.stdout)
    row = {"seconds": seconds}
    row |= {split: summary[split]["accuracy"] for split in ("val", "test")}
    row |= best_by_stage((each["stage"], float(each["val_accuracy"])) for each in epochs)
    print(f"efftune {recipe}, seed {seed}: {row}", flush=True)
    return row


def best_by_stage(epochs: Iterable[tuple[str, float]]) -> Row:
    """The best validation accuracy by stage, for the stages that both sides have."""
    best: Row = {}
    for stage, accuracy in epochs:
        if stage in ("scratch", "head"):
            best[stage] = max(accuracy, best.get(stage, 0.0))
    return best


def run_example() -> list[dict]:
    """Stage, elapsed seconds, validation and test accuracy after each epoch of the example."""
    command = [sys.executable, __file__, *sys.argv[1:], "--example-only"]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    start = time.perf_counter()
    curve = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                # The example itself does not evaluate on the test split; do not count that time.
                row = json.loads(line)
                row["seconds"] = time.perf_counter() - start - row.pop("extra")
                curve.append(row)
                print(f"Keras example: {row}", flush=True)
    if process.returncode:
        sys.exit("the example failed")
    return curve


def extrapolated(curve: list[dict]) -> list[dict]:
    """Append a row to a short run's curve, with its time extrapolated to all epochs."""
    seconds = [row["seconds"] for row in curve]
    frozen, fine_tuned = SHORT_EPOCHS
    first, last = len(seconds) - frozen - fine_tuned, len(seconds) - fine_tuned - 1  # frozen epochs
    per_frozen = (seconds[last] - seconds[first]) / (frozen - 1)
    per_fine_tuned = (seconds[-1] - seconds[last]) / fine_tuned
    total = seconds[first] + (EPOCHS[0] - 1) * per_frozen + EPOCHS[1] * per_fine_tuned
    return [*curve, curve[-1] | {"seconds": total}]


def example(folder: Path, epochs: tuple[int, int, int]) -> None:
    """The example's sections on training and transfer learning, with Lite0 in place of B0.

    Args:
        folder: with train, validation and test folders.
        epochs: from scratch, of the head alone, and of fine-tuning.
    """
    import keras
    from keras import layers

    import efftune
    from efftune.model.backbone import Backbone

    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    data = datasets(folder, names)
    seconds_on_test = [0.0]

    def fit(model, stage, rate, count):
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss="categorical_crossentropy",
            metrics=["accuracy"],
        )
        callback = printing_epochs(stage, data["test"], seconds_on_test)
        model.fit(
            data["train"],
            epochs=count,
            validation_data=data["validation"],
            verbose=0,
            callbacks=[callback],
        )

    if epochs[0]:
        untrained = efftune.build("efficientnet-lite0", len(names), weights=None)
        fit(untrained, "scratch", 1e-3, epochs[0])
    backbone = Backbone("efficientnet-lite0").keras_model
    backbone.trainable = False
    x = layers.BatchNormalization()(backbone.output)
    x = layers.Dropout(0.2)(x)
    model = keras.Model(backbone.input, layers.Dense(len(names), activation="softmax")(x))
    fit(model, "head", 1e-2, epochs[1])
    backbone.trainable = True
    for layer in model.layers:
        norm = isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer in model.layers[-20:] and not norm
    fit(model, "tune", 1e-5, epochs[2])


def datasets(folder: Path, names: list[str]) -> dict:
    """The example's `tf.data` pipelines by split, with augmentation on the training split."""
    import keras
    import tensorflow as tf
    from keras import layers

    size, batch = 224, 64
    augmentation = [
        layers.RandomRotation(factor=0.15),
        layers.RandomTranslation(height_factor=0.1, width_factor=0.1),
        layers.RandomFlip(),
        layers.RandomContrast(factor=0.1),
    ]

    def pictures(split):
        return keras.utils.image_dataset_from_directory(
            folder / split,
            class_names=names,
            label_mode="categorical",
            image_size=(size, size),
            batch_size=None,
            shuffle=split == "train",
            verbose=False,
        )

    def augmented(image, label):
        for layer in augmentation:
            image = layer(image)
        return image, label

    auto = tf.data.AUTOTUNE
    train = pictures("train").map(augmented, num_parallel_calls=auto)
    data = {"train": train.batch(batch, drop_remainder=True).prefetch(auto)}
    for split in ("validation", "test"):
        data[split] = pictures(split).batch(batch).prefetch(auto)
    return data


def printing_epochs(stage: str, test, seconds_on_test: list[float]):
    """A Keras callback that prints a row per epoch.

    Args:
        stage: the name of the stage, for the rows.
        test: the test data.
        seconds_on_test: one number, to which the time spent on the test data is added.
    """
    import keras

    class PrintEpoch(keras.callbacks.Callback):
        def on_epoch_end(self, _epoch, logs=None):
            start = time.perf_counter()
            accuracy = self.model.evaluate(test, verbose=0)[1]
            seconds_on_test[0] += time.perf_counter() - start
            row = {"stage": stage, "val": logs["val_accuracy"], "test": accuracy}
            print(json.dumps(row | {"extra": seconds_on_test[0]}), flush=True)

    return PrintEpoch()


def report(sides: dict[str, list[Row]], curve: list[dict], arguments: argparse.Namespace) -> None:
    keras_row = curve[-1] | best_by_stage((row["stage"], row["val"]) for row in curve)
    print(f"\n{machine.machine()}\n{machine.versions()}\n")
    print("| | seconds | best scratch | best frozen | validation | test | times faster |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, rows in [*sides.items(), ("Keras example", [keras_row])]:
        cells = [
            " ± ".join(
                f"{statistic(row[key] for row in rows):.{digits}f}"
                for statistic in statistics_of(rows)
            )
            if key in rows[0]
            else ""
            for key, digits in (("seconds", 1), *zip(KEYS, [4] * len(KEYS), strict=True))
        ]
        faster = keras_row["seconds"] / statistics.mean(row["seconds"] for row in rows)
        print(f"| {name} | {' | '.join(cells)} | {faster:.1f} |")
    RESULTS.mkdir(exist_ok=True)
    table = [(name, row) for name, rows in sides.items() for row in rows]
    table += [(f"Keras example, {row['stage']}", row) for row in curve]
    # The comparison phase by phase has its own results file.
    name = "step_for_step" if arguments.recipes == ["keras-example"] else "against_keras_example"
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["side", "seconds", "val_accuracy", "test_accuracy"])
        writer.writerows([name, row["seconds"], row["val"], row["test"]] for name, row in table)
    plot(sides, curve, RESULTS / f"{name}.png")


def statistics_of(rows: list[Row]) -> list:
    return [statistics.mean] if len(rows) == 1 else [statistics.mean, statistics.stdev]


def plot(sides: dict[str, list[Row]], curve: list[dict], path: Path) -> None:
    """Plot test accuracy against seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    seconds, test = ([row[key] for row in curve] for key in ("seconds", "test"))
    axes.plot(seconds, test, color="0.45", label="Keras example, epoch by epoch")
    for name, rows in sides.items():
        axes.scatter([row["seconds"] for row in rows], [row["test"] for row in rows], label=name)
    axes.set(xscale="log", xlabel="seconds, from a cold start", ylabel="test accuracy")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
