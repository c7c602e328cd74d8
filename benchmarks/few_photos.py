"""Few photos: what is drawn from a folder of classes is trained on, all the others judge.

For each folder, number of pictures a class and draw, five ways of training are compared:

- `logistic regression`: scikit-learn's own, with its default penalty, on all pictures' features;
- `quick, split` and `balanced, split`: with 15 % each for validation and test, as before there was
  cross-validation (and with the last stage's features and batches of 64);
- `quick`: a logistic regression on the features of all pictures, judged by cross-validation;
- `balanced`: the default: the same, fine-tuned if that helps out of fold.

Accuracy on the others is the mean recall of the classes, since as many pictures are drawn of each;
at most 100 others of each class judge. Columns of the CSV: set, pictures a class, draw, way,
accuracy, the run's own estimate with its interval, seconds.

    python benchmarks/few_photos.py FOLDER… [--counts 5,10] [--draws 5] [--ways WAY…] [--out CSV]
"""

import argparse
import csv
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score

import efftune
from efftune.data.formats import SUFFIXES
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import FEATURES, Backbone
from efftune.model.engines import devices

MODEL = "efficientnet-lite0"
SPLIT = {"val": 0.15, "test": 0.15, "head_features": "last"}
REGRESSION = "logistic regression"
WAYS = {
    REGRESSION: {},
    "quick, split": {"recipe": "quick", **SPLIT},
    "balanced, split": {"recipe": "balanced", "batch_size": 64, **SPLIT},
    "quick": {"recipe": "quick"},
    "balanced": {"recipe": "balanced"},
}
MOST_OTHERS = 100  # a class
COLUMNS = ("set", "count", "draw", "way", "accuracy", "estimate", "low", "high", "seconds")


def drawn(folder: Path, count: int, draw: int) -> tuple[list, list]:
    """Paths and classes of the pictures drawn, and of those that judge."""
    chosen, others = [], []
    for number, name in enumerate(sorted(each.name for each in folder.iterdir() if each.is_dir())):
        paths = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        order = np.random.default_rng([draw, count, number]).permutation(len(paths))
        chosen += [(paths[i].resolve(), name) for i in order[:count]]
        others += [(paths[i].resolve(), name) for i in order[count : count + MOST_OTHERS]]
    return chosen, others


def table(path: Path, rows: list) -> Path:
    """Write a table of paths and labels."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    return path


def regression(chosen: list, others: list) -> float:
    """Mean recall of scikit-learn's logistic regression."""
    backbone = Backbone(MODEL, device=devices.chosen("cpu"))
    paths = [path for path, _ in chosen + others]
    settings = ExtractionSettings(fit="crop", precision="f32")
    found = extraction.extract(paths, backbone, settings, outputs=[FEATURES])
    features = found.pooled()  # of those that can be decoded
    labels = np.array([name for path, name in chosen + others if path not in found.failures])
    count = sum(path not in found.failures for path, _ in chosen)
    model = LogisticRegression(max_iter=1000).fit(features[:count], labels[:count])
    return recall_score(labels[count:], model.predict(features[count:]), average="macro")


def measure(folder: Path, count: int, draw: int, way: str, place: Path) -> dict:
    """Train in one way, and judge by the pictures that were not drawn."""
    chosen, others = drawn(folder, count, draw)
    if way == REGRESSION:
        start = time.perf_counter()
        recall = regression(chosen, others)
        seconds = time.perf_counter() - start
        return dict(
            zip(COLUMNS, (folder.name, count, draw, way, recall, "", "", "", seconds), strict=True)
        )
    source = table(place / "drawn.csv", chosen)
    choices = {"model": MODEL, **WAYS[way]}
    run = efftune.train(source, run=place / "run", seed=draw, on_progress=None, **choices)
    score, _ = run.evaluate(table(place / "others.csv", others), on_progress=None)
    own, seconds = run.evaluation.test, run.summary["seconds"]
    recall = statistics.mean(each.recall for each in score.per_class if each.support)
    values = (recall, own.accuracy, own.low, own.high)
    row = dict(zip(COLUMNS, (folder.name, count, draw, way, *values, seconds), strict=True))
    shutil.rmtree(place / "run")
    return row


def summary(rows: list[dict]) -> None:
    """Print means over the draws, and how often the interval held the accuracy."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["set"], int(row["count"]), row["way"]].append(row)
    for (name, count, way), part in sorted(groups.items()):
        values = [float(row["accuracy"]) for row in part]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        judged = [row for row in part if row["low"]]
        inside = sum(float(r["low"]) <= float(r["accuracy"]) <= float(r["high"]) for r in judged)
        seconds = statistics.mean(float(row["seconds"]) for row in part)
        print(
            f"{name:20} {count:3} {way:20} {statistics.mean(values):.3f} ± {spread:.3f}  "
            f"{f'inside {inside} of {len(judged)}' if judged else '':14}  {seconds:5.0f} s"
        )


def rows_of(
    arguments: argparse.Namespace, columns: Sequence[str], measure: Callable[..., dict]
) -> list[dict]:
    """Rows for each number of pictures, draw, folder and way, beside those that the file holds.

    Args:
        arguments: of `parser`, parsed.
        columns: of the file.
        measure: makes a row from a folder, a number of pictures, a draw, a way and an empty folder.
    """
    rows = []
    if arguments.out.exists():
        with arguments.out.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    done = {(row["set"], int(row["count"]), int(row["draw"]), row["way"]) for row in rows}
    counts, draws = map(int, arguments.counts.split(",")), range(arguments.draws)
    for count, draw, folder, way in product(counts, draws, arguments.folders, arguments.ways):
        if (folder.name, count, draw, way) in done:
            continue
        with tempfile.TemporaryDirectory() as place:
            row = measure(folder, count, draw, way, Path(place))
        rows.append(row)
        print({key: row[key] for key in columns}, file=sys.stderr, flush=True)
        with arguments.out.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
    return rows


def parser(description: str, ways: Collection[str], **defaults: object) -> argparse.ArgumentParser:
    """A parser of what is compared."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("folders", nargs="+", type=Path)
    made.add_argument("--counts")
    made.add_argument("--draws", type=int)
    made.add_argument("--ways", nargs="+", choices=ways, default=list(ways))
    made.add_argument("--out", type=Path)
    made.set_defaults(**defaults)
    return made


def main() -> None:
    """Measure what the file does not hold yet, and print a summary."""
    defaults = {"counts": "5,10,20,50", "draws": 5, "out": Path("few_photos.csv")}
    arguments = parser(__doc__, WAYS, **defaults).parse_args()
    summary(rows_of(arguments, COLUMNS, measure))


if __name__ == "__main__":
    main()
