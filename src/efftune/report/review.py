"""The page on which suspect labels are kept, changed or dropped.

What is decided leaves it as a table, `labels.csv`; the pictures stay as they are.
"""

import shlex
from pathlib import Path
from typing import Any

from efftune.data import relabelling
from efftune.data.relabelling import LABELS_FILE, Decision
from efftune.errors import DataError
from efftune.evaluation.suspects import FILE as SUSPECTS_FILE
from efftune.report import thumbnails
from efftune.report.page import Row, read_json, read_table, reading, render, shown
from efftune.system import files

FILE = "review.html"


def write(folder: Path) -> Path:
    """Write `review.html`, which shows the suspects of a run and takes decisions on them.

    Decisions that are in the run's `labels.csv` already are taken over.

    Args:
        folder: of a finished run.

    Returns:
        The page.

    Raises:
        DataError: the run has no suspects, or a file of it is missing or damaged.
    """
    record = read_json(folder / "run.json")
    if not (folder / SUSPECTS_FILE).exists():
        with reading(folder / "run.json"):
            why = record.get("not_available", {}).get("suspects", "it was made without")
        raise DataError(f"{folder} has no {SUSPECTS_FILE} to review: {why}.")
    data = _data(folder)
    with reading(folder / "run.json"):
        source = str(record["source"])
    page = render("review", data=data, **_told(folder, source))
    files.write(folder / FILE, page)
    return folder / FILE


def _data(folder: Path) -> dict[str, Any]:
    """What the page's script works on."""
    labels = folder / LABELS_FILE
    suspects = read_table(folder / SUSPECTS_FILE)
    decided = relabelling.read(labels) if labels.exists() else {}
    small, _ = thumbnails.read(folder)
    with reading(folder / SUSPECTS_FILE):
        rows = [_row(row, small) for row in suspects]
    names = {row["path"] for row in rows}
    return {
        "key": f"efftune review {_digest(folder / SUSPECTS_FILE)}",
        "labels": _digest(labels),
        "classes": [[each, shown(each)] for each in read_json(folder / "classes.json")],
        "suspects": rows,
        "decided": {path: _as_row(path, each) for path, each in decided.items() if path in names},
        # What was decided on pictures that are no suspects goes back into the table as it is.
        "others": [_as_row(path, each) for path, each in decided.items() if path not in names],
    }


def _row(row: Row, small: dict[str, str]) -> dict[str, Any]:
    return {
        **{key: row[key] for key in ("path", "label", "suggested")},
        **{key: float(row[key]) for key in ("p_label", "p_suggested")},
        **{"shown": shown(row["path"]), "thumbnail": small.get(row["path"], "")},
    }


def _as_row(path: str, made: Decision) -> Row:
    """A decision as it stands in the table."""
    values = (path, made.label, made.choice, made.new_label)
    return dict(zip(relabelling.COLUMNS, values, strict=True))


def _told(folder: Path, source: str) -> dict[str, str]:
    """Where the table goes, and how it is used; source and folder can be pasted into a shell."""
    if Path(source).exists():  # a name such as `tfds:cifar100` stays as it is
        source = str(Path(source).absolute())
    place = str(folder.absolute() / LABELS_FILE)
    command = f"efftune train {shlex.quote(source)} --labels {shlex.quote(place)}"
    return {"source": shown(Path(source).name or source), "place": place, "command": command}


def _digest(path: Path) -> str:
    return files.sha256(path)[:16] if path.exists() else ""
