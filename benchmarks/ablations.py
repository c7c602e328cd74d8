"""Ablation of the recipes: each setting is changed alone and measured on validation data.

Trains on the training split of the clothing photos and of `sample:digits` and evaluates on the
validation split; the test split is not used. Seeds 0 and 1 use the clothing photos' own splits;
from seed 2 on, their training and validation splits are merged and split again, because 341 photos
alone are too few for reliable results. Configurations already in the results file are skipped, so
an interrupted run can be resumed.

    make bench NAME=ablations ARGS="--seeds 0 1"
    make bench NAME=ablations ARGS="--recipe thorough --seeds 0"
"""

import argparse
import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from efftune.data.examples import Examples
from efftune.data.sources import discovery
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training import fine_tuning, planning, training_data, view_selection

ROOT = Path(__file__).parents[1]
CLOTHING = os.environ.get("EFFTUNE_CLOTHING", str(ROOT.parent / "shared/data/clothing"))
RESULTS = ROOT / "benchmarks/results"
COLUMNS = ("setting", "value", "source", "seed", "accuracy", "loss", "epochs", "best")

RESPLIT_FROM_SEED = 2  # lower seeds use the splits of the source

Change = dict[str, object]
BALANCED: list[Change] = [
    {},
    {"unfreeze": "block6"},
    {"unfreeze": "block4"},
    {"learning_rate": 5e-4},
    {"learning_rate": 2e-3},
    {"views": 0},
    {"views": 1},
    {"augment": "none"},
    {"augment": "light"},
    {"augment": "standard"},
    {"augment": "strong"},
    {"head_start": "random"},
    {"label_smoothing": 0.0},
    {"steps": 90},
    {"steps": 360},
    {"train_depthwise": True},
    {"activations": "bfloat16"},
    {"weight_decay": 0.0},
    {"weight_decay": 0.1},
    {"dropout": 0.0},
    {"layer_decay": 0.85},
    {"mix": "mixup"},
    {"mix": "cutmix"},
    {"ema": 0.98},
    {"batch_size": 32},
    {"warmup": 0.3},
    {"flip": "no"},
]
# For the last stage, which trains the whole network.
THOROUGH: list[Change] = [
    {},
    {"whole_learning_rate": 1e-4},
    {"whole_learning_rate": 3e-4},
    {"label_smoothing": 0.0},
    {"mix": "cutmix"},
    {"layer_decay": 0.85},
    {"ema": 0.98},
]
# Base settings; `thorough` is one network whose blocks are all trained at the end.
START: dict[str, Change] = {"balanced": {}, "thorough": {"whole_epochs": 3, "members": 1}}
CHANGES = {"balanced": BALANCED, "thorough": THOROUGH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sources", nargs="+", default=[CLOTHING, "sample:digits"])
    parser.add_argument("--recipe", choices=CHANGES, default="balanced")
    parser.add_argument(
        "--settings", nargs="+", help="only these and the baseline: NAME or NAME=VALUE"
    )
    arguments = parser.parse_args()
    ablation = Ablation(arguments.recipe)
    changes = [change for change in ablation.changes if is_selected(change, arguments.settings)]
    for seed in arguments.seeds:
        for change in changes:
            for source in arguments.sources:
                if key(change, source, seed) not in [row[:4] for row in ablation.rows()]:
                    ablation.add(measure(arguments.recipe, change, source, seed))
    ablation.show()


def is_selected(change: Change, settings: list[str] | None) -> bool:
    names = {*change, *(f"{name}={value}" for name, value in change.items())}
    return settings is None or not change or bool(names & set(settings))


def key(change: Change, source: str, seed: int) -> list[str]:
    ((setting, value),) = change.items() or [("as it is", "")]
    return [setting, str(value), Path(source).name, str(seed)]


def measure(name: str, change: Change, source: str, seed: int) -> list[str]:
    recipe = Recipe.named(name, **(START[name] | {"seed": seed} | change))
    backbone = Backbone(recipe.backbone.model)
    examples = discovery.find(source)
    if seed >= RESPLIT_FROM_SEED:
        examples = without_val_split(examples)
    examples = examples.split(*recipe.data.shares, seed)
    plan = planning.plan(recipe, backbone, examples.counts)
    examples, data = training_data.compute(examples, backbone, plan)
    head = fine_tuning.fit_head(data, backbone, recipe)
    plan, _ = view_selection.choose_views(plan, backbone, head, data)
    stage = fine_tuning.fine_tune(backbone, head, data, plan, Timer()).stages[-1]
    best = stage.selected
    metrics = (f"{best.val_accuracy:.4f}", f"{best.val_loss:.4f}")
    epochs = (str(len(stage.epochs)), str(stage.best))
    return [*key(change, source, seed), *metrics, *epochs]


def without_val_split(examples: Examples) -> Examples:
    """The same pictures with the validation split merged into the rest; a test split stays."""
    rows = (replace(row, split="" if row.split == "val" else row.split) for row in examples.rows)
    return replace(examples, rows=tuple(rows))


class Ablation:
    """The results for the changes to one recipe, stored in a CSV file."""

    def __init__(self, recipe: str):
        self.changes = CHANGES[recipe]
        self._path = RESULTS / f"ablations_{recipe}.csv"

    def rows(self) -> list[list[str]]:
        """The stored rows, without the header."""
        if not self._path.exists():
            return []
        with self._path.open(newline="") as stream:
            return list(csv.reader(stream))[1:]

    def add(self, row: list[str]) -> None:
        """Print a row and append it to the file."""
        print(*row, flush=True)
        new = not self._path.exists()
        with self._path.open("a", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([COLUMNS, row] if new else [row])

    def show(self) -> None:
        """Print means over the seeds, and differences from the baseline on the same seeds."""
        table = {tuple(row[:4]): (float(row[4]), float(row[5])) for row in self.rows()}
        names = sorted({name for _, _, name, _ in table})
        headings = [
            f"{name}: seeds | accuracy | difference | log-loss | difference" for name in names
        ]
        print("| |", " | ".join(headings), "|")
        print("|---|", "--:|" * 5 * len(names), sep="")
        for change in self.changes:
            setting, value, *_ = key(change, "", 0)
            cells = []
            for name in names:
                seeds = [each[3] for each in table if each[:3] == (setting, value, name)]
                changed = np.array([table[setting, value, name, seed] for seed in seeds])
                baseline = np.array([table["as it is", "", name, seed] for seed in seeds])
                cells += cells_of(changed, baseline)
            if any(cells):
                name = f"{setting} {value}" if change else "baseline"
                print("|", name, "|", " | ".join(cells), "|")


def cells_of(changed: np.ndarray, baseline: np.ndarray) -> list[str]:
    if not len(changed):
        return [""] * 5
    cells = [str(len(changed))]
    for column in (0, 1):
        gap = changed[:, column] - baseline[:, column]
        spread = f" ± {gap.std(ddof=1):.3f}" if len(gap) > 1 and gap.any() else ""
        cells += [f"{changed[:, column].mean():.3f}", f"{gap.mean():+.3f}{spread}"]
    return cells


if __name__ == "__main__":
    main()
