"""Accuracy of efftune's own diagnostics: calibration, `unsure`, suspect labels, learning curves.

`calibration`: trains with `--recipe` and prints the expected calibration error on the test split
before and after calibration, and the error rate of the predictions not marked `unsure` (target: at
most 2 %).

`suspects`: flips 5 % (`--flipped`) of the training labels at random, trains a head, and prints the
share of flipped labels among the most suspect 8 % (`--looked-at`) of the training pictures. Then it
trains again in two ways: with the flipped labels among those corrected, as a perfect reviewer would
do, and with all likely wrong labels accepted without review. Accuracies are on validation and test
together, with the recipe of `--retrain`. `--peer PYTHON` gives an interpreter that has cleanlab,
which gets the same features and labels and ranks them by the normalised margin of a five-fold
logistic regression.

`curve`: trains a head on half of the training pictures and compares the accuracy that the learning
curve predicts for twice as many with the accuracy reached on all of them.

`cost`: seconds that the phases for evaluation and the report take in a quick run.

    make bench NAME=judging
    python benchmarks/judging.py [FOLDER] [--parts calibration suspects curve cost] [--seeds 0 1 2]

FOLDER must contain train, validation and test folders. It defaults to $EFFTUNE_CLOTHING.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import efftune
from efftune.data import relabelling
from efftune.data.examples import Example
from efftune.data.relabelling import Decision
from efftune.data.sources import discovery
from efftune.evaluation import suspects as suspect_labels
from efftune.features import extraction
from efftune.model.backbone import Backbone
from efftune.model.engines import openvino_engine
from efftune.system import machine

Metrics = dict[str, float]


@dataclass(frozen=True)
class Task:
    """The input of a measurement: pictures, arguments, seed and a temporary folder."""

    rows: list[Example]
    arguments: argparse.Namespace
    seed: int
    place: Path

    def train(self, name: str, rows: Iterable[Example], **choices) -> efftune.Run:
        """Train on examples, listed in a new table."""
        table = self.place / f"{name}.csv"
        with table.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "split"])
            writer.writerows([row.path, row.label, row.split] for row in rows)
        choices = {"recipe": "quick", "seed": self.seed} | choices
        return efftune.train(table, run=self.place / f"{name}-run", **choices)

    def of_training(self) -> list[Example]:
        """The training pictures."""
        return [row for row in self.rows if row.split == "train"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="balanced", help="recipe for calibration")
    parser.add_argument("--flipped", type=float, default=0.05, help="share of training labels")
    parser.add_argument("--looked-at", type=float, default=0.08, help="share of training pictures")
    parser.add_argument("--peer", help="an interpreter with cleanlab")
    parser.add_argument("--retrain", default="quick", help="recipe for the accuracies of suspects")
    arguments = parser.parse_args()
    if not arguments.folder:
        parser.error("give a folder, or set EFFTUNE_CLOTHING")
    print(f"{machine.machine()}\n{machine.versions()}")
    rows = [row for row in discovery.find(Path(arguments.folder).resolve()).rows if row.usable]
    for name in arguments.parts:
        print(f"\n{name}", flush=True)
        results = []
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as place:
                results.append(PARTS[name](Task(rows, arguments, seed, Path(place))))
            print(f"seed {seed}: {shown(results[-1])}", flush=True)
        means = {key: statistics.mean(each[key] for each in results) for key in results[0]}
        print(f"mean: {shown(means)}")


def shown(metrics: Metrics) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def calibration(task: Task) -> Metrics:
    run = task.train("whole", task.rows, recipe=task.arguments.recipe)
    evaluation = run.evaluation
    return {
        "test accuracy": evaluation.test.accuracy,
        "temperature": evaluation.calibration.temperature,
        "ECE before": evaluation.calibration.ece["test"]["before"],
        "ECE after": evaluation.calibration.ece["test"]["after"],
        "threshold": evaluation.unsure.threshold,
        "share not unsure": evaluation.unsure.test.coverage,
        "error rate of those": evaluation.unsure.test.error,
        "unlike": evaluation.unlike.test.flagged / evaluation.unlike.test.pictures,
    }


def suspects(task: Task) -> Metrics:
    random = np.random.default_rng(task.seed)
    training = task.of_training()
    classes = sorted({row.label for row in training})
    flipped = {}
    for i in random.permutation(len(training))[: round(task.arguments.flipped * len(training))]:
        others = [name for name in classes if name != training[i].label]
        flipped[training[i].path] = others[random.integers(len(others))]
    wrong = [replace(row, label=flipped.get(row.path, row.label)) for row in task.rows]

    clean = task.train("clean", task.rows, recipe=task.arguments.retrain)
    noisy = task.train("noisy", wrong, recipe=task.arguments.retrain)
    listed = suspect_labels.read(noisy.folder)
    most_suspect = listed[: round(task.arguments.looked_at * len(training))]
    names = {str(path) for path in flipped}
    found = [each for each in most_suspect if each.name in names]
    start = time.perf_counter()
    reviewed = {each.name: Decision(each.label, "relabel", each.suggested) for each in found}
    relabelling.write(task.place / "reviewed.csv", reviewed)
    labels = str(task.place / "reviewed.csv")
    reviewed_run = task.train("reviewed", wrong, recipe=task.arguments.retrain, labels=labels)
    seconds = time.perf_counter() - start
    likely = sum(row["likely"] == "yes" for row in table(noisy.folder / suspect_labels.FILE))
    labels = str(noisy.accept(likely))
    accepted = task.train("accepted", wrong, recipe=task.arguments.retrain, labels=labels)
    accuracies = {
        "clean": clean,
        "noisy": noisy,
        "reviewed": reviewed_run,
        "accepted without review": accepted,
    }
    peer = cleanlab(task, wrong, names, len(most_suspect)) if task.arguments.peer else {}
    return {
        "found": len(found) / len(flipped),
        **peer,
        **{name: pooled_accuracy(run) for name, run in accuracies.items()},
        "likely": likely,
        "seconds of retraining": seconds,
    }


def cleanlab(task: Task, rows: list[Example], flipped: set[str], count: int) -> Metrics:
    """The share of flipped labels that cleanlab finds, from the same features."""
    training = [row for row in rows if row.split == "train"]
    names = sorted({row.label for row in training})
    settings = extraction.ExtractionSettings("crop", openvino_engine.fastest_precision())
    backbone = Backbone("efficientnet-lite0")
    pooled = extraction.extract([row.path for row in training], backbone, settings).pooled()
    labels = [names.index(row.label) for row in training]
    np.savez(task.place / "features.npz", features=pooled, labels=labels)
    command = [task.arguments.peer, "-c", PEER, str(task.place / "features.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    found = sum(str(training[i].path) in flipped for i in result["order"][:count])
    return {"cleanlab found": found / len(flipped), "cleanlab seconds": result["seconds"]}


PEER = """
import json, sys, time
import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
data = np.load(sys.argv[1])
start = time.perf_counter()
probabilities = cross_val_predict(
    LogisticRegression(max_iter=500), data["features"], data["labels"], cv=5,
    method="predict_proba",
)
scores = get_label_quality_scores(data["labels"], probabilities, method="normalized_margin")
seconds = time.perf_counter() - start
print(json.dumps({"order": np.argsort(scores).tolist(), "seconds": seconds}))
"""


def pooled_accuracy(run: efftune.Run) -> float:
    """Accuracy on validation and test together, which has a smaller standard error."""
    val, test = run.evaluation.val, run.evaluation.test
    correct = val.accuracy * val.pictures + test.accuracy * test.pictures
    return correct / (val.pictures + test.pictures)


def curve(task: Task) -> Metrics:
    random = np.random.default_rng(task.seed)
    selected = set()
    for label in {row.label for row in task.rows}:
        members = [row.path for row in task.of_training() if row.label == label]
        selected |= {members[i] for i in random.permutation(len(members))[: len(members) // 2]}
    half = [row for row in task.rows if row.split != "train" or row.path in selected]
    predicted = task.train("half", half).evaluation.learning_curve.double
    actual = task.train("whole", task.rows).evaluation.val.accuracy
    return {
        "predicted": predicted.accuracy,
        "low": predicted.low,
        "high": predicted.high,
        "actual": actual,
        "inside": float(predicted.low <= actual <= predicted.high),
    }


def cost(task: Task) -> Metrics:
    start = time.perf_counter()
    seconds = task.train("whole", task.rows).record["seconds"]
    total = time.perf_counter() - start
    phases = {name: seconds[name] for name in ("evaluate", "thumbnails")}
    return {**phases, "report": total - sum(seconds.values()), "total": total}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


PARTS = {"calibration": calibration, "suspects": suspects, "curve": curve, "cost": cost}

if __name__ == "__main__":
    main()
