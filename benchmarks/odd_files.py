"""Odd files and odd layouts, through `efftune` as users run it: each command in its own process.

Makes more than 3,000 odd files (tests/data/odd_files.py says what is true of each) and takes them
through `check`, `train --recipe quick`, `predict` and `report`; and 82 folders, archives and tables
as people lay them out (tests/data/odd_layouts.py), through `check` and `train --recipe quick`.
Prints what came, and every fault: a traceback, a wrong exit code, a file that is not listed once
with a true reason, a layout taken for something else. Exits with 1 if there is any.

    python benchmarks/odd_files.py [--processes 2] [--every 1] [--only files]
        [--keep FOLDER]

`--every 20` takes a twentieth of the files and of the layouts.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from efftune.data.examples import LEFTOVERS
from efftune.system import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from data import odd_files, odd_layouts  # noqa: E402  (found by the line above)
from data.odd_files import OddFile  # noqa: E402
from data.odd_layouts import Layout  # noqa: E402

SECONDS = 900  # that a command may take
SMALL = ("--recipe", "quick", "--set", "image_size=32")
SCRIPTS = (b"<script>alert(", b"<img src=x")  # in names of files


@dataclass
class Case:
    """What came of the files, or of a layout.

    Attributes:
        name: of it.
        came: of each command, in words.
        faults: in words.
    """

    name: str
    came: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def efftune(
        self, place: Path, *arguments: object, code: int, given: bytes = b""
    ) -> tuple[bytes, str]:
        """Run a command, which must exit with this code; gives stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "efftune", *map(str, arguments)],
            check=False,
            cwd=place,
            env=os.environ | {"EFFTUNE_CACHE": str(place.parent / "cache")},
            input=given,
            capture_output=True,
            timeout=SECONDS,
        )
        stderr = done.stderr.decode(errors="surrogateescape")
        last = (stderr.strip().splitlines() or [""])[-1]
        command = f"{arguments[0]}: exit code {done.returncode}"
        self.came.append(command)
        if done.returncode != code:
            self.faults.append(f"{command} instead of {code}: {last[:300]}")
        if "Traceback" in stderr or b"Traceback" in done.stdout:
            self.faults.append(f"{arguments[0]}: a traceback: {last[:300]}")
        return done.stdout, stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=machine.usable_processors())
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", choices=["files", "layouts"], help="half of it")
    parser.add_argument("--keep", type=Path, help="a folder for what is made")
    arguments = parser.parse_args()
    start = time.perf_counter()
    warnings.filterwarnings("ignore", module="PIL")  # of files that are spoilt on purpose
    with tempfile.TemporaryDirectory() as temporary:
        place = (arguments.keep or Path(temporary)).resolve()
        cases: list[Callable[[], Case]] = []
        if arguments.only != "layouts":
            cases.append(partial(files_case, place / "files", arguments.every))
        if arguments.only != "files":
            layouts = enumerate(odd_layouts.layouts()[:: arguments.every])
            cases += [partial(layout_case, place / f"{i:02}", each) for i, each in layouts]
        with ThreadPoolExecutor(arguments.processes) as pool:
            finished = list(pool.map(_shown, cases))
    faults = [f"{case.name}: {fault}" for case in finished for fault in case.faults]
    print(f"\n{len(faults)} faults in {time.perf_counter() - start:.0f} seconds")
    print("\n".join(faults))
    print(f"\n{machine.machine()}\n{machine.versions()}")
    sys.exit(bool(faults))


def _shown(case: Callable[[], Case]) -> Case:
    """Run a case, and print its row of the table."""
    done = case()
    verdict = f"{len(done.faults)} FAULTS" if done.faults else "as it is"
    print(f"{verdict:10}{done.name:44}{', '.join(done.came)}", flush=True)
    return done


def files_case(place: Path, every: int) -> Case:
    """All odd files in one source."""
    place.mkdir(parents=True)
    made = odd_files.make(place / "odd", every)
    case = Case(f"{len(made):,} odd files")
    reasons = _checked(case, place, made)
    _, stderr = case.efftune(place, "train", "odd", *SMALL, "-q", "--run", "refused", code=1)
    if "--set damaged_files=allow" not in stderr or (place / "refused").exists():
        case.faults.append(f"train: damaged files are not refused: {stderr[-300:]}")
    allow = ("--set", "damaged_files=allow", "--run", "run", "--json", "-q")
    case.efftune(place, "train", "odd", *SMALL, *allow, code=0)
    if not (place / "run" / "examples.csv").exists():
        return case
    trained = odd_files.examples(place / "run")
    wrong = odd_files.untrue(odd_files.as_written(made), trained)
    case.faults += [f"examples.csv: {each}" for each in wrong]
    if dict(trained) != {odd_files.as_text(name): reason for name, reason in reasons.items()}:
        case.faults.append("train and check give different reasons")
    _predicted(case, place, made, reasons)
    case.efftune(place, "report", "run", code=0)
    page = (place / "run" / "report.html").read_bytes()
    case.faults += [f"report: {each!r} in the page" for each in SCRIPTS if each in page]
    kinds = Counter(each.kind for each in made)
    case.came.append(", ".join(f"{count:,} {kind}" for kind, count in kinds.items()))
    return case


def _checked(case: Case, place: Path, made: list[OddFile]) -> dict[str, str]:
    """The reasons by name that `check` gives; empty for used pictures."""
    stdout, stderr = case.efftune(place, "check", "odd", "--json", "-q", "--out", "found", code=1)
    if stderr:
        case.faults.append(f"check: messages in spite of --quiet: {stderr[:300]}")
    found: dict[str, set[str]] = defaultdict(set)
    aside: list[tuple[str, str]] = []
    findings = json.loads(stdout)["findings"]
    for each in findings:
        found[each["name"]].add(each["kind"])
        if each["kind"] not in PICTURES:
            aside.append((each["name"], each["detail"]))
    names = {each.name for each in made}
    # Leftovers of programs are no finding, and other findings are about classes.
    listed = [(name, reason) for name, reason in aside if name in names]
    listed += [(each.name, each.reasons) for each in made if each.reasons in LEFTOVERS]
    listed += [(name, "") for name in sorted(names - {name for name, _ in listed})]
    case.faults += [f"check: {each}" for each in odd_files.untrue(made, listed)]
    used = [each for each in made if not dict(listed)[each.name]]
    case.faults += [f"check: {each}" for each in odd_files.wrong_facts(used, found)]
    with (place / "found" / "findings.csv").open(newline="", encoding="utf-8") as stream:
        rows = Counter(row["name"] for row in csv.DictReader(stream))
    if rows != Counter(odd_files.as_text(each["name"]) for each in findings):
        case.faults.append("check: findings.csv has other rows than the JSON")
    return dict(listed)


# Findings about pictures that are used.
PICTURES = odd_files.FACTS | {"exact-copy", "near-copy", "contradiction", "leak", "small-class"}
PICTURES |= {"dark", "blown-out", "uniform", "blurry", "imbalance"}


def _predicted(case: Case, place: Path, made: list[OddFile], reasons: dict[str, str]) -> None:
    """Predict the files one by one, and as a folder."""
    given = [f"odd/{each.name}" for each in made if not (place / "odd" / each.name).is_dir()]
    paths = b"\0".join(map(os.fsencode, given)) + b"\0"
    stdout, stderr = case.efftune(place, "predict", "run", "-", "--json", "-q", code=1, given=paths)
    predicted = [json.loads(line)["path"] for line in stdout.splitlines()]
    warned = stderr.splitlines()
    # Whatever is named is predicted, be it called like a leftover.
    expected = {name for name in given if reasons[name[4:]] in ("", *LEFTOVERS)}
    if len(predicted) != len(expected) or set(predicted) != expected:
        odd = sorted(set(predicted) ^ expected)
        case.faults.append(
            f"predict: {len(predicted)} pictures, expected {len(expected)}: {odd[:3]}"
        )
    missing = [
        name for name in given
        if name not in expected and warned.count(f"{name}: {reasons[name[4:]]}") != 1
    ]  # fmt: skip
    if missing or len(warned) != len(given) - len(expected):
        case.faults.append(f"predict: not named once: {missing[:3]}; {len(warned)} messages")
    stdout, _ = case.efftune(place, "predict", "run", "odd", "--json", "-q", code=1)
    in_folder = Counter(json.loads(line)["path"] for line in stdout.splitlines())
    used = {f"odd/{name}": 1 for name, reason in reasons.items() if not reason}
    if in_folder != used:
        odd = sorted(in_folder.keys() ^ used.keys())
        case.faults.append(
            f"predict: {len(in_folder)} of a folder, expected {len(used)}: {odd[:3]}"
        )


def layout_case(place: Path, layout: Layout) -> Case:
    """A layout."""
    case = Case(layout.name)
    folder = place / "source"
    folder.mkdir(parents=True)
    source = layout.make(folder)
    code = int(bool(layout.problems)) if layout.taken else layout.code
    stdout, stderr = case.efftune(folder, "check", source, *layout.options, "--json", code=code)
    case.faults += [f"check: {each}" for each in _mistaken(layout, stderr)]
    if layout.taken and stdout:
        case.faults += [f"check: {each}" for each in _other_than(layout, json.loads(stdout))]
    train = ("train", source, *layout.options, *SMALL, "--run", place / "run", "--json")
    _, stderr = case.efftune(folder, *train, code=layout.code)
    case.faults += [f"train: {each}" for each in _mistaken(layout, stderr)]
    if layout.refused and layout.refused not in stderr:
        case.faults.append(f"train: no {layout.refused!r} in the message: {stderr[-300:]}")
    if not layout.refused and "efftune: " in stderr:
        case.faults.append(f"train: a warning: {stderr[stderr.index('efftune: ') :][:300]}")
    if layout.refused and (place / "run").exists():
        case.faults.append("train: it is refused, and leaves a run")
    if not layout.refused and (place / "run").exists():
        used = sum(not reason for _, reason in odd_files.examples(place / "run"))
        if used != sum(layout.pictures.values()):
            case.faults.append(f"train: {used} pictures, expected {sum(layout.pictures.values())}")
    return case


def _mistaken(layout: Layout, stderr: str) -> Iterator[str]:
    """What the messages say about the layout that is not so."""
    if layout.taken and layout.taken not in stderr:
        yield f"not taken for {layout.taken!r}: {stderr[:300]}"
    if not layout.taken and layout.refused not in stderr:
        yield f"no {layout.refused!r} in the message: {stderr[-300:]}"


def _other_than(layout: Layout, checked: dict) -> Iterator[str]:
    """What `check` finds in a layout that is not so."""
    counts = odd_layouts.counted(checked["classes"])
    if counts != dict(layout.pictures):
        yield f"{counts}, expected {dict(layout.pictures)}"
    problems = {each["kind"] for each in checked["findings"] if each["problem"]}
    if problems != layout.problems:
        yield f"problems {sorted(problems)}, expected {sorted(layout.problems)}"


if __name__ == "__main__":
    main()
