"""Ways of training compared: whole commands, each in a process of its own with an empty cache.

A way is what follows `efftune train SOURCE`. Every way is run for each source and seed, one after
the other; the accuracy is that of the test split, which the seed draws if the source brings none.
Differences and ratios are those to the first way with the same source and seed, and their standard
error is that of the mean over sources of the mean over seeds. Columns of the CSV: source, way,
seed, model, accuracy, validation accuracy, number of test pictures, seconds.

    python benchmarks/ways.py SOURCE… --ways "--recipe quick" "--recipe balanced" [--seeds 3]
        [--out ways.csv]
"""

import argparse
import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from efftune.system import machine

COLUMNS = ("source", "way", "seed", "model", "accuracy", "val", "pictures", "seconds")


def measure(source: str, way: str, seed: int) -> dict:
    """Run one command; a failure ends the script."""
    with tempfile.TemporaryDirectory() as place:
        run, cache = Path(place) / "run", Path(place) / "cache"
        options = [*shlex.split(way), "--seed", str(seed), "--run", str(run), "--json", "--quiet"]
        command = [sys.executable, "-m", "efftune", "train", source, *options]
        start = time.perf_counter()
        environment = os.environ | {"EFFTUNE_CACHE": str(cache)}
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{shlex.join(command)}\n{done.stderr}")
        summary = json.loads(done.stdout)
        pictures = json.loads((run / "run.json").read_text())["data"]["pictures"]["test"]
    values = (summary["model"], summary["test"]["accuracy"], summary["val"]["accuracy"])
    row = (Path(source).name, way, seed, *values, pictures, round(seconds, 1))
    return dict(zip(COLUMNS, row, strict=True))


def summary(rows: list[dict], ways: list[str]) -> None:
    """Print accuracies and seconds by source and way, and differences and ratios to the first."""
    sources = list(dict.fromkeys(row["source"] for row in rows))
    cells = {
        (source, way): sorted(
            (int(row["seed"]), float(row["accuracy"]), float(row["seconds"]), row["model"])
            for row in rows
            if row["source"] == source and row["way"] == way
        )
        for source in sources
        for way in ways
    }
    for source in sources:
        for way in ways:
            _, accuracies, seconds, models = zip(*cells[source, way], strict=True)
            spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
            print(
                f"{source:20} {way:50} {statistics.mean(accuracies):.4f} ± {spread:.4f}"
                f"{statistics.mean(seconds):8.1f} s  {' '.join(sorted(set(models)))}"
            )
    for way in ways[1:]:
        gains, ratios = [], []
        for source in sources:
            pairs = list(zip(cells[source, way], cells[source, ways[0]], strict=True))
            gains.append(statistics.mean(ours[1] - first[1] for ours, first in pairs))
            ratios.append(statistics.mean(ours[2] / first[2] for ours, first in pairs))
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        each = " ".join(f"{100 * gain:+.1f}" for gain in gains)
        print(
            f"{way} against {ways[0]}: {100 * statistics.mean(gains):+.2f} ± {100 * error:.2f} "
            f"points ({each}), {statistics.geometric_mean(ratios):.2f} times its seconds"
        )


def main() -> None:
    """Measure what the file does not hold yet, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--ways", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("ways.csv"))
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    rows = []
    if arguments.out.exists():
        with arguments.out.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    done = {(row["source"], row["way"], int(row["seed"])) for row in rows}
    for seed in range(arguments.seeds):
        for source in arguments.sources:
            for way in arguments.ways:
                if (Path(source).name, way, seed) in done:
                    continue
                rows.append(measure(source, way, seed))
                print(rows[-1], file=sys.stderr, flush=True)
                with arguments.out.open("w", newline="") as stream:
                    writer = csv.DictWriter(stream, COLUMNS)
                    writer.writeheader()
                    writer.writerows(rows)
    wanted = {Path(source).name for source in arguments.sources}
    summary([row for row in rows if row["source"] in wanted], arguments.ways)


if __name__ == "__main__":
    main()
