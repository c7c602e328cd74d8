"""How well pictures that are not clothes are told from clothes, by ways to measure the distance.

Trains on the photos of FOLDER, then shows the classifier the test photos and as many pictures of
other things: crops of two photos, digits, plots, text, noise, gradients, shapes. Prints for each
kind how often one of them is farther from the training photos than a test photo is (AUROC), and how
many are flagged at the threshold that 99 % of the validation photos keep below. Those are easy. For
a hard kind, `--without shoes` leaves a class out of training and shows its photos as well.

    python benchmarks/unlike_pictures.py [FOLDER] [--recipe quick] [--pictures 300] [--seed 0]
        [--without CLASS]

FOLDER holds train, validation and test folders of class folders. It defaults to $EFFTUNE_CLOTHING.

- neighbours: to the fifth nearest of the training photos, features scaled to length 1 (Sun et al.
  2022, https://arxiv.org/abs/2204.06507).
- mahalanobis: to the nearest class mean, by the covariance within classes (Lee et al. 2018,
  https://arxiv.org/abs/1807.03888).
- confidence: how far the likeliest class's probability is from 1 (Hendrycks and Gimpel 2017,
  https://arxiv.org/abs/1610.02136), to compare with.
"""

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import efftune
from efftune.data import images
from efftune.model import uncertainty
from efftune.model.classifier import OPENVINO_FILE, Classifier
from efftune.model.engines import openvino_engine
from efftune.system import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "data"))

import other_pictures  # noqa: E402  (found by the line above)

RESULTS = Path(__file__).parent / "results"
ALL = "all of them"
CLOTHES = "test photos"
_LIKE = 0.99  # share of validation photos below a threshold, where the run stores none

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingData:
    """Features (pictures, features) and the highest probabilities (pictures,) of pictures."""

    features: Array
    confidences: Array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", default="", help="a class to leave out")
    asked = parser.parse_args()
    if not asked.folder:
        parser.error("name a folder, or set EFFTUNE_CLOTHING")
    with tempfile.TemporaryDirectory() as place:
        source, folder = Path(place, "source"), Path(place, "pictures")
        folder.mkdir()
        others = other_pictures.make(folder, asked.pictures, asked.seed)
        for path in link(Path(asked.folder), source, asked.without):
            others.append((f"{asked.without}, never seen", path))
        run = efftune.train(source, run=Path(place, "run"), recipe=asked.recipe)
        rows = measured(run.classifier, splits(run.folder, source), others)
    print(f"{machine.machine()}\n{machine.versions()}\n")
    suffix = f"_without_{asked.without}" if asked.without else ""
    report(rows, f"unlike_pictures_{asked.recipe}{suffix}.csv")


def link(folder: Path, source: Path, without: str) -> list[Path]:
    """Link the photos of all classes but one to another folder; the photos of that one."""
    left_out = []
    for path in sorted(folder.glob("*/*/*.jpg")):
        if path.parent.name == without:
            left_out.append(path)
            continue
        there = source / path.relative_to(folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(path.resolve())
    return left_out


def splits(run: Path, source: Path) -> dict[str, list[tuple[Path, str]]]:
    """The used pictures of a run and their classes, by split."""
    found: dict[str, list[tuple[Path, str]]] = {"train": [], "val": [], "test": []}
    with (run / "examples.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["status"] == "used":
                found[row["split"]].append((source / row["path"], row["label"]))
    return found


def training_data_of(classifier: Classifier, paths: Sequence[Path]) -> TrainingData:
    """What the saved network says of pictures, decoded as it decodes any."""
    network = openvino_engine.Network(
        lambda: openvino_engine.read(classifier.folder / OPENVINO_FILE),
        size=classifier.image_size,
        dtypes=("float32", "float32"),
    )
    features: dict[int, Array] = {}
    confidences = np.zeros(len(paths), np.float32)

    def load(i: int) -> images.Pixels:
        return images.decode(images.read(paths[i]), classifier.image_size, classifier.fit)[None]

    def deliver(i: int, _square: int, outputs: list[Array]) -> None:
        confidences[i], features[i] = outputs[0].max(), outputs[1].copy()

    network.run(range(len(paths)), load, deliver)
    return TrainingData(np.stack([features[i] for i in range(len(paths))]), confidences)


def measured(
    classifier: Classifier,
    clothes: Mapping[str, Sequence[tuple[Path, str]]],
    others: Sequence[tuple[str, Path]],
) -> list[tuple[str, str, int, float, float]]:
    """Way, kind, pictures, AUROC and share flagged, for each way and kind."""
    by_split = {
        split: training_data_of(classifier, [path for path, _ in rows])
        for split, rows in clothes.items()
    }
    strange = training_data_of(classifier, [path for _, path in others])
    number = {name: i for i, name in enumerate(classifier.class_names)}
    labels = np.array([number[label] for _, label in clothes["train"]])
    kinds = np.array([kind for kind, _ in others])
    rows = []
    for way, (measure, threshold) in ways(classifier, by_split["train"].features, labels).items():
        near, far = measure(by_split["test"]), measure(strange)
        limit = threshold or np.quantile(measure(by_split["val"]), _LIKE, method="higher")
        rows.append((way, CLOTHES, len(near), np.nan, float((near > limit).mean())))
        for kind in (*dict.fromkeys(kinds.tolist()), ALL):
            these = far[(kinds == kind) | (kind == ALL)]
            truth = np.repeat([0, 1], [len(near), len(these)])
            score = float(roc_auc_score(truth, np.concatenate([near, these])))
            rows.append((way, kind, len(these), score, float((these > limit).mean())))
    return rows


def ways(
    classifier: Classifier, train: Array, labels: NDArray[np.int64]
) -> dict[str, tuple[Callable[[TrainingData], Array], float | None]]:
    """Functions from `TrainingData` to distances, and stored thresholds if any, by name."""
    kept = classifier.uncertainty
    found = {}
    for kind in ("neighbours", "mahalanobis"):
        stored = kept is not None and kept.detector is not None and kept.detector.kind == kind
        known = kept.detector if stored else uncertainty.fit_detector(train, labels, kind)
        threshold = kept.unlike_above if stored else None
        found[kind] = (lambda each, known=known: known.distances(each.features), threshold)
    found["confidence"] = (lambda each: 1 - each.confidences, None)
    return found


def report(rows: Sequence[tuple[str, str, int, float, float]], name: str) -> None:
    kinds = dict.fromkeys(kind for _, kind, *_ in rows)
    names = list(dict.fromkeys(way for way, *_ in rows))
    cells = {(way, kind): (count, score, flagged) for way, kind, count, score, flagged in rows}
    print(f"| | pictures | {' | '.join(f'{way}, AUROC | flagged' for way in names)} |")
    print(f"|---|--:|{'--:|' * 2 * len(names)}")
    for kind in kinds:
        told = [cells[way, kind] for way in names]
        parts = (f"{'' if kind == CLOTHES else f'{s:.3f}'} | {f:.1%}" for _, s, f in told)
        print(f"| {kind} | {told[0][0]} | {' | '.join(parts)} |")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["way", "kind", "pictures", "auroc", "flagged"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
