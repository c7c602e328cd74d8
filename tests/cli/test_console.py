import csv
import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.cells import cell_len

import efftune
from efftune.cli import (
    console,
    export_tables,
    model_tables,
    run_tables,
    sorting_tables,
    source_tables,
    tables,
)
from efftune.data.inspection import Finding
from efftune.delivery.export import Export
from efftune.delivery.prediction_parts import Parts
from efftune.delivery.receipt import Attempt, Receipt, Score
from efftune.delivery.sorting import Sorted
from efftune.evaluation import metrics
from efftune.evaluation.comparison import ComparedRun, Comparison, Difference, RunScore
from efftune.model.prediction import Prediction
from efftune.report.explanation_images import ExplanationFile
from efftune.runs.listing import ListedRun

NAMES = [":cat:", "[bold]", "[/]", "\\[x]", "a\x1b[31m", "line\nbreak", "\udce9", "100 %"]
STYLE = re.compile(r"\x1b\[[0-9;]*m")
# Numbers with their units, models and runs.
UNFOLDED = re.compile(
    r"(?:over |under )?[\d.,]+ (?:%|px|M|s|d|h|d ago|h ago)(?!\w)|\d\.\d{3}|[\w/-]+-lite\d\S*"
)
LONG = "a class whose name is quite long " * 2 + "and_has_no_spaces_at_its_end_either"
WIDE = "花の名前" * 20
RUN = "runs/flowers-efficientnet-lite0-12"


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name, capsys):
    shown = name.encode("unicode_escape").decode() if name in NAMES[4:7] else name
    console.show_table(("class",), [(name,)])
    assert capsys.readouterr().out.splitlines()[1].rstrip() == shown
    console.echo(name)
    console.warn(name)
    printed = capsys.readouterr()
    assert printed.out == printed.err == (name if "\n" in name else shown) + "\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch, columns, show):
    """The lines that a function prints on a terminal, without their style."""
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stdout", Terminal())
        show()
        return STYLE.sub("", sys.stdout.getvalue()).splitlines()


def evaluated(*names):
    """Of 3,000 pictures, of which the first is a mistake."""
    labels = np.arange(3000) % len(names)
    probabilities = np.full((3000, len(names)), 0.01)
    probabilities[np.arange(3000), np.where(np.arange(3000), labels, 1)] = 0.9
    return metrics.evaluate(probabilities, labels, names)


def show_models():
    model_tables.show_models(efftune.models(), as_json=False)


def show_runs():
    model, place = "efficientnet-lite0", Path("runs")
    stopped = ListedRun(f"{RUN}3", "stopped", model, None, "fine-tuning", 90, 7200, 10**7)
    finished = ListedRun(RUN, "finished", model, 2999 / 3000, "", 3000, 9 * 86400, 10**10)
    run_tables.show_runs([stopped, finished], place, as_json=False)


def show_evaluation():
    examples = SimpleNamespace(source=f"/photos/{'of/many/' * 12}flowers", set_aside=())
    tables.show_evaluation(evaluated(LONG, WIDE, "c"), examples, None)


def show_predictions():
    top = ((LONG, 0.9996), (WIDE, 0.0004))
    photo = Path(f"/photos/{'of/many/' * 7}IMG_0001.JPG")
    tables.show_predictions(
        [Prediction(photo, LONG, 0.9996, top, unsure=True, unlike=True)], "table"
    )


def show_explanations():
    png = Path(f"/explanations/{'of/many/' * 7}IMG_0001.png")
    tables.show_explanations([ExplanationFile(png, png, WIDE, 0.31)], as_json=False)


def show_comparison():
    run = ComparedRun(Path(RUN), "efficientnet-lite0", "balanced", 1234.5)
    other = RunScore(run, 90, 82, 82 / 90, 0.9, 0.96, Difference(1, 2, 3, 70, 0.001, 0.002))
    first = RunScore(run, 90, 90, 1.0, 0.9, 1.0)
    tables.show_comparison(Comparison("test", 90, 0, 0, (first, other)), None)


def show_exports():
    score = Score("test", 3000, 2999 / 3000, 2e-6, 1e-7, "a.png", 0.9, 0.91, 0.1, 0.1, 1.0, 0.0)
    receipt = Receipt(
        *("tflite", "model.tflite", 20_000_000, "LiteRT", {}, None, None, (Attempt("int8"),)),
        *((score,), 90.0, 12.3, 45.6),
    )
    export_tables.show_exports([Export("raspberry-pi", Path("e"), receipt)], as_json=False)


def show_parts():
    found = Parts(Path("parts"), 1, 1234567, 5, {LONG: 1234567, WIDE: 3}, 1, 1, 0, 1.0)
    tables.show_parts(found)


def show_sorted():
    sorting_tables.show_sorted(
        [Sorted(Prediction(None, LONG, 1.0, ((LONG, 1.0),)), Path(f"sorted/{LONG}/a.png"))],
        *(Path("sorted"),),
        as_json=False,
    )


def show_check():
    found = Finding("near-copy", f"{'of/many/' * 9}a.png", "in two splits", f"{LONG}.png")
    check = SimpleNamespace(
        numbers={"classes": {WIDE: {"train": 10**6, "val": 9, "test": 8}}, "sizes": {}},
        counts="1,000,017 pictures",
        findings=(found,),
        problems=(found,),
    )
    source_tables.show_check(check, None)


def show_plan():
    headings = ("stage", "trains", "epochs", "learning rate", "time, about")
    row = ("scratch", "all blocks, from random weights", "1,000", "1.25e-05", "12,345 s")
    console.show_table(headings, [row], left=("trains",))


SHOWN = [
    *(show_models, show_runs, show_evaluation, show_predictions, show_explanations),
    *(show_comparison, show_exports, show_parts, show_sorted, show_check, show_plan),
]


def characters(lines):
    return Counter("".join(lines)) - Counter({" ": 10**9})


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("show", SHOWN, ids=lambda show: show.__name__)
def test_tables_lose_nothing_on_a_narrow_terminal(show, columns, monkeypatch, capsys):
    show()
    whole = capsys.readouterr().out
    lines = on_terminal(monkeypatch, columns, show)
    assert characters(lines) == characters(whole.splitlines())
    assert not any(line.endswith(" ") for line in lines)
    found = [UNFOLDED.findall("\n".join(each)) for each in (whole.splitlines(), lines)]
    assert sorted(found[0]) == sorted(found[1])


@pytest.mark.parametrize("length", [4, 41, 70, 400])
def test_long_classes_are_folded_and_numbers_are_not(length, monkeypatch):
    names = "a" * length, "b" * length
    examples = SimpleNamespace(source="photos", set_aside=())
    lines = on_terminal(
        monkeypatch, 80, lambda: tables.show_evaluation(evaluated(*names), examples, None)
    )
    first = next(i for i, line in enumerate(lines) if line.startswith("class"))
    table = lines[first : lines.index("", first)]
    assert max(map(cell_len, table)) <= 80
    assert table[0].split() == ["class", "pictures", "recall", "precision", "F1"]
    rows = [line for line in table[1:] if "1,500" in line]
    assert [row.split()[1:] for row in rows] == [
        ["1,500", "99.9", "%", "100", "%", "1.000"],
        ["1,500", "100", "%", "99.9", "%", "1.000"],
    ]
    assert "".join(line.split()[0] for line in table[1:]) == "".join(names)


def test_output_to_a_pipe_is_not_folded(capsys):
    console.show_table(("class", "n", "picture"), [(LONG, "1", WIDE)], left=("picture",))
    heading, row = capsys.readouterr().out.splitlines()
    assert row == f"{LONG}   1   {WIDE}"
    assert heading.split() == ["class", "n", "picture"]


def read_all(end):
    """What is written to a terminal until it is closed."""
    found = b""
    while True:
        try:
            content = os.read(end, 65536)
        except OSError:  # closed, on Linux
            return found
        if not content:
            return found
        found += content


def test_models_are_whole_in_a_real_terminal():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "efftune", "models"],
        **{"stdin": theirs, "stdout": theirs, "stderr": theirs},
        env=environment | {"TERM": "xterm"},
    )
    os.close(theirs)
    printed = STYLE.sub("", read_all(ours).decode())
    os.close(ours)
    assert process.wait() == 0, printed
    heading, *rows = printed.splitlines()
    assert heading.split()[-3:] == ["top-1", "licence", "weights"]
    for model, row in zip(efftune.models(), rows, strict=False):
        assert row.startswith(f"{model.name} ")
        assert row.endswith(model_tables._availability(model))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((2999 / 3000, "over 99.9 %"), (1 / 3000, "under 0.1 %"), (1.0, "100 %"), (0.0, "0 %")),
        (0.912, "91.2 %"),
    ],
)
def test_shares_are_rounded_as_in_the_report(share, text):
    assert console.percent(share) == text
    assert console.interval(share, 1.0) == f"{text.removesuffix(' %')} – 100 %"


def test_csv_is_utf8_whatever_the_locale_says(finished_run, source, tmp_path):
    photo = next((source / "red").glob("*.png"))
    names = ["花.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        shutil.copy(photo, tmp_path / name)
    command = [sys.executable, "-m", "efftune", "predict", finished_run.folder, *names, "--csv"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode("utf-8"))))
    assert {row["path"] for row in rows} == {"花.png", "caf\\udce9.png"}


def test_settings_of_a_file_that_an_application_excludes_are_told_as_such(
    efftune_command, source, tmp_path
):
    (tmp_path / "mine.toml").write_text('fit = "crop"\n')
    common = "train", source, "--for", "mediapipe", "--dry-run"
    done = efftune_command(*common, "--config", "mine.toml")
    assert done.returncode == 2
    assert "--for mediapipe sets --fit stretch, but mine.toml holds fit = crop" in done.stderr
    assert "Add --fit stretch, or omit --for." in done.stderr
    done = efftune_command(*common, "--config", "mine.toml", "--fit", "pad")
    assert "Omit --fit pad, or --for." in done.stderr
    done = efftune_command(*common, "--config", "mine.toml", "--fit", "stretch")
    assert done.returncode == 0, done.stderr
