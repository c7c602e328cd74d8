"""Runs that are stopped and go on: killed or asked to end at random moments, or on a full disk.

Small runs on made pictures of noise at 32 pixels, with dropout and drop-connect. Each is compared
with a run that was never stopped: `predictions.csv`, `evaluation.json`, `recipe.toml`, the history
without its times, and all weights must have the same SHA-256. Checkpoints are written after each
step. For each run, prints the phases in which it was killed, or the space there was, and whether it
came to the same.

    python benchmarks/stopped_runs.py kills [--times 50] [--seed 0] [--recipes quick balanced …]
    python benchmarks/stopped_runs.py signals [--times 20] [--seed 0]    # SIGINT and SIGTERM
    python benchmarks/stopped_runs.py disk [--times 20] [--seed 0]    # as root: mounts a tmpfs
"""

import argparse
import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from efftune.system import machine

RANDOM = "--set dropout=0.2 --set drop_connect_rate=0.2 --set ema=0.5 --set mix=cutmix"
SMALL = "--image-size 32 --unfreeze block6 --epochs 3 --batch-size 8 --augment light"
RECIPES = {
    "quick": "--recipe quick --image-size 32 --test 0.15",
    "balanced": f"--recipe balanced --test 0.15 {SMALL} {RANDOM}",
    "folds": f"--recipe balanced --folds 2 {SMALL} {RANDOM}",
    "thorough": f"--recipe thorough --test 0.15 {SMALL} {RANDOM} --set members=2",
}
FILES = ("predictions.csv", "evaluation.json", "recipe.toml", "examples.csv", "openvino/model.bin")
STOPS = 2  # of each run
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
LONGEST = 10.0  # seconds until a run has ended that was asked to


def make_pictures(folder: Path) -> None:
    """Thirty-two pictures of each of three classes that are hard to tell apart."""
    for name, colour in {"a": (120, 120, 120), "b": (124, 120, 116), "c": (116, 120, 124)}.items():
        (folder / name).mkdir(parents=True)
        for i in range(32):
            pixels = np.random.default_rng([i, *colour]).normal(colour, 70, (40, 48, 3))
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(folder / name / f"{i:02}.png")


def result(run: Path) -> dict[str, str]:
    """SHA-256 by file, of all that must not depend on whether a run was stopped."""
    contents = {name: (run / name).read_bytes() for name in FILES}
    with (run / "history.csv").open(newline="") as stream:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(stream)]
    contents["history.csv"] = json.dumps(rows).encode()
    with zipfile.ZipFile(run / "model.keras") as archive:
        stored = io.BytesIO(archive.read("model.weights.h5"))
    weights: list[bytes] = []
    with h5py.File(stored) as file:
        file.visititems(
            lambda name, each: (
                weights.append(name.encode() + each[()].tobytes())
                if isinstance(each, h5py.Dataset)
                else None
            )
        )
    contents["model.keras"] = b"".join(weights)
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def phase(run: Path) -> str:
    """The phase that a run has reached."""
    try:
        record = json.loads((run / "run.json").read_text())
    except OSError:
        return "before it began"
    return str(record.get("phase", "at its end"))


class Command:
    """A command that trains in a folder, with a cache of its own."""

    def __init__(self, photos: Path, run: Path, options: str):
        self.run = run
        self.words = [sys.executable, "-m", "efftune", "train", str(photos), *options.split()]
        self.words += ["--quiet", "--run", str(run), "--resume"]
        self.environment = os.environ | {
            "EFFTUNE_CHECKPOINT_SECONDS": "0",
            "EFFTUNE_CACHE": str(run.with_name(f"{run.name}-cache")),
        }

    def start(self) -> "subprocess.Popen[str]":
        """Start it in a process group of its own."""
        return subprocess.Popen(
            self.words,
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> tuple[int, str]:
        """Run to the end; returns the exit code and what was printed of errors."""
        process = self.start()
        _, errors = process.communicate()
        return process.returncode, errors

    def clear(self) -> None:
        """Remove its run and its cache."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.environment["EFFTUNE_CACHE"], ignore_errors=True)


def stop(command: Command, seconds: float, number: int) -> tuple[str, bool]:
    """Stop a command and its children after some seconds.

    Returns:
        The phase it was in, and whether it ended as it should.
    """
    process = command.start()
    try:
        process.communicate(timeout=seconds)
        return "at its end", process.returncode == 0
    except subprocess.TimeoutExpired:
        pass
    began = time.perf_counter()
    os.killpg(process.pid, number)
    _, errors = process.communicate()
    took, where = time.perf_counter() - began, phase(command.run)
    if number == signal.SIGKILL:
        return where, True
    # A run that has not trained yet is removed: it goes on from the cache.
    told = where in ("before it began", "at its end") or "efftune resume" in errors
    # Python itself handles no signals any more while it ends.
    codes = (0, CODES[number], -number) if where == "at its end" else (CODES[number],)
    good = process.returncode in codes and took <= LONGEST and told
    return f"{where} ({took:.1f} s, code {process.returncode})", good


def stops(
    place: Path,
    photos: Path,
    times: int,
    numbers: Sequence[signal.Signals],
    recipes: Sequence[str],
) -> int:
    """Stop runs at random moments; returns how many did not end as they should."""
    bad, stopped = 0, 0
    for name in recipes:
        options = RECIPES[name]
        began = time.perf_counter()
        whole = Command(photos, place / f"{name}-whole", options)
        code, errors = whole.finish()
        if code:
            sys.exit(errors)
        took, expected = time.perf_counter() - began, result(whole.run)
        for number in range(-(-times // len(recipes))):
            command = Command(photos, place / f"{name}-{number}", options)
            ends = [
                stop(command, random.uniform(0.5, took), random.choice(numbers))
                for _ in range(STOPS)
            ]
            code, errors = command.finish()
            same = not code and result(command.run) == expected
            good = same and all(good for _, good in ends)
            bad += not good
            phases = "; ".join(where for where, _ in ends)
            stopped += sum(where != "at its end" for where, _ in ends)
            print(f"{name:10} {'same' if good else 'OTHER'}  stopped in: {phases}")
            print(errors if not good else "", end="", flush=True)
            command.clear()
    print(f"{stopped} stops before a run's end")
    return bad


def disk(place: Path, photos: Path, times: int) -> int:
    """Let a small disk fill up, make room and go on; returns how many ended in another way."""
    bad, options = 0, RECIPES["balanced"]
    whole = Command(photos, place / "whole", options)
    code, errors = whole.finish()
    if code:
        sys.exit(errors)
    expected = result(whole.run)
    volume = place / "volume"
    volume.mkdir()
    for _ in range(times):
        size = random.randint(1, 400)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", volume], check=True)
        try:
            command = Command(photos, volume / "run", options)
            code, errors = command.finish()
            told = errors.strip().splitlines()[-1] if errors.strip() else ""
            named = code == 0 or (code == 1 and "free" in told)
            subprocess.run(["mount", "-o", "remount,size=2g", volume], check=True)
            again, errors = command.finish()
            same = not again and result(command.run) == expected
        finally:
            subprocess.run(["umount", volume], check=True)
        bad += not (named and same)
        outcome = "same" if named and same else "OTHER"
        print(f"{outcome:6} {size:4} MB: code {code} {told}", flush=True)
        print(errors if not same else "", end="", flush=True)
    return bad


def main() -> None:
    """Stop runs in one of three ways; exits with 1 if one ended badly or came to something else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=("kills", "signals", "disk"))
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=list(RECIPES))
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    random.seed(arguments.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # scripts' background jobs ignore it
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_pictures(place / "photos")
        photos, times = place / "photos", arguments.times
        if arguments.way == "disk":
            bad = disk(place, photos, times or 20)
        elif arguments.way == "kills":
            bad = stops(place, photos, times or 50, [signal.SIGKILL], arguments.recipes)
        else:
            bad = stops(place, photos, times or 20, list(CODES), arguments.recipes)
    print(f"{bad} ended badly or did not come to the same")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
