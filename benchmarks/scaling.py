"""Seconds and peak memory of `efftune train` on ever more photos.

Makes folders of 1, 2 and 4 times the photos of FOLDER/train, each copy with another comment in its
JPEG header so that no two have the same content, and trains on each from a cold start.

    python benchmarks/scaling.py [FOLDER] [--times 1 2 4] [--recipe quick] [--memory GIB]

FOLDER needs a train folder of JPEG class folders. It defaults to $EFFTUNE_CLOTHING.
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
    parser.add_argument("--memory", default="0", help="for kept activations, in GiB")
    asked = parser.parse_args()
    if not asked.folder:
        parser.error("name a folder, or set EFFTUNE_CLOTHING")
    options = ["--recipe", asked.recipe, "--set", f"memory={asked.memory}"]
    folder = Path(asked.folder) / "train"
    rows = [measured(folder, times, options) for times in sorted(asked.times)]
    print(f"{machine.machine()}\n{machine.versions()}\n")
    print(f"{'photos':>8}{'seconds':>10}{'peak MB':>10}")
    for photos, seconds, peak in rows:
        print(f"{photos:8}{seconds:10.1f}{peak:10.0f}")
    (few, quickest, low), (many, slowest, high) = rows[0], rows[-1]
    pace = (slowest - quickest) / (many - few)
    print(f"\n{1000 * pace:.2f} ms and {(high - low) / (many - few):.4f} MB a photo more, ", end="")
    print(f"beyond a start of {quickest - pace * few:.1f} s")
    RESULTS.mkdir(exist_ok=True)
    name = f"scaling_{asked.recipe}.csv"
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["photos", "seconds", "peak_mb"])
        writer.writerows(rows)


def measured(photos: Path, times: int, options: list[str]) -> tuple[int, float, float]:
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
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"training on {count} photos failed")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in kB here
    return count, seconds, used.ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
