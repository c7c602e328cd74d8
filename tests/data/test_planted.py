import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

import efftune
from efftune.data.inspection import Finding

from . import planted
from .planted import Oddity

BOMB_MEMORY = 100_000  # kB

# Decodes one file after the other, and ends itself, saying where it was, if one takes 5 seconds.
ALONE = """
import faulthandler, json, resource, sys
from efftune.data import inspection, picture_bytes
from efftune.errors import BadImage
from pathlib import Path
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in json.load(sys.stdin):
    faulthandler.dump_traceback_later(5, exit=True)
    before, reason = peak(), ""
    try:
        picture_bytes.sniff(Path(name))
        inspection.measure(picture_bytes.read(Path(name)))
    except BadImage as error:
        reason = error.reason
    print(json.dumps([name, peak() - before, reason]), flush=True)
"""

# Lists a source as a user to whom not everything is open.
AS_NOBODY = """
import os, sys
from efftune.data import inspection
from efftune.data.sources import discovery
os.setgid(65534)
os.setuid(65534)
print([(row.name, row.reason) for row in discovery.find(sys.argv[1]).set_aside])
"""


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Oddity, ...]]:
    root = tmp_path_factory.mktemp("planted") / "source"
    return root, planted.plant(root, planted.textured())


@pytest.fixture(scope="module")
def checked(garden) -> efftune.Check:
    root, _ = garden
    before = state(root)
    checked = efftune.check(root)
    assert state(root) == before, "the source was changed"
    return checked


def state(root: Path) -> dict[str, tuple]:
    """Content, permissions and times of everything below a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file() and os.access(path, os.R_OK):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


def by_name(findings: Iterable[Finding]) -> dict[str, dict[str, str]]:
    """By file or class: the kinds found, and the other that each means."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for each in findings:
        found[each.name][each.kind] = each.other
    return found


def mismatches(quality_findings: Iterable[Oddity], findings: Iterable[Finding]) -> str:
    """In words, a line each: the files of which something else was found than must be."""
    found = by_name(findings)
    wrong = []
    for each in quality_findings:
        kinds = found[each.name]
        others = {other for other in kinds.values() if other}
        if kinds.keys() != each.kinds or others != ({each.other} if each.other else set()):
            got = ", ".join(f"{kind} {other}".strip() for kind, other in kinds.items())
            asked = " ".join((*sorted(each.kinds), each.other)).strip()
            wrong.append(f"{each.name!r}: expected {asked or 'nothing'}; found {got or 'nothing'}")
    return "\n".join(wrong)


@pytest.mark.ci
def test_each_oddity_gets_its_verdict(garden, checked):
    _, quality_findings = garden
    assert len([each for each in quality_findings if "ordinary" not in each.name]) >= 100
    wrong = mismatches(quality_findings, checked.findings)
    assert not wrong, wrong


@pytest.mark.shared
def test_each_oddity_of_real_photos_gets_its_verdict(clothing, tmp_path):
    quality_findings = planted.plant(tmp_path / "source", planted.photos(clothing / "train"))
    wrong = mismatches(quality_findings, efftune.check(tmp_path / "source").findings)
    assert not wrong, wrong


@pytest.mark.ci
def test_each_file_is_listed_once(garden, checked):
    _, quality_findings = garden
    names = [row.name for row in checked.examples.rows]
    assert len(names) == len(set(names))
    assert {each.name for each in quality_findings if "MACOSX" not in each.name} <= set(names)


@pytest.mark.ci
def test_classes_of_similar_names_are_reported(checked):
    pairs = {(each.name, each.other) for each in checked.findings if each.kind == "similar-names"}
    assert pairs == {("Shirt", "shirt"), ("Shirt", "shirt ")}


@pytest.mark.ci
def test_a_class_name_composed_in_two_ways_is_one_class(checked):
    assert {row.label for row in checked.examples.rows if "robe" in row.name} == {
        "robe d'\u00e9t\u00e9"
    }


@pytest.mark.ci
@pytest.mark.parametrize("name", ["Shirt", "shirt ", "robe d'\u00e9t\u00e9", "all broken"])
def test_class_that_can_hardly_be_learnt_is_reported(name, checked):
    assert {"small-class", "missing-in-split"} <= by_name(checked.findings)[name].keys()


@pytest.mark.ci
@pytest.mark.parametrize("name", planted.CLASSES)
def test_class_in_order_has_no_finding(name, checked):
    assert not {"small-class", "missing-in-split"} & by_name(checked.findings)[name].keys()


@pytest.mark.ci
def test_what_is_found_can_be_printed_whatever_the_names(checked):
    text = json.dumps(checked.to_dict()).encode("ascii")
    assert b"<script>" in text
    assert len(json.loads(text)["findings"]) == len(checked.findings)


@pytest.mark.ci
def test_command_lists_all_findings_and_survives_all_names(garden, checked, efftune_command):
    done = efftune_command("check", garden[0], "--json", "--out", "found")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["findings"] == checked.to_dict()["findings"]
    plain = efftune_command("check", garden[0])
    assert plain.returncode == 1, plain.stderr
    assert "Traceback" not in plain.stderr
    assert "\x1b[31mred" not in plain.stdout + plain.stderr


@pytest.mark.ci
def test_no_file_hangs_or_takes_much_memory(garden):
    root, quality_findings = garden
    bombs = [str(root / each.name) for each in quality_findings if "bomb" in each.name]
    names = [str(root / each.name) for each in quality_findings if "bomb" not in each.name] + bombs
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    grown = {name: kilobytes for name, kilobytes, _ in map(json.loads, done.stdout.splitlines())}
    assert list(grown) == names
    assert sum(grown[name] for name in bombs) < BOMB_MEMORY


@pytest.mark.skipif(os.geteuid() != 0, reason="the locked file is locked in the tests above")
def test_file_without_permission_is_reported():
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are locked for others
        Path(place).chmod(0o755)
        _look_as_nobody(Path(place))


def _look_as_nobody(place):
    pictures = planted.textured(7)
    for name in ("coat/open.jpg", "coat/locked.jpg", "shirt/open.jpg"):
        path = place / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(planted.encoded(next(pictures)))
    (place / "source/coat/locked.jpg").chmod(0)
    command = [sys.executable, "-c", AS_NOBODY, place / "source"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "[('coat/locked.jpg', 'no permission to read')]", done.stderr
