"""Seconds and peak memory of `efftune check` for increasing numbers of pictures.

Generates distinct small JPEG files in ten class folders and checks each number of them in a new
process.

    python benchmarks/check_scaling.py [--counts 12500 25000 50000 100000 1000000] [--side 64]
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from efftune.system import machine

RESULTS = Path(__file__).parent / "results"
CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    rows, written = [], 0
    with tempfile.TemporaryDirectory() as place:
        for count in sorted(arguments.counts):
            make(Path(place), written, count, arguments.side)
            written = count
            rows.append(measure(place, count))
            print("{:9,} pictures{:9.1f} s{:9.0f} MB".format(*rows[-1]), flush=True)
    print(f"\n{machine.machine()}\n{machine.versions()}")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "check_scaling.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["pictures", "seconds", "peak_mb"])
        writer.writerows(rows)


def make(place: Path, first: int, end: int, side: int) -> None:
    """Write pictures `first` to `end` - 1."""
    for i in range(CLASSES):
        (place / "pictures" / f"class {i}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(machine.usable_processors()) as pool:
        starts = range(first, end, 1000)
        for _ in pool.map(
            _make_range, *zip(*((place, i, min(i + 1000, end), side) for i in starts), strict=True)
        ):
            pass


def _make_range(place: Path, first: int, end: int, side: int) -> None:
    """Write pictures that are sums of coarse and fine random patches."""
    for i in range(first, end):
        random = np.random.default_rng(i)
        pixels = np.zeros((side, side, 3), np.float32)
        for cells in (2, 4, 9, 20):
            patches = random.integers(0, 256, (cells, cells, 3), np.uint8)
            large = Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)
            pixels += np.asarray(large, np.float32) / 4
        path = place / "pictures" / f"class {i % CLASSES}" / f"{i:06}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=85)


def measure(place: str, count: int) -> tuple[int, float, float]:
    command = [sys.executable, "-m", "efftune", "check", "pictures", "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=place,
        env=os.environ | {"EFFTUNE_CACHE": f"{place}/cache"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: there are findings
        raise SystemExit(f"checking {count} pictures failed")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, kB elsewhere
    return count, seconds, usage.ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
