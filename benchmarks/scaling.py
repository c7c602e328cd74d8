"""Seconds and peak memory of `efftune train` for increasing numbers of photos.

Makes folders of 1, 2 and 4 times the photos of FOLDER/train, each copy with a different comment in
its JPEG header so that no two files are identical, and trains on each from a cold start.

    python benchmarks/scaling.py [FOLDER] [--times 1 2 4] [--recipe quick] [--memory GIB]

FOLDER must contain a train folder with class folders of JPEG files. It defaults to
$EFFTUNE_CLOTHING.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from efftune.system import machine

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--memory", default="0", help="for cached activations, in GiB")
    arguments = parser.parse_args()
    if not arguments.folder:
        parser.error("give a folder, or set EFFTUNE_CLOTHING")
    options = ["--recipe", arguments.recipe, "--set", f"memory={arguments.memory}"]
    folder = Path(arguments.folder) / "train"
    rows = [measure(folder, times, options) for times in sorted(arguments.times)]
    print(f"{machine.machine()}\n{machine.versions()}\n")
    print(f"{'photos':>8}{'seconds':>10}{'peak MB':>10}")
    for photos, seconds, peak in rows:
        print(f"{photos:8}{seconds:10.1f}{peak:10.0f}")
    (few, quickest, low), (many, slowest, high) = rows[0], rows[-1]
    seconds_per_photo = (slowest - quickest) / (many - few)
    print(f"\n{1000 * seconds_per_photo:.2f} ms and {(high - low) / (many - few):.4f} MB")
    print(f"per additional photo, after {quickest - seconds_per_photo * few:.1f} s of start-up")
    RESULTS.mkdir(exist_ok=True)
    name = f"scaling_{arguments.recipe}.csv"
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["photos", "seconds", "peak_mb"])
        writer.writerows(rows)


def measure(photos: Path, times: int, options: list[str]) -> tuple[int, float, float]:
    with tempfile.TemporaryDirectory() as place:
        count = 0
        for path in photos.glob("*/*.jpg"):
            content = path.read_bytes()
            for i in range(times):
                copy = Path(place, "photos", path.parent.name, f"{path.stem}-{i}.jpg")
                copy.parent.mkdir(parents=True, exist_ok=True)
                note = str(i).encode()
                comment = b"\xff\xfe" + (2 + len(note)).to_bytes(2, "big") + note
                copy.write_bytes(content[:2] + comment + content[2:])
                count += 1
        command = [sys.executable, "-m", "efftune", "train", "photos", "--run", "run", "--quiet"]
        command += options
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=place,
            env=os.environ | {"EFFTUNE_CACHE": f"{place}/cache"},
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"training on {count} photos failed")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, kB elsewhere
    return count, seconds, usage.ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
