"""The choices behind the recipes, measured: each setting changed alone, on validation data.

Trains on the training split of the clothing photos and of `sample:digits` and judges on the
validation split; test pictures are not looked at. With seeds 0 and 1 the clothing photos are in
their own splits; from seed 2 on, their training and validation splits are put together and cut
anew, since 341 photos alone tell little. Rows already in the results file are not run again, so a
run that was stopped goes on where it was.

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

OWN_SPLITS = 2  # seeds below that

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
# Of the stage after that.
THOROUGH: list[Change] = [
    {},
    {"whole_learning_rate": 1e-4},
    {"whole_learning_rate": 3e-4},
    {"label_smoothing": 0.0},
    {"mix": "cutmix"},
    {"layer_decay": 0.85},
    {"ema": 0.98},
]
# What the changes start from: three epochs instead of six, for the time it takes.
START: dict[str, Change] = {"balanced": {}, "thorough": {"whole_epochs": 3}}
CHANGES = {"balanced": BALANCED, "thorough": THOROUGH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sources", nargs="+", default=[CLOTHING, "sample:digits"])
    parser.add_argument("--recipe", choices=CHANGES, default="balanced")
    parser.add_argument(
        "--settings", nargs="+", help="only these, and as it is: NAME or NAME=VALUE"
    )
    chosen = parser.parse_args()
    ablation = Ablation(chosen.recipe)
    changes = [change for change in ablation.changes if wanted(change, chosen.settings)]
    for seed in chosen.seeds:
        for change in changes:
            for source in chosen.sources:
                if key(change, source, seed) not in [row[:4] for row in ablation.rows()]:
                    ablation.add(measured(chosen.recipe, change, source, seed))
    ablation.show()


def wanted(change: Change, settings: list[str] | None) -> bool:
    names = {*change, *(f"{name}={value}" for name, value in change.items())}
    return settings is None or not change or bool(names & set(settings))


def key(change: Change, source: str, seed: int) -> list[str]:
    ((setting, value),) = change.items() or [("as it is", "")]
    return [setting, str(value), Path(source).name, str(seed)]


def measured(name: str, change: Change, source: str, seed: int) -> list[str]:
    recipe = Recipe.named(name, **(START[name] | {"seed": seed} | change))
    backbone = Backbone(recipe.backbone.model)
    examples = discovery.find(source)
    if seed >= OWN_SPLITS:
        examples = cut_anew(examples)
    examples = examples.split(recipe.data.val_fraction, recipe.data.test_fraction, seed)
    plan = planning.plan(recipe, backbone, examples.counts)
    examples, data = training_data.compute(examples, backbone, plan)
    head = fine_tuning.fit_head(data, backbone, recipe)
    plan, _ = view_selection.choose_views(plan, backbone, head, data)
    outcome = fine_tuning.fine_tune(backbone, head, data, plan, Timer()).stages[-1]
    kept = outcome.kept
    judged = (f"{kept.val_accuracy:.4f}", f"{kept.val_loss:.4f}")
    counted = (str(len(outcome.epochs)), str(outcome.best))
    return [*key(change, source, seed), *judged, *counted]


def cut_anew(examples: Examples) -> Examples:
    """The same pictures without their validation split; the test split, if any, stays."""
    open_rows = (
        replace(row, split="" if row.split == "val" else row.split) for row in examples.rows
    )
    return replace(examples, rows=tuple(open_rows))


class Ablation:
    """The results of one recipe's changes, in a file."""

    def __init__(self, recipe: str):
        self.changes = CHANGES[recipe]
        self._path = RESULTS / f"ablations_{recipe}.csv"

    def rows(self) -> list[list[str]]:
        """Those that are there, without the heading."""
        if not self._path.exists():
            return []
        with self._path.open(newline="") as stream:
            return list(csv.reader(stream))[1:]

    def add(self, row: list[str]) -> None:
        """Print a row and keep it."""
        print(*row, flush=True)
        new = not self._path.exists()
        with self._path.open("a", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([COLUMNS, row] if new else [row])

    def show(self) -> None:
        """Means over the seeds, and how far from the recipe as it is on the same seeds."""
        table = {tuple(row[:4]): (float(row[4]), float(row[5])) for row in self.rows()}
        names = sorted({name for _, _, name, _ in table})
        heads = [f"{name}: seeds | accuracy | difference | log-loss | difference" for name in names]
        print("| |", " | ".join(heads), "|")
        print("|---|", "--:|" * 5 * len(names), sep="")
        for change in self.changes:
            setting, value, *_ = key(change, "", 0)
            cells = []
            for name in names:
                seeds = [each[3] for each in table if each[:3] == (setting, value, name)]
                mine = np.array([table[setting, value, name, seed] for seed in seeds])
                usual = np.array([table["as it is", "", name, seed] for seed in seeds])
                cells += told(mine, usual)
            if any(cells):
                print("|", f"{setting} {value}".strip(), "|", " | ".join(cells), "|")


def told(mine: np.ndarray, usual: np.ndarray) -> list[str]:
    if not len(mine):
        return [""] * 5
    cells = [str(len(mine))]
    for column in (0, 1):
        gap = mine[:, column] - usual[:, column]
        spread = f" ± {gap.std(ddof=1):.3f}" if len(gap) > 1 and gap.any() else ""
        cells += [f"{mine[:, column].mean():.3f}", f"{gap.mean():+.3f}{spread}"]
    return cells


if __name__ == "__main__":
    main()
