"""`--recipe quick` against the public Keras example's frozen stage, on the same folder in one go.

The example is "Image classification via fine-tuning with EfficientNet": tf.data, its own four
augmentation layers, a frozen backbone, a head of BatchNorm, dropout and a dense layer, Adam at
1e-2, batches of 64, 25 epochs. Both sides use EfficientNet-Lite0 with the same ImageNet weights.
Whole processes are timed, from a cold start, with nothing kept from before.

    python benchmarks/quick_against_example.py [FOLDER] [--epochs 25] [--seeds 0 1 2]

FOLDER needs train, validation and test folders. It defaults to $EFFTUNE_CLOTHING.
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
from pathlib import Path

from efftune import provenance

RESULTS = Path(__file__).parent / "results" / "quick_against_example.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--example-only", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.folder:
        parser.error("name a folder, or set EFFTUNE_CLOTHING")
    if asked.example_only:
        print(json.dumps(example(Path(asked.folder), asked.epochs)))
        return
    quick = [run_quick(asked.folder, seed) for seed in asked.seeds]
    theirs = run_example(asked.folder, asked.epochs)
    report(quick, theirs, asked.epochs)


def run_quick(folder: str, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        environment = os.environ | {"EFFTUNE_CACHE": f"{place}/cache"}
        options = ["--recipe", "quick", "--seed", str(seed), "--run", f"{place}/run", "--json"]
        command = [sys.executable, "-m", "efftune", "train", folder, *options]
        printed, seconds = timed(command, environment)
    result = json.loads(printed)
    return {
        "seconds": seconds,
        "val": result["val"]["accuracy"],
        "test": result["test"]["accuracy"],
    }


def run_example(folder: str, epochs: int) -> dict[str, float]:
    command = [sys.executable, __file__, folder, "--epochs", str(epochs), "--example-only"]
    printed, seconds = timed(command, os.environ | {"KERAS_BACKEND": "tensorflow"})
    return {"seconds": seconds} | json.loads(printed.splitlines()[-1])


def timed(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout, time.perf_counter() - start


def example(folder: Path, epochs: int) -> dict[str, float]:
    """The example's "transfer learning" section, with Lite0 in place of B0."""
    import keras
    import tensorflow as tf
    from keras import layers

    from efftune.model.backbone import Backbone

    size, batch = 224, 64
    names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
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
    train = train.batch(batch, drop_remainder=True).prefetch(auto)
    val, test = (pictures(split).batch(batch).prefetch(auto) for split in ("validation", "test"))

    backbone = Backbone("efficientnet-lite0").keras_model
    backbone.trainable = False
    x = layers.BatchNormalization()(backbone.output)
    x = layers.Dropout(0.2)(x)
    model = keras.Model(backbone.input, layers.Dense(len(names), activation="softmax")(x))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(train, epochs=epochs, validation_data=val, verbose=2).history
    return {"val": history["val_accuracy"][-1], "test": model.evaluate(test, verbose=0)[1]}


def report(quick: list[dict[str, float]], theirs: dict[str, float], epochs: int) -> None:
    rows = [("efftune quick", each) for each in quick] + [(f"Keras example, {epochs}", theirs)]
    print(f"\n{provenance.machine()}\n{provenance.versions()}\n")
    print(f"{'':24}{'seconds':>10}{'val':>8}{'test':>8}")
    for name, each in rows:
        print(f"{name:24}{each['seconds']:10.1f}{each['val']:8.3f}{each['test']:8.3f}")
    ratio = theirs["seconds"] / statistics.median(each["seconds"] for each in quick)
    gain = statistics.median(each["test"] for each in quick) - theirs["test"]
    print(f"\nquick is {ratio:.1f} times faster; test accuracy {100 * gain:+.1f} points (medians)")
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["side", "seconds", "val_accuracy", "test_accuracy"])
        writer.writerows(
            [name, *(each[k] for k in ("seconds", "val", "test"))] for name, each in rows
        )


if __name__ == "__main__":
    main()
