"""Out-of-distribution detection: how well methods separate other pictures from the test photos.

Trains on the photos of FOLDER, then scores the test photos and pictures of other things: crops of
two photos, digits, plots, text, noise, gradients, shapes. Prints, for each kind, the AUROC against
the test photos and the share flagged at the 99th percentile of the validation photos. These kinds
are easy; for a hard one, `--without shoes` leaves a class out of training and scores its photos.

    python benchmarks/unlike_pictures.py [FOLDER] [--recipe quick] [--pictures 300] [--seed 0]
        [--without CLASS]

FOLDER must contain train, validation and test folders with class folders. It defaults to
$EFFTUNE_CLOTHING.

- neighbours: distance to the fifth nearest training photo, features scaled to length 1 (Sun et al.
  2022, https://arxiv.org/abs/2204.06507).
- mahalanobis: distance to the nearest class mean, by the within-class covariance (Lee et al. 2018,
  https://arxiv.org/abs/1807.03888).
- confidence: one minus the highest probability (Hendrycks and Gimpel 2017,
  https://arxiv.org/abs/1610.02136), as a baseline.
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
from efftune.data import images, picture_bytes
from efftune.model import uncertainty
from efftune.model.classifier import Classifier
from efftune.model.engines import openvino_engine
from efftune.system import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "data"))

import other_pictures  # noqa: E402  (found by the line above)

RESULTS = Path(__file__).parent / "results"
ALL = "all of them"
CLOTHES = "test photos"
_LIKE = 0.99  # share of validation photos below the threshold, if the run stores none

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """Features (pictures, features) and highest probabilities (pictures,) of some pictures."""

    features: Array
    confidences: Array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", default="", help="a class to leave out of training")
    arguments = parser.parse_args()
    if not arguments.folder:
        parser.error("give a folder, or set EFFTUNE_CLOTHING")
    with tempfile.TemporaryDirectory() as place:
        source, folder = Path(place, "source"), Path(place, "pictures")
        folder.mkdir()
        others = other_pictures.make(folder, arguments.pictures, arguments.seed)
        for path in link(Path(arguments.folder), source, arguments.without):
            others.append((f"{arguments.without}, not in training", path))
        run = efftune.train(source, run=Path(place, "run"), recipe=arguments.recipe)
        rows = evaluate(run.classifier, splits(run.folder, source), others)
    print(f"{machine.machine()}\n{machine.versions()}\n")
    suffix = f"_without_{arguments.without}" if arguments.without else ""
    report(rows, f"unlike_pictures_{arguments.recipe}{suffix}.csv")


def link(folder: Path, source: Path, without: str) -> list[Path]:
    """Link the photos of all classes but one to a new folder; returns the photos of that one."""
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
    """The pictures that a run used and their classes, by split."""
    by_split: dict[str, list[tuple[Path, str]]] = {"train": [], "val": [], "test": []}
    with (run / "examples.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["status"] == "used":
                by_split[row["split"]].append((source / row["path"], row["label"]))
    return by_split


def network_outputs(classifier: Classifier, paths: Sequence[Path]) -> Outputs:
    """The outputs of the saved network for pictures, decoded as in prediction."""
    network = openvino_engine.classifier(
        classifier.folder, size=classifier.image_size, has_features=True
    )
    features: dict[int, Array] = {}
    confidences = np.zeros(len(paths), np.float32)

    def load(i: int) -> images.Pixels:
        content = picture_bytes.read(paths[i])
        return images.decode(content, classifier.image_size, classifier.fit)[None]

    def deliver(i: int, _view: int, outputs: list[Array]) -> None:
        confidences[i], features[i] = outputs[0].max(), outputs[1].copy()

    network.run(range(len(paths)), load, deliver)
    return Outputs(np.stack([features[i] for i in range(len(paths))]), confidences)


def evaluate(
    classifier: Classifier,
    clothes: Mapping[str, Sequence[tuple[Path, str]]],
    others: Sequence[tuple[str, Path]],
) -> list[tuple[str, str, int, float, float]]:
    """Method, kind, pictures, AUROC and share flagged, for each method and kind of picture."""
    by_split = {
        split: network_outputs(classifier, [path for path, _ in rows])
        for split, rows in clothes.items()
    }
    unlike = network_outputs(classifier, [path for _, path in others])
    index = {name: i for i, name in enumerate(classifier.class_names)}
    labels = np.array([index[label] for _, label in clothes["train"]])
    kinds = np.array([kind for kind, _ in others])
    rows = []
    for method, (measure, threshold) in methods(
        classifier, by_split["train"].features, labels
    ).items():
        near, far = measure(by_split["test"]), measure(unlike)
        limit = threshold or np.quantile(measure(by_split["val"]), _LIKE, method="higher")
        rows.append((method, CLOTHES, len(near), np.nan, float((near > limit).mean())))
        for kind in (*dict.fromkeys(kinds.tolist()), ALL):
            distances = far[(kinds == kind) | (kind == ALL)]
            truth = np.repeat([0, 1], [len(near), len(distances)])
            score = float(roc_auc_score(truth, np.concatenate([near, distances])))
            rows.append((method, kind, len(distances), score, float((distances > limit).mean())))
    return rows


def methods(
    classifier: Classifier, train: Array, labels: NDArray[np.int64]
) -> dict[str, tuple[Callable[[Outputs], Array], float | None]]:
    """Functions from `Outputs` to distances, with the stored threshold if any, by method."""
    stored = classifier.uncertainty
    by_name = {}
    for kind in ("neighbours", "mahalanobis"):
        is_stored = stored is not None and stored.detector is not None
        is_stored = is_stored and stored.detector.kind == kind
        detector = stored.detector if is_stored else uncertainty.fit_detector(train, labels, kind)
        threshold = stored.unlike_above if is_stored else None
        by_name[kind] = (lambda x, detector=detector: detector.distances(x.features), threshold)
    by_name["confidence"] = (lambda x: 1 - x.confidences, None)
    return by_name


def report(rows: Sequence[tuple[str, str, int, float, float]], name: str) -> None:
    kinds = dict.fromkeys(kind for _, kind, *_ in rows)
    names = list(dict.fromkeys(method for method, *_ in rows))
    cells = {
        (method, kind): (count, score, flagged) for method, kind, count, score, flagged in rows
    }
    print(f"| | pictures | {' | '.join(f'{method}, AUROC | flagged' for method in names)} |")
    print(f"|---|--:|{'--:|' * 2 * len(names)}")
    for kind in kinds:
        row = [cells[method, kind] for method in names]
        parts = (f"{'' if kind == CLOTHES else f'{s:.3f}'} | {f:.1%}" for _, s, f in row)
        print(f"| {kind} | {row[0][0]} | {' | '.join(parts)} |")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["way", "kind", "pictures", "auroc", "flagged"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
