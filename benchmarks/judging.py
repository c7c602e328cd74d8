"""Is what efftune says of itself so? Calibration, "unsure", suspect labels and learning curves.

`calibration`: trains with `--recipe`, and tells the expected calibration error on test before and
after, and what share of the answers given is wrong where at most 2 % should be.

`suspects`: flips 5 % (`--flipped`) of the training labels at random, trains the head, and tells how
many of the flipped are among the first 8 % (`--looked-at`) of the training pictures in the list of
suspects. Then it corrects
those as a reviewer would who knows the truth (only the flipped, to the suggested class), and
accepts all likely ones unseen, and trains again: how much of the lost accuracy comes back? Accuracy
is that on validation and test together, with the recipe of `--retrain`. `--peer PYTHON` names an
interpreter that has cleanlab, which is given the same features and labels, and ranks them by a
logistic regression in five folds and its usual score, the normalised margin.

`curve`: trains the head on half of the training pictures, and tells whether the accuracy that the
learning curve expects of twice as many is that of all of them.

`cost`: seconds of a quick run's phases that judge and show.

    make bench NAME=judging
    python benchmarks/judging.py [FOLDER] [--parts calibration suspects curve cost] [--seeds 0 1 2]

FOLDER needs train, validation and test folders. It defaults to $EFFTUNE_CLOTHING.
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
from efftune.evaluation import suspects as suspecting
from efftune.features import extraction
from efftune.model.backbone import Backbone
from efftune.model.engines import openvino_engine
from efftune.system import machine

Told = dict[str, float]


@dataclass(frozen=True)
class Task:
    """What a part is measured on."""

    rows: list[Example]
    asked: argparse.Namespace
    seed: int
    place: Path

    def train(self, name: str, rows: Iterable[Example], **choices) -> efftune.Run:
        """A run on examples, in a table of their own."""
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
    parser.add_argument("--recipe", default="balanced", help="of calibration")
    parser.add_argument("--flipped", type=float, default=0.05, help="of the training labels")
    parser.add_argument("--looked-at", type=float, default=0.08, help="of the training pictures")
    parser.add_argument("--peer", help="an interpreter that has cleanlab")
    parser.add_argument("--retrain", default="quick", help="recipe of suspects' accuracies")
    asked = parser.parse_args()
    if not asked.folder:
        parser.error("name a folder, or set EFFTUNE_CLOTHING")
    print(f"{machine.machine()}\n{machine.versions()}")
    rows = [row for row in discovery.find(Path(asked.folder).resolve()).rows if row.usable]
    for name in asked.parts:
        print(f"\n{name}", flush=True)
        found = []
        for seed in asked.seeds:
            with tempfile.TemporaryDirectory() as place:
                found.append(PARTS[name](Task(rows, asked, seed, Path(place))))
            print(f"seed {seed}: {shown(found[-1])}", flush=True)
        means = {key: statistics.mean(each[key] for each in found) for key in found[0]}
        print(f"mean: {shown(means)}")


def shown(told: Told) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in told.items())


def calibration(task: Task) -> Told:
    run = task.train("whole", task.rows, recipe=task.asked.recipe)
    judged = run.evaluation
    return {
        "test accuracy": judged.test.accuracy,
        "temperature": judged.calibration.temperature,
        "ECE before": judged.calibration.ece["test"]["before"],
        "ECE after": judged.calibration.ece["test"]["after"],
        "threshold": judged.unsure.threshold,
        "answered": judged.unsure.test.coverage,
        "wrong of those": judged.unsure.test.error,
        "unlike": judged.unlike.test.flagged / judged.unlike.test.pictures,
    }


def suspects(task: Task) -> Told:
    random = np.random.default_rng(task.seed)
    training = task.of_training()
    classes = sorted({row.label for row in training})
    flipped = {}
    for i in random.permutation(len(training))[: round(task.asked.flipped * len(training))]:
        others = [name for name in classes if name != training[i].label]
        flipped[training[i].path] = others[random.integers(len(others))]
    wrong = [replace(row, label=flipped.get(row.path, row.label)) for row in task.rows]

    clean = task.train("clean", task.rows, recipe=task.asked.retrain)
    noisy = task.train("noisy", wrong, recipe=task.asked.retrain)
    listed = suspecting.read(noisy.folder)
    first = listed[: round(task.asked.looked_at * len(training))]
    names = {str(path) for path in flipped}
    found = [each for each in first if each.name in names]
    start = time.perf_counter()
    reviewed = {each.name: Decision(each.label, "relabel", each.suggested) for each in found}
    relabelling.write(task.place / "reviewed.csv", reviewed)
    labels = str(task.place / "reviewed.csv")
    training_data_of = task.train("seen", wrong, recipe=task.asked.retrain, labels=labels)
    seconds = time.perf_counter() - start
    likely = sum(row["likely"] == "yes" for row in table(noisy.folder / suspecting.FILE))
    labels = str(noisy.accept(likely))
    unseen = task.train("unseen", wrong, recipe=task.asked.retrain, labels=labels)
    accuracies = {
        "clean": clean,
        "noisy": noisy,
        "reviewed": training_data_of,
        "accepted unseen": unseen,
    }
    peer = cleanlab(task, wrong, names, len(first)) if task.asked.peer else {}
    return {
        "found": len(found) / len(flipped),
        **peer,
        **{name: both(run) for name, run in accuracies.items()},
        "likely": likely,
        "seconds of training again": seconds,
    }


def cleanlab(task: Task, rows: list[Example], flipped: set[str], count: int) -> Told:
    """What another package finds, from the same features of the frozen network."""
    training = [row for row in rows if row.split == "train"]
    names = sorted({row.label for row in training})
    settings = extraction.ExtractionSettings("crop", openvino_engine.fastest_precision())
    backbone = Backbone("efficientnet-lite0")
    pooled = extraction.extract([row.path for row in training], backbone, settings).pooled()
    labels = [names.index(row.label) for row in training]
    np.savez(task.place / "given.npz", features=pooled, labels=labels)
    command = [task.asked.peer, "-c", PEER, str(task.place / "given.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    found = sum(str(training[i].path) in flipped for i in told["order"][:count])
    return {"cleanlab found": found / len(flipped), "cleanlab seconds": told["seconds"]}


PEER = """
import json, sys, time
import numpy as np
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
given = np.load(sys.argv[1])
start = time.perf_counter()
said = cross_val_predict(
    LogisticRegression(max_iter=500), given["features"], given["labels"], cv=5,
    method="predict_proba",
)
scores = get_label_quality_scores(given["labels"], said, method="normalized_margin")
seconds = time.perf_counter() - start
print(json.dumps({"order": np.argsort(scores).tolist(), "seconds": seconds}))
"""


def both(run: efftune.Run) -> float:
    """Accuracy on validation and test together: the more pictures, the less chance."""
    val, test = run.evaluation.val, run.evaluation.test
    right = val.accuracy * val.pictures + test.accuracy * test.pictures
    return right / (val.pictures + test.pictures)


def curve(task: Task) -> Told:
    random = np.random.default_rng(task.seed)
    kept = set()
    for label in {row.label for row in task.rows}:
        members = [row.path for row in task.of_training() if row.label == label]
        kept |= {members[i] for i in random.permutation(len(members))[: len(members) // 2]}
    half = [row for row in task.rows if row.split != "train" or row.path in kept]
    told = task.train("half", half).evaluation.learning_curve.double
    truth = task.train("whole", task.rows).evaluation.val.accuracy
    return {
        "expected": told.accuracy,
        "low": told.low,
        "high": told.high,
        "true": truth,
        "inside": float(told.low <= truth <= told.high),
    }


def cost(task: Task) -> Told:
    start = time.perf_counter()
    seconds = task.train("whole", task.rows).record["seconds"]
    whole = time.perf_counter() - start
    told = {name: seconds[name] for name in ("evaluate", "pictures")}
    return {**told, "report": whole - sum(seconds.values()), "whole": whole}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


PARTS = {"calibration": calibration, "suspects": suspects, "curve": curve, "cost": cost}

if __name__ == "__main__":
    main()
