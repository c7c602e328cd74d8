"""The report: one page with all that was found out about a classifier and its pictures.

It shows what the files of a run hold; no number is computed here. The page needs no other file and
no network, and whatever names pictures and classes have, they are text in it.
"""

import json
import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from efftune.evaluation.suspects import FILE as SUSPECTS_FILE
from efftune.report import charts, thumbnails, words
from efftune.report.page import Row, counted, read_json, read_table, reading, render, shown
from efftune.system import files

FILE = "report.html"
_WIDEST = 40  # classes that a confusion matrix shows
_LISTED = 20_000  # test pictures that the matrix leads to, mistakes first
_THUMBNAIL_BYTES = 3_900_000  # of their kept: the page shall stay below 5 MB
_MISTAKES, _SUSPECTS, _FINDINGS = 12, 12, 8  # shown at most; findings of each kind
_TRAINED = {"head": "the head alone", "whole": "all blocks", "scratch": "all blocks, from random"}


@dataclass(frozen=True)
class StoredRun:
    """What a run's files hold, as far as its pages show it.

    Attributes:
        folder: of the run.
        record: `run.json`.
        evaluation: `evaluation.json`.
        classes: their names, in order.
        history: rows of `history.csv`.
        test: rows of `predictions.csv` of the test split.
        examples: rows of `examples.csv`.
        findings: rows of `findings.csv`; None where a run has none.
        suspects: rows of `suspects.csv`, likewise.
        thumbnails: by picture name, in base64.
        explained: pictures beside what mattered in them, likewise.
    """

    folder: Path
    record: dict[str, Any]
    evaluation: dict[str, Any]
    classes: list[str]
    history: list[Row]
    test: list[Row]
    examples: list[Row]
    findings: list[Row] | None
    suspects: list[Row] | None
    thumbnails: dict[str, str]
    explained: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> "StoredRun":
        """Read the files.

        Raises:
            DataError: one that every run has is missing, or any is damaged.
        """
        small, explained = thumbnails.read(folder)
        judged = read_table(folder / "predictions.csv")
        with reading(folder / "predictions.csv"):
            test = [row for row in judged if row["split"] == "test"]
        return cls(
            folder=folder,
            record=read_json(folder / "run.json"),
            evaluation=read_json(folder / "evaluation.json"),
            classes=read_json(folder / "classes.json"),
            history=read_table(folder / "history.csv"),
            test=test,
            examples=read_table(folder / "examples.csv"),
            findings=_read_if_there(folder / "findings.csv"),
            suspects=_read_if_there(folder / SUSPECTS_FILE),
            thumbnails=small,
            explained=explained,
        )

    def missing(self, part: str) -> dict[str, str]:
        """Why a run lacks a part of its report."""
        reasons = self.record.get("not_available", {})
        return {"missing": reasons.get(part, "this run was made without; train again to have it")}


def write(folder: Path) -> Path:
    """Write `report.html` from what a run's other files hold.

    Args:
        folder: of a finished run.

    Returns:
        The page.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    stored = StoredRun.read(folder)
    parts: dict[str, Any] = {}
    for part, file, make in _PARTS:
        with reading(folder / file):
            parts[part] = make(stored)
    with reading(folder):  # its files do not hold all that goes into the page
        page = render("report", **parts)
    files.write(folder / FILE, page)
    return folder / FILE


def _read_if_there(path: Path) -> list[Row] | None:
    return read_table(path) if path.exists() else None


def _title(stored: StoredRun) -> dict[str, str]:
    source = str(stored.record["source"])
    model = stored.record["model"]["name"]
    return {"source": shown(Path(source).name or source), "model": shown(model)}


def _scores(stored: StoredRun) -> dict[str, Any]:
    """The score that counts, and those of all splits."""
    told = {
        "test": "test",
        "test_without_leaks": "test, without leaks",
        "val": "validation",
        "val_without_leaks": "validation, without leaks",
    }
    judged = stored.evaluation
    best = words.judged(judged)
    drawn = charts.score(best["low"], best["accuracy"], best["high"], best.get("commonest_share"))
    rows = [(text, judged[split]) for split, text in told.items() if split in judged]
    return {"best": best, "drawn": drawn, "rows": rows, "classes": len(stored.classes)}


def _done(stored: StoredRun) -> dict[str, Any]:
    """Recipe, stages and seconds."""
    record = stored.record
    outcomes = {outcome["name"]: outcome for outcome in record["stages"]}
    head = [row["val_accuracy"] for row in stored.history if row["stage"] == "head"]
    stages = []
    for stage in record["plan"]["stages"]:
        outcome = outcomes.get(stage["name"])
        found = outcome["val_accuracy"] if outcome else {"after": float(head[-1])} if head else {}
        trained = _TRAINED.get(stage["name"], f"{stage['block']} and up")
        stages.append(stage | {"trained": trained, "outcome": outcome, "val": found})
    spent: Mapping[str, float] = record["seconds"]
    most = max(spent.values(), default=0) or 1
    choices = stored.folder / "recipe.toml"
    return {
        "record": record,
        "stages": stages,
        "seconds": [(phase, value, 100 * value / most) for phase, value in spent.items()],
        "total": sum(spent.values()),
        "notes": [*record["plan"]["notes"], *record.get("advice", [])],
        "choices": choices.read_text(encoding="utf-8") if choices.exists() else "",
    }


def _curves(stored: StoredRun) -> Markup | None:
    """All stages in one figure, where any epoch was recorded."""
    outcomes = {outcome["name"]: outcome for outcome in stored.record["stages"]}
    return charts.curves(stored.history, outcomes) if stored.history else None


def _matrix(stored: StoredRun) -> dict[str, Any]:
    """The confusion matrix, of many classes only those with the most mistakes."""
    judged = stored.evaluation["test"]
    confusion: Sequence[Sequence[int]] = judged["confusion"]
    shared = range(len(stored.classes))
    mistakes = [
        sum(confusion[i]) + sum(row[i] for row in confusion) - 2 * confusion[i][i] for i in shared
    ]
    chosen = sorted(sorted(shared, key=lambda i: -mistakes[i])[:_WIDEST])
    names = [stored.classes[i] for i in chosen]
    rows = [
        (stored.classes[i], [_cell(stored.classes, confusion[i], i, j) for j in chosen])
        for i in chosen
    ]
    number = {each: i for i, each in enumerate(stored.classes)}
    pairs = [
        pair
        | {"row": number[pair["label"]], "column": number[pair["answer"]]}
        | {"support": sum(confusion[number[pair["label"]]])}
        for pair in judged.get("confused", [])
    ]
    return {
        **{"names": names, "rows": rows, "pairs": pairs, "left_out": len(shared) - len(chosen)},
        **{"pictures": judged["pictures"], "wrong": sum(mistakes) // 2},
    }


def _cell(classes: Sequence[str], row: Sequence[int], label: int, answer: int) -> dict[str, Any]:
    count = row[answer]
    told = f"{counted(count, 'picture')} of {shown(classes[label])} "
    told += "correct" if label == answer else f"predicted as {shown(classes[answer])}"
    # A root: one mistake in twenty is to be seen, too.
    shade = round(100 * math.sqrt(count / max(1, sum(row))))
    right = label == answer
    return {"count": count, "told": told, "shade": shade, "place": (label, answer), "right": right}


def _per_class(stored: StoredRun) -> list[dict[str, Any]]:
    """Scores of the classes, the weakest first, those without pictures last."""
    scores: list[dict[str, Any]] = stored.evaluation["test"]["per_class"]
    return sorted(scores, key=lambda score: (not score["support"], score["f1"], score["name"]))


def _mistakes(stored: StoredRun) -> dict[str, Any]:
    """The mistakes made with the highest confidence, explained ones first."""
    wrong = [row for row in stored.test if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: (row["path"] not in stored.explained, -float(row["confidence"])))
    found = [
        row
        | {"share": float(row["confidence"]), "explained": stored.explained.get(row["path"], "")}
        | {"thumbnail": stored.thumbnails.get(row["path"], "")}
        for row in wrong[:_MISTAKES]
    ]
    told = {"rows": found, "wrong": len(wrong), "explained": any(r["explained"] for r in found)}
    return told | (stored.missing("explained") if wrong and not told["explained"] else {})


def _suspects(stored: StoredRun) -> dict[str, Any]:
    """The training pictures whose labels look wrong."""
    if stored.suspects is None:
        return stored.missing("suspects")
    rows = [
        row
        | {"thumbnail": stored.thumbnails.get(row["path"], "")}
        | {side: float(row[side]) for side in ("p_label", "p_suggested")}
        for row in stored.suspects[:_SUSPECTS]
    ]
    likely = sum(row.get("likely") == "yes" for row in stored.suspects)
    return {"rows": rows, "count": len(stored.suspects), "likely": likely}


def _set_aside(stored: StoredRun) -> list[tuple[str, int]]:
    """Why files of the source were not used, and how many."""
    rows = [row for row in stored.examples if row["status"] == "set aside"]
    return Counter(row["reason"].partition(", on line ")[0] for row in rows).most_common()


def _findings(stored: StoredRun) -> dict[str, Any]:
    """What was found wrong with the data, the most frequent first, problems before remarks."""
    if stored.findings is None:
        return stored.missing("findings")
    kinds: dict[tuple[bool, str], list[Row]] = defaultdict(list)
    for row in stored.findings:
        kinds[row["problem"] == "yes", row["kind"]].append(row)
    ranked = sorted(kinds.items(), key=lambda item: (not item[0][0], -len(item[1])))
    groups = [
        {"kind": kind.replace("-", " "), "problem": problem, "count": len(rows)}
        | {"rows": rows[:_FINDINGS]}
        for (problem, kind), rows in ranked
    ]
    return {"groups": groups}


def _calibration(stored: StoredRun) -> dict[str, Any]:
    """How much confidences can be trusted."""
    judged = stored.evaluation
    found = judged.get("calibration")
    drawn = charts.reliability(found["bins"]) if found else None
    why = stored.missing("calibration")["missing"]
    unsure = judged.get("unsure")
    unlike = judged.get("unlike") or stored.missing("unlike")
    return {"found": found, "drawn": drawn, "why": why, "unsure": unsure, "unlike": unlike}


def _learning(stored: StoredRun) -> dict[str, Any]:
    """Whether more photos would help."""
    found = stored.evaluation.get("learning_curve")
    if not found:
        return stored.missing("learning_curve")
    return {"curve": found, "drawn": charts.more_pictures(found), "told": words.more(found)}


def _usage(stored: StoredRun) -> dict[str, Any]:
    """Commands as they can be pasted anywhere on this machine."""
    folder = str(stored.folder.absolute())
    return {"run": shlex.quote(folder), "literal": json.dumps(folder, ensure_ascii=False)}


def _data(stored: StoredRun) -> dict[str, Any]:
    """The test pictures, for the script that shows those of a cell of the matrix."""
    number = {each: i for i, each in enumerate(stored.classes)}
    kept, room = {}, _THUMBNAIL_BYTES
    for path, thumbnail in stored.thumbnails.items():
        room -= len(thumbnail)
        if room < 0:
            break
        kept[path] = thumbnail
    ranked = sorted(stored.test, key=lambda row: row["label"] == row["predicted"])
    pictures = [
        [
            *(shown(row["path"]), number[row["label"]], number[row["predicted"]]),
            round(float(row["confidence"]), 4),
            (row.get("unsure") == "yes") + 2 * (row.get("unlike") == "yes"),
            kept.get(row["path"], ""),
        ]
        for row in ranked[:_LISTED]
    ]
    classes = [shown(each) for each in stored.classes]
    return {"classes": classes, "pictures": pictures, "left_out": len(ranked) - len(pictures)}


_PARTS: tuple[tuple[str, str, Callable[[StoredRun], Any]], ...] = (
    ("title", "run.json", _title),
    ("verdict", "evaluation.json", lambda stored: words.told(stored.evaluation, stored.record)),
    ("scores", "evaluation.json", _scores),
    ("done", "run.json", _done),
    ("curves", "history.csv", _curves),
    ("matrix", "evaluation.json", _matrix),
    ("per_class", "evaluation.json", _per_class),
    ("mistakes", "predictions.csv", _mistakes),
    ("suspects", SUSPECTS_FILE, _suspects),
    ("set_aside", "examples.csv", _set_aside),
    ("findings", "findings.csv", _findings),
    ("calibration", "evaluation.json", _calibration),
    ("learning", "evaluation.json", _learning),
    ("usage", "run.json", _usage),
    ("data", "predictions.csv", _data),
)
