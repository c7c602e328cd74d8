"""Recall and precision of near-duplicate detection, in `efftune check` and in other packages.

Takes the photos of FOLDER/train and FOLDER/validation, adds copies of some of them, each cropped by
up to 5 % per side, brightened or darkened by up to 10 %, resized to 40 to 80 % and encoded again at
quality 40 to 80, and counts the pairs that are found.

    python benchmarks/near_duplicates.py [FOLDER] [--seed 1] [--copies 300] [--peers PYTHON]
        [--keep FILE]

FOLDER defaults to $EFFTUNE_CLOTHING. PYTHON is an interpreter that has imagehash, cleanvision or
imagededup; packages that it lacks are skipped. The pairs that efftune finds in addition to the
planted ones are written to FILE for manual review. `near_duplicates_real.csv` lists the pairs of
clothing photos that were reviewed and are real copies.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from efftune.data.sources import discovery

REAL = Path(__file__).with_name("near_duplicates_real.csv")
RESULTS = Path(__file__).parent / "results"
THRESHOLDS = (0, 4, 8, 10, 12, 16)  # Hamming distances, in bits
Pairs = set[frozenset[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--peers", help="an interpreter with the other packages")
    parser.add_argument("--keep", type=Path, help="a file for the pairs that were not planted")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.folder:
        parser.error("give a folder, or set EFFTUNE_CLOTHING")
    if arguments.run:
        print(
            json.dumps(
                [[name, s, [*map(sorted, p)]] for name, s, p in RUNS[arguments.run](arguments)]
            )
        )
        return
    with tempfile.TemporaryDirectory() as place:
        planted = plant(Path(arguments.folder), Path(place), arguments.copies, arguments.seed)
        rows = []
        for run in RUNS:
            python = sys.executable if run == "efftune" else arguments.peers
            for name, seconds, found in results_of(python, run, place) if python else ():
                rows.append([name, round(seconds, 1), *score(found, planted)])
                if run == "efftune" and arguments.keep:
                    write_unplanted(arguments.keep, found, planted)
    report(rows, arguments.seed)


def plant(folder: Path, place: Path, copies: int, seed: int) -> Pairs:
    """Link the photos to one folder and add altered copies of some; returns the planted pairs."""
    names = {}
    for path in sorted(folder.glob("train/*/*.jpg")) + sorted(folder.glob("validation/*/*.jpg")):
        name = f"{path.parent.name}/{path.parts[-3]} {path.name}"
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).symlink_to(path.resolve())
        names[name] = path
    random = np.random.default_rng(seed)
    planted = set()
    for name in sorted(random.choice(sorted(names), copies, replace=False).tolist()):
        copy = name.replace(".jpg", " copy.jpg")
        picture, quality = altered(names[name], random)
        picture.save(place / copy, "JPEG", quality=quality)
        planted.add(frozenset((name, copy)))
    return planted


def altered(path: Path, random: np.random.Generator) -> tuple[Image.Image, int]:
    with Image.open(path) as image:
        picture = ImageOps.exif_transpose(image).convert("RGB")
    width, height = picture.size
    left, top, right, bottom = random.uniform(0, 0.05, 4) * (width, height, width, height)
    picture = picture.crop((round(left), round(top), round(width - right), round(height - bottom)))
    picture = ImageEnhance.Brightness(picture).enhance(random.uniform(0.9, 1.1))
    share = random.uniform(0.4, 0.8)
    size = (round(share * picture.width), round(share * picture.height))
    return picture.resize(size, Image.Resampling.LANCZOS), int(random.integers(40, 81))


def results_of(python: str, run: str, place: str) -> list[tuple[str, float, Pairs]]:
    """Name, seconds and pairs of each method of a package, run in a new process."""
    command = [python, __file__, place, "--run", run]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{run} is skipped: {(done.stderr.strip() or '?').splitlines()[-1]}")
        return []
    for line in done.stderr.splitlines():
        if "is skipped" in line:
            print(line)
    results = json.loads(done.stdout.splitlines()[-1])
    return [(name, seconds, set(map(frozenset, pairs))) for name, seconds, pairs in results]


def original(name: str) -> str:
    return name.replace(" copy.jpg", ".jpg")


def not_planted(found: Pairs) -> Pairs:
    """The pairs of different photos among those found, named by their originals."""
    pairs = (frozenset(map(original, pair)) for pair in found)
    return {pair for pair in pairs if len(pair) == 2}


def score(found: Pairs, planted: Pairs) -> tuple[float, float, float]:
    """Recall; precision counting planted pairs only; precision counting those in `REAL` too."""
    with REAL.open(encoding="utf-8", newline="") as stream:
        real = {frozenset((row["first"], row["second"])) for row in csv.DictReader(stream)}
    hits = len(found & planted)
    real_copies = sum(frozenset(map(original, pair)) in real for pair in found)
    total = max(1, len(found))
    return hits / len(planted), hits / total, (hits + real_copies) / total


def write_unplanted(path: Path, found: Pairs, planted: Pairs) -> None:
    for pair in sorted(map(sorted, planted - found)):
        print(f"missed: {pair[0]}")
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["first", "second"])
        writer.writerows(sorted(map(sorted, not_planted(found))))


def report(rows: list[list[object]], seed: int) -> None:
    headings = ["finder", "seconds", "recall", "precision", "precision looked at"]
    print(("{:32}" + "{:>12}" * 3 + "{:>22}").format(*headings))
    for row in rows:
        print("{:32}{:12.1f}{:12.3f}{:12.3f}{:22.3f}".format(*row))
    RESULTS.mkdir(exist_ok=True)
    name = f"near_duplicates_{seed}.csv"
    with (RESULTS / name).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([headings, *rows])


MethodResults = Iterator[tuple[str, float, Pairs]]


def with_efftune(arguments: argparse.Namespace) -> MethodResults:
    from efftune.data import inspection, near_duplicates

    start = time.perf_counter()
    examples, measurements, thumbnails = inspection.inspect(discovery.find(arguments.folder))
    inspection_seconds = time.perf_counter() - start
    rows = [row for row in examples.rows if row.usable]
    pairs = near_duplicates.pairs(rows, measurements, thumbnails)
    seconds = time.perf_counter() - start
    found = {frozenset((rows[pair.first].name, rows[pair.second].name)) for pair in pairs}
    milliseconds = 1000 * inspection_seconds / len(rows)
    yield f"efftune (inspection: {milliseconds:.1f} ms)", seconds, found


def with_imagehash(arguments: argparse.Namespace) -> MethodResults:
    import imagehash

    start = time.perf_counter()
    paths = sorted(Path(arguments.folder).glob("*/*.jpg"))
    names = [path.relative_to(arguments.folder).as_posix() for path in paths]
    bits = []
    for path in paths:
        with Image.open(path) as image:
            bits.append(imagehash.phash(image).hash.ravel())
    hashes = np.packbits(bits, axis=1).view(np.uint64).ravel()
    hashed = time.perf_counter() - start
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    for threshold in THRESHOLDS:
        ends = zip(*np.nonzero(np.triu(distances <= threshold, 1)), strict=True)
        found = {frozenset((names[i], names[j])) for i, j in ends}
        yield f"imagehash phash, {threshold} bits", hashed, found


def with_cleanvision(arguments: argparse.Namespace) -> MethodResults:
    from cleanvision import Imagelab

    start = time.perf_counter()
    lab = Imagelab(data_path=arguments.folder, verbose=False)
    lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, verbose=False)
    kinds = ("exact_duplicates", "near_duplicates")
    sets = [each for kind in kinds for each in lab.info[kind]["sets"]]
    seconds = time.perf_counter() - start
    yield "cleanvision", seconds, _all_pairs(arguments.folder, sets)


def with_imagededup(arguments: argparse.Namespace) -> MethodResults:
    from imagededup import methods

    finders: dict[str, Callable[[], object]] = {
        "imagededup PHash, 10 bits": lambda: methods.PHash().find_duplicates(
            image_dir=arguments.folder, recursive=True
        ),
        "imagededup CNN, 0.9": lambda: methods.CNN().find_duplicates(
            image_dir=arguments.folder, recursive=True
        ),
    }
    for name, find in finders.items():
        start = time.perf_counter()
        try:
            copies = find()
        except Exception as error:  # noqa: BLE001  (such as weights that cannot be downloaded)
            print(f"{name} is skipped: {error}", file=sys.stderr)
            continue
        seconds = time.perf_counter() - start
        sets = ((first, other) for first, others in copies.items() for other in others)
        yield name, seconds, _all_pairs(arguments.folder, sets)


def _all_pairs(folder: str, sets: Iterable[Iterable[str]]) -> Pairs:
    """All pairs within sets of paths, named relative to the folder."""
    found = set()
    for each in sets:
        names = [os.path.relpath(Path(folder, path), folder) for path in each]
        found |= {frozenset(pair) for pair in combinations(names, 2)}
    return found


RUNS: dict[str, Callable[[argparse.Namespace], MethodResults]] = {
    "efftune": with_efftune,
    "imagehash": with_imagehash,
    "cleanvision": with_cleanvision,
    "imagededup": with_imagededup,
}

if __name__ == "__main__":
    main()
