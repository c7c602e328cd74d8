"""Whether runs keep their `--budget`: alone, and beside a process that keeps one processor busy.

Budgets of 15 seconds to 5 minutes, each with an empty cache, as `efftune train` on the command
line; wall time counts from the start of Python to its end. A budget is kept if the run ends within
it and 2 s or 5 %, whichever is more, and its classifier predicts a picture. The last budgets are
for recipes that plan otherwise.

    python benchmarks/budgets.py PHOTOS [--budgets 15 18 22 32 47 69 101 149 219 300] [--out CSV]
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from efftune.data import formats
from efftune.system import machine

BUDGETS = (15, 18, 22, 32, 47, 69, 101, 149, 219, 300)
OTHERS = ((120, "--recipe scratch --image-size 64"), (150, "--recipe thorough"))
COLUMNS = (
    "budget",
    "options",
    "beside",
    "wall",
    "kept",
    "pictures",
    "trained",
    "accuracy",
    "notes",
)
BUSY = """
import os, numpy
parent, a = os.getppid(), numpy.ones((1500, 1500), numpy.float32)
while os.getppid() == parent:  # else this one was killed
    a @ a
"""
COMMAND = (sys.executable, "-m", "efftune")


def measure(photos: Path, budget: int, options: str, *, beside: bool) -> dict[str, object]:
    """One run with a budget, in a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        run, environment = Path(place, "run"), os.environ | {"EFFTUNE_CACHE": f"{place}/cache"}
        alone = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        other = subprocess.Popen([sys.executable, "-c", BUSY], env=alone) if beside else None
        words = [*COMMAND, "train", photos, "--budget", f"{budget}s", "--run", run, "-q", "--json"]
        try:
            began = time.perf_counter()
            printed = subprocess.run(
                [*map(str, words), *shlex.split(options)],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            wall = time.perf_counter() - began
        finally:
            if other:
                other.kill()
        some = next(path for path in photos.rglob("*") if path.suffix.lower() in formats.SUFFIXES)
        predicted = subprocess.run(
            [*COMMAND, "predict", str(run), str(some), "--json"],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        record = json.loads((run / "run.json").read_text())
        notes = record["plan"]["notes"] + [x for s in record["stages"] for x in s["failures"]]
        return {
            "budget": budget,
            "options": options,
            "beside": "yes" if beside else "no",
            "wall": round(wall, 1),
            "kept": wall <= budget + max(2, 0.05 * budget) and "label" in json.loads(predicted),
            "pictures": sum(record["data"]["pictures"].values()),
            "trained": ", ".join(f"{each['epochs']} {each['name']}" for each in record["stages"]),
            "accuracy": round(json.loads(printed)["test"]["accuracy"], 3),
            "notes": "; ".join(notes),
        }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--out", type=Path, default=Path("budgets.csv"))
    arguments = parser.parse_args()
    print(machine.machine(), machine.versions())
    jobs = [(budget, "") for budget in arguments.budgets]
    jobs += OTHERS if arguments.budgets == BUDGETS else ()
    with arguments.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for budget, options in jobs:
            for beside in (False, True):
                row = measure(arguments.photos, budget, options, beside=beside)
                writer.writerow(row)
                stream.flush()
                print(row, flush=True)


if __name__ == "__main__":
    main()
