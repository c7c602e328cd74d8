"""The review page, on which suspect labels are kept, changed or dropped.

The page saves the decisions as `labels.csv`; the picture files are not changed.
"""

from pathlib import Path
from typing import Any

from efftune.data import relabelling
from efftune.data.relabelling import LABELS_FILE, Decision
from efftune.data.sources import addresses
from efftune.errors import DataError
from efftune.evaluation.suspects import FILE as SUSPECTS_FILE
from efftune.report import thumbnails
from efftune.report.page import Row, read_json, read_table, reading, render
from efftune.system import files, shell
from efftune.system.text import shown

FILE = "review.html"


def write(folder: Path) -> Path:
    """Write `review.html`, which lists the suspect labels of a run and records decisions on them.

    Decisions in the run's `labels.csv` are preset.

    Args:
        folder: of a finished run.

    Returns:
        The path of the page.

    Raises:
        DataError: the run has no suspects, or a file of it is missing or damaged.
    """
    if not (folder / SUSPECTS_FILE).exists():
        raise DataError(f"{folder} has no {SUSPECTS_FILE} to review: {why_missing(folder)}.")
    data = _data(folder)
    record = read_json(folder / "run.json")
    with reading(folder / "run.json"):
        source = str(record["source"])
    page = render("review", data=data, **_instructions(folder, source))
    files.write(folder / FILE, page)
    return folder / FILE


def why_missing(folder: Path) -> str:
    """Why a run has no suspects, by its `run.json`."""
    record = read_json(folder / "run.json")
    with reading(folder / "run.json"):
        reasons = record.get("not_available", {})
        return str(reasons.get("suspects", "this run was trained without it"))


def _data(folder: Path) -> dict[str, Any]:
    """The data for the page's script."""
    labels = folder / LABELS_FILE
    suspects = read_table(folder / SUSPECTS_FILE)
    decisions = relabelling.read(labels) if labels.exists() else {}
    images, _ = thumbnails.read(folder)
    with reading(folder / SUSPECTS_FILE):
        rows = [_row(row, images) for row in suspects]
    names = {row["path"] for row in rows}
    return {
        "key": f"efftune review {_digest(folder / SUSPECTS_FILE)}",
        "labels": _digest(labels),
        "classes": [[each, shown(each)] for each in read_json(folder / "classes.json")],
        "suspects": rows,
        "decided": {path: _as_row(path, each) for path, each in decisions.items() if path in names},
        # Decisions on other pictures are passed through to the saved table.
        "others": [_as_row(path, each) for path, each in decisions.items() if path not in names],
    }


def _row(row: Row, images: dict[str, str]) -> dict[str, Any]:
    return {
        **{key: row[key] for key in ("path", "label", "suggested")},
        **{key: float(row[key]) for key in ("p_label", "p_suggested")},
        **{"shown": shown(row["path"]), "thumbnail": images.get(row["path"], "")},
    }


def _as_row(path: str, decision: Decision) -> Row:
    """A decision as a row of `labels.csv`."""
    values = (path, decision.label, decision.choice, decision.new_label)
    return dict(zip(relabelling.COLUMNS, values, strict=True))


def command(folder: Path, source: str) -> str:
    """The command that trains with a run's `labels.csv` and its settings, quoted for a shell."""
    paths = {"--labels": folder / LABELS_FILE, "--config": folder / "recipe.toml"}
    options = (word for option, path in paths.items() for word in (option, str(path)))
    return shell.quoted("efftune", "train", source, *options)


def _instructions(folder: Path, source: str) -> dict[str, str]:
    """Where to put `labels.csv`, and the command to train with it."""
    if Path(source).exists():  # not for names such as `tfds:cifar100`
        source = str(Path(source).absolute())
    return {
        "source": shown(Path(addresses.plain(source)).name or source),
        "place": str(folder.absolute() / LABELS_FILE),
        "command": command(folder.absolute(), source),
    }


def _digest(path: Path) -> str:
    return files.sha256(path)[:16] if path.exists() else ""
