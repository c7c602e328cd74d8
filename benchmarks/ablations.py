"""The choices behind `--recipe balanced`, measured: each setting changed alone, on validation data.

Trains on the training split of the clothing photos and of `sample:digits` and judges on the
validation split; test pictures are not looked at. With seeds 0 and 1 the clothing photos are in
their own splits; from seed 2 on, their training and validation splits are put together and cut
anew, since 341 photos alone tell little. Rows already in the results file are not run again, so a
run that was stopped goes on where it was.

    make bench NAME=ablations ARGS="--seeds 0 1"
"""

import argparse
import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from efftune.data import sources
from efftune.data.examples import Examples
from efftune.model.backbone import Backbone
from efftune.progress import Watch
from efftune.recipe import Recipe
from efftune.training import planning, tuning

ROOT = Path(__file__).parents[1]
CLOTHING = os.environ.get("EFFTUNE_CLOTHING", str(ROOT.parent / "shared/data/clothing"))
RESULTS = ROOT / "benchmarks/results/ablations.csv"
COLUMNS = ("setting", "value", "source", "seed", "accuracy", "loss", "epochs", "best")

OWN_SPLITS = 2  # seeds below that

CHANGES: list[dict[str, object]] = [
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
    {"ema": 0.95},
    {"batch_size": 32},
    {"warmup": 0.3},
    {"flip": "no"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sources", nargs="+", default=[CLOTHING, "sample:digits"])
    parser.add_argument(
        "--settings", nargs="+", help="only these, and as it is: NAME or NAME=VALUE"
    )
    chosen = parser.parse_args()
    changes = [change for change in CHANGES if wanted(change, chosen.settings)]
    for seed in chosen.seeds:
        for change in changes:
            for source in chosen.sources:
                if key(change, source, seed) not in [row[:4] for row in rows()]:
                    add(measured(change, source, seed))
    show()


def wanted(change: dict[str, object], settings: list[str] | None) -> bool:
    names = {*change, *(f"{name}={value}" for name, value in change.items())}
    return settings is None or not change or bool(names & set(settings))


def key(change: dict[str, object], source: str, seed: int) -> list[str]:
    ((setting, value),) = change.items() or [("as it is", "")]
    return [setting, str(value), Path(source).name, str(seed)]


def measured(change: dict[str, object], source: str, seed: int) -> list[str]:
    recipe = Recipe.named("balanced", seed=seed, **change)
    backbone = Backbone(recipe.model)
    examples = sources.find(source)
    if seed >= OWN_SPLITS:
        examples = cut_anew(examples)
    examples = examples.split(recipe.val_fraction, recipe.test_fraction, seed)
    plan = planning.plan(recipe, backbone, examples.counts)
    parts = tuning.see(examples, backbone, plan, lambda _done, _total: None)
    pictures = tuning.seen(examples, parts)
    head = tuning.fit_head(pictures, backbone, recipe)
    plan, _ = tuning.decide_views(plan, backbone, head, pictures)
    watch = Watch()
    _, (outcome,) = tuning.tune(backbone, head, pictures, plan, watch)
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


def rows() -> list[list[str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as stream:
        return list(csv.reader(stream))[1:]


def add(row: list[str]) -> None:
    print(*row, flush=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([COLUMNS, row] if new else [row])


def show() -> None:
    """Mean and standard deviation over the seeds, as a table in Markdown."""
    names = sorted({row[2] for row in rows()})
    heads = [f"{name} accuracy | log-loss" for name in names]
    print("| |", " | ".join(heads), "|")
    print("|---|", "--:|" * 2 * len(names), sep="")
    for change in CHANGES:
        cells = []
        for name in names:
            mine = [row for row in rows() if row[:3] == key(change, name, 0)[:3]]
            for column, digits in ((4, 4), (5, 3)):
                values = [float(row[column]) for row in mine]
                spread = f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"
                cells.append(spread if values else "")
        print("|", " ".join(key(change, "", 0)[:2]).strip(), "|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
