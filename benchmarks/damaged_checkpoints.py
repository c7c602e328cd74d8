"""Checkpoints whose writer is stopped, and checkpoints that are damaged: which state is loaded?

Whatever happens, it must be the one that was being written or the one before it, whole.

    python benchmarks/damaged_checkpoints.py kills [--times 1000]   # of the writer, anywhere
    python benchmarks/damaged_checkpoints.py calls    # as root, with strace: at each system call
    python benchmarks/damaged_checkpoints.py damage [--times 1100]  # 1 of 11 cut, others flipped
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from efftune.errors import EfftuneWarning
from efftune.system import machine
from efftune.system.journal import FOLDER, Journal

WORK = "upper"
ARRAYS = 30
LONGEST = 0.1  # seconds that a writer lives
CALL = re.compile(r"(\w+)\(")
OF_MEMORY = {"brk", "mmap", "munmap", "madvise"}  # their number varies, and no file does by them


def save(journal: Journal, step: int) -> None:
    """Save a state of about 300 kB, every value of which tells its step."""
    arrays = [np.full((60, 40), step, np.float32) for _ in range(ARRAYS)]
    journal.checkpoints(WORK).save({"step": step}, {"weights": arrays})


def loaded(run: Path) -> tuple[int, bool]:
    """What a resumed run loads.

    Returns:
        The step of the state, -1 if there is none or not a whole one; and whether it was told that
        another one is damaged.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        journal = Journal.reopened(run)
        try:
            found = journal.checkpoints(WORK).latest()
        finally:
            journal.close()
    is_told = any(issubclass(each.category, EfftuneWarning) for each in told)
    if found is None or list(run.rglob(".partial-*")):
        return -1, is_told
    state, arrays = found
    whole = all((x == state["step"]).all() for x in arrays["weights"])
    return state["step"] if whole and len(arrays["weights"]) == ARRAYS else -1, is_told


def writer(run: Path, first: int, last: int, *, waits: bool = False) -> int:
    """Start a process that resumes a run and saves some steps; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        if waits:
            os.kill(os.getpid(), signal.SIGSTOP)
        journal = Journal.reopened(run)
        for step in range(first, last):
            save(journal, step)
    finally:
        os._exit(0)  # without the parent's tidying up


def kills(run: Path, times: int) -> int:
    """Kill the writer at random moments; returns how often a wrong state was loaded."""
    bad, step, seen = 0, 0, Counter()
    for _ in range(times):
        process = writer(run, step + 1, sys.maxsize)
        time.sleep(random.uniform(0, LONGEST))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        seen["while writing" if list(run.rglob(".partial-*")) else "between two files"] += 1
        found, is_told = loaded(run)
        bad += found < step or is_told
        step = max(step, found)
    print(f"{times} kills: {dict(seen)}; {step} states were saved")
    return bad + (step == 0)


def traced(run: Path, log: Path, inject: str = "") -> None:
    """Save one step under strace."""
    process = writer(run, 1, 2, waits=True)
    os.waitpid(process, os.WUNTRACED)
    words = ["strace", "-qq", "-p", str(process), "-o", str(log)]
    words += ["-e", f"inject={inject}"] if inject else []
    strace = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{process}/status")
    while "TracerPid:\t0\n" in status.read_text():
        if strace.poll() is not None:
            os.kill(process, signal.SIGKILL)
            sys.exit("strace cannot attach to a process here.")
        time.sleep(0.002)
    os.kill(process, signal.SIGCONT)
    os.waitpid(process, 0)
    strace.wait()


def calls(run: Path, _times: int) -> int:
    """Kill the writer at each system call; returns how often a wrong state was loaded."""
    bad, found = 0, Counter()
    kept, log = run.with_name("kept"), run.with_name("calls")
    shutil.copytree(run, kept)
    traced(run, log)
    made = [match[1] for line in log.read_text().splitlines() if (match := CALL.match(line))]
    made = [name for name in made if name not in OF_MEMORY]
    counts: Counter[str] = Counter()
    for name in made:
        counts[name] += 1
        shutil.rmtree(run)
        shutil.copytree(kept, run)
        traced(run, log, f"{name}:signal=SIGKILL:when={counts[name]}")
        killed = "killed by SIGKILL" in log.read_text()
        step, is_told = loaded(run)
        found["not killed" if not killed else {0: "old", 1: "new"}.get(step, "none")] += 1
        bad += step not in (0, 1) or is_told or not killed
    print(f"{len(made)} system calls: {dict(counts)}\nloaded: {dict(found)}")
    return bad


def damage(run: Path, times: int) -> int:
    """Damage a file of the newest checkpoint; returns how often that was not noticed."""
    bad, seen = 0, Counter()
    folder = run / FOLDER / "checkpoints" / WORK
    for time_ in range(times):
        journal = Journal.reopened(run)
        save(journal, 2 * time_ + 1)
        save(journal, 2 * time_ + 2)
        journal.close()
        path = random.choice(sorted(max(folder.iterdir()).iterdir()))
        content = bytearray(path.read_bytes())
        if time_ % 11 == 0:
            how, content = "cut", content[: random.randrange(len(content))]
        else:
            how = "flipped"
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
        step, is_told = loaded(run)
        seen[f"{path.name} {how}"] += 1
        bad += not (is_told and step == 2 * time_ + 1)
    print(dict(sorted(seen.items())))
    return bad


def main() -> None:
    """Stop writers, or damage what they wrote; exits with 1 if a wrong state was loaded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=("kills", "calls", "damage"))
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    random.seed(arguments.seed)
    ways = {"kills": (kills, 1000), "calls": (calls, 0), "damage": (damage, 1100)}
    way, times = ways[arguments.way]
    with tempfile.TemporaryDirectory() as place:
        run = Path(place, "run")
        run.mkdir()
        journal = Journal()
        journal.begin(run, {})
        save(journal, 0)
        journal.close()
        bad = way(run, arguments.times or times)
    print(f"{bad} wrong")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
