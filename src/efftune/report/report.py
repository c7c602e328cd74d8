"""The report: one HTML page with the evaluation of a classifier and the findings on its data.

Everything is read from the files of a run; no metric is computed here. The page is self-contained
and works offline. File and class names are escaped.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from efftune.data.sources import addresses
from efftune.evaluation.suspects import FILE as SUSPECTS_FILE
from efftune.report import charts, confusion, related, words
from efftune.report.page import Row, reading, render
from efftune.report.stored_run import StoredRun
from efftune.system import files, shell
from efftune.system.text import shown

FILE = "report.html"
_MAX_LISTED = 20_000  # test pictures listed for the confusion matrix, mistakes first
_MAX_THUMBNAIL_BYTES = 3_900_000  # keeps the page below 5 MB
_MAX_MISTAKES, _MAX_SUSPECTS, _MAX_FINDINGS = 12, 12, 8  # shown; findings are counted per kind
_TRAINED = {
    "head": "head only",
    "whole": "all blocks",
    "scratch": "all blocks, randomly initialised",
}


def write(folder: Path) -> Path:
    """Write `report.html` from the other files of a run.

    Args:
        folder: of a finished run.

    Returns:
        The path of the page.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    stored = StoredRun.read(folder)
    parts: dict[str, Any] = {}
    for part, file, make in _PARTS:
        with reading(folder / file):
            parts[part] = make(stored)
    with reading(folder):  # rendering fails if a value is missing in one of the files
        page = render("report", **parts)
    files.write(folder / FILE, page)
    return folder / FILE


def _title(stored: StoredRun) -> dict[str, str]:
    source = str(stored.record["source"])
    model = stored.record["model"]["name"]
    return {"source": shown(Path(addresses.plain(source)).name or source), "model": shown(model)}


def _verdict(stored: StoredRun) -> dict[str, list[Markup]]:
    """The sentences and remarks at the top."""
    told = words.summary(stored.evaluation, stored.record)
    with reading(stored.folder / "findings.csv"):
        groups = related.few_groups(stored.findings)
    return told | {"remarks": [*told["remarks"], *filter(None, [Markup.escape(groups)])]}


def _scores(stored: StoredRun) -> dict[str, Any]:
    """The headline accuracy and the metrics of all splits."""
    names = {
        "test": "test",
        "test_without_leaks": "test, without leaks",
        "val": "validation",
        "val_without_leaks": "validation, without leaks",
    }
    evaluation = stored.evaluation
    if evaluation.get("cross_validation"):
        names = {"test": "out of fold"}
    best = words.headline(evaluation)
    drawn = charts.score(best["low"], best["accuracy"], best["high"], best.get("commonest_share"))
    rows = [(text, evaluation[split]) for split, text in names.items() if split in evaluation]
    folds = evaluation.get("cross_validation", {}).get("folds", 0)
    values = {"best": best, "drawn": drawn, "rows": rows, "classes": len(stored.classes)}
    return values | {"folds": folds}


def _done(stored: StoredRun) -> dict[str, Any]:
    """Recipe, stages and time per phase."""
    record = stored.record
    spent: Mapping[str, float] = record["seconds"]
    longest = max(spent.values(), default=0) or 1
    settings = stored.folder / "recipe.toml"
    return {
        "record": record,
        "stages": _stages(stored),
        "models": record.get("models", []),
        "searched": [
            each | {"shown": words.shown_settings(each["settings"])}
            for each in record.get("settings", [])
        ],
        "seconds": [(phase, value, 100 * value / longest) for phase, value in spent.items()],
        "total": sum(spent.values()),
        "notes": [
            *record["plan"]["notes"],
            *filter(
                None,
                [
                    words.model_choice(record, stored.evaluation),
                    words.settings_search(record),
                    words.fine_tuning(stored.evaluation),
                ],
            ),
            *record.get("advice", []),
        ],
        "settings": settings.read_text(encoding="utf-8") if settings.exists() else "",
    }


def _stages(stored: StoredRun) -> list[dict[str, Any]]:
    """The planned stages, with the results of those that were trained by gradient descent."""
    results = {result["name"]: result for result in stored.record["stages"]}
    head = [row["val_accuracy"] for row in stored.history if row["stage"] == "head"]
    fitted = {"head": {"after": float(head[-1])}} if head else {}
    stages = []
    for stage in stored.record["plan"]["stages"]:
        result = results.get(stage["name"])
        val = result["val_accuracy"] if result else fitted.get(stage["name"], {})
        trained = _TRAINED.get(stage["name"], f"{stage['block']} and above")
        members = result.get("members", 1) if result else 1
        stages.append(
            stage | {"trained": trained, "members": members, "result": result, "val": val}
        )
    return stages


def _curves(stored: StoredRun) -> Markup | None:
    """The accuracy of all stages in one figure; None if no epoch was recorded."""
    results = {result["name"]: result for result in stored.record["stages"]}
    held_out = words.judged_pictures(stored.evaluation)["held_out"]
    return charts.curves(stored.history, results, held_out) if stored.history else None


def _mistakes(stored: StoredRun) -> dict[str, Any]:
    """The mistakes with the highest confidence, those with a heat map first."""
    wrong = [row for row in stored.test if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: (row["path"] not in stored.explained, -float(row["confidence"])))
    rows = [
        row
        | {"share": float(row["confidence"]), "explained": stored.explained.get(row["path"], "")}
        | {"thumbnail": stored.thumbnails.get(row["path"], "")}
        for row in wrong[:_MAX_MISTAKES]
    ]
    explained = any(row["explained"] for row in rows)
    values = {"rows": rows, "wrong": len(wrong), "explained": explained}
    return values | (stored.missing("explained") if wrong and not explained else {})


def _contradictions(stored: StoredRun) -> dict[str, list[Row]]:
    """The copies with another label, as rows of `examples.csv`, by picture."""
    by_name = {row["path"]: row for row in stored.examples}
    copies: dict[str, list[Row]] = defaultdict(list)
    for row in stored.findings or ():
        if row["kind"] == "contradiction":
            for one, other in ((row["name"], row["other"]), (row["other"], row["name"])):
                if other in by_name:
                    copies[one].append(by_name[other])
    return copies


def _suspects(stored: StoredRun) -> dict[str, Any]:
    """The training pictures whose labels look wrong."""
    if stored.suspects is None:
        return stored.missing("suspects")
    rows = [
        row
        | {"thumbnail": stored.thumbnails.get(row["path"], "")}
        | {side: float(row[side]) for side in ("p_label", "p_suggested")}
        for row in stored.suspects[:_MAX_SUSPECTS]
    ]
    likely = sum(row.get("likely") == "yes" for row in stored.suspects)
    return {"rows": rows, "count": len(stored.suspects), "likely": likely}


def _set_aside(stored: StoredRun) -> list[tuple[str, int]]:
    """The reasons why files of the source were set aside, with their counts."""
    rows = [row for row in stored.examples if row["status"] == "set aside"]
    return Counter(row["reason"].partition(", on line ")[0] for row in rows).most_common()


def _findings(stored: StoredRun) -> dict[str, Any]:
    """Findings on the data by kind: problems first, then by frequency."""
    if stored.findings is None:
        return stored.missing("findings")
    kinds: dict[tuple[bool, str], list[Row]] = defaultdict(list)
    for row in stored.findings:
        kinds[row["problem"] == "yes", row["kind"]].append(row)
    ranked = sorted(kinds.items(), key=lambda item: (not item[0][0], -len(item[1])))
    groups = [
        {"kind": kind.replace("-", " "), "problem": problem, "count": len(rows)}
        | {"rows": rows[:_MAX_FINDINGS]}
        for (problem, kind), rows in ranked
    ]
    return {"groups": groups}


def _calibration(stored: StoredRun) -> dict[str, Any]:
    """The reliability diagram, the calibration error and the uncertainty thresholds."""
    evaluation = stored.evaluation
    result = evaluation.get("calibration")
    drawn = charts.reliability(result["bins"]) if result else None
    why = stored.missing("calibration")["missing"]
    unsure = evaluation.get("unsure")
    unlike = evaluation.get("unlike") or stored.missing("unlike")
    names = {"test": "test", "val": "validation"}
    folds = evaluation.get("cross_validation") or {}
    if folds:
        names = {"test": "out of fold"}
    rows = [(split, text + _which(evaluation, split)) for split, text in names.items()]
    pictures = sum(each["pictures"] for each in result["bins"]["after"]) if result else 0
    counts_leaks = related.counts_leaks(evaluation, pictures)
    values = {"result": result, "drawn": drawn, "why": why, "unsure": unsure, "unlike": unlike}
    values |= {"counts_leaks": counts_leaks, "clean": words.headline(evaluation)}
    unknown = folds.get("unknown", 0)
    uncounted = unknown * (pictures < evaluation["test"]["pictures"])  # earlier versions count them
    return values | {"rows": rows, "unknown": unknown, "uncounted": uncounted}


def _which(evaluation: Mapping[str, Any], split: str) -> str:
    """Whether the unsure predictions of a split are counted with its leaks, if it has any."""
    if not evaluation.get("unsure") or f"{split}_without_leaks" not in evaluation:
        return ""
    pictures = evaluation["unsure"][split]["pictures"]
    counts_leaks = related.counts_leaks(evaluation, pictures, split)
    return ", with leaks" if counts_leaks else ", without leaks"


def _learning(stored: StoredRun) -> dict[str, Any]:
    """Whether more photos would help."""
    curve = stored.evaluation.get("learning_curve")
    if not curve:
        return stored.missing("learning_curve")
    held_out = words.judged_pictures(stored.evaluation)["held_out"]
    text = words.more_photos(curve, held_out, 1 - words.headline(stored.evaluation)["accuracy"])
    has_trend = len(curve["points"]) >= words.LEAST_POINTS
    drawn = charts.learning_curve(curve, held_out) if has_trend else None
    return {"curve": curve, "drawn": drawn, "text": text}


def _usage(stored: StoredRun) -> dict[str, Any]:
    """The run's absolute path, quoted for a shell and for Python."""
    folder = str(stored.folder.absolute())
    return {"run": shell.quoted(folder), "literal": json.dumps(folder, ensure_ascii=False)}


def _exports(stored: StoredRun) -> list[dict[str, Any]]:
    """What the exports in the run folder came to."""
    rows = []
    for export, receipt in stored.receipts.items():
        same, there = receipt["same_pixels"], receipt.get("application_pixels") or []
        pictures = sum(score["pictures"] for score in same)
        agreeing = sum(score["pictures"] * score["agreement"] for score in same)
        tried = receipt.get("attempts") or []
        rows.append(
            {
                "name": export,
                "megabytes": receipt["bytes"] / 1e6,
                "pictures": pictures,
                "trained_on": receipt.get("trained_on", same[0]["split"] == "out-of-fold"),
                "agreement": agreeing / pictures,
                "gap": max(score["largest_gap"] for score in same),
                "before": same[-1]["accuracy_before"],
                "after": same[-1]["accuracy"],
                "there": there[-1]["accuracy"] if there else None,
                "application": receipt.get("application", ""),
                "milliseconds": receipt["ms"],
                "runtime": receipt["runtime"],
                "given_up": [each["way"] for each in tried if not each["kept"]],
                "way": tried[-1]["way"] if tried else "",
                "temperature": tried[-1].get("temperature", 1) if tried else 1,
            }
        )
    return rows


def _data(stored: StoredRun) -> dict[str, Any]:
    """The test pictures, for the script that shows the pictures of a matrix cell."""
    number = {each: i for i, each in enumerate(stored.classes)}
    included, remaining = {}, _MAX_THUMBNAIL_BYTES
    for path, thumbnail in stored.thumbnails.items():
        remaining -= len(thumbnail)
        if remaining < 0:
            break
        included[path] = thumbnail
    ranked = sorted(stored.test, key=lambda row: row["label"] == row["predicted"])
    pictures = [
        [
            *(shown(row["path"]), number[row["label"]], number[row["predicted"]]),
            round(float(row["confidence"]), 4),
            (row.get("unsure") == "yes") + 2 * (row.get("unlike") == "yes"),
            included.get(row["path"], ""),
        ]
        for row in ranked[:_MAX_LISTED]
    ]
    classes = [shown(each) for each in stored.classes]
    return {"classes": classes, "pictures": pictures, "left_out": len(ranked) - len(pictures)}


_PARTS: tuple[tuple[str, str, Callable[[StoredRun], Any]], ...] = (
    ("title", "run.json", _title),
    ("verdict", "evaluation.json", _verdict),
    ("judged", "evaluation.json", lambda stored: words.judged_pictures(stored.evaluation)),
    ("scores", "evaluation.json", _scores),
    ("done", "run.json", _done),
    ("curves", "history.csv", _curves),
    ("matrix", "evaluation.json", confusion.matrix),
    ("per_class", "evaluation.json", confusion.per_class),
    ("mistakes", "predictions.csv", _mistakes),
    ("suspects", SUSPECTS_FILE, _suspects),
    ("set_aside", "examples.csv", _set_aside),
    ("leaks", "run.json", lambda stored: related.leaks(stored.evaluation, stored.record)),
    ("findings", "findings.csv", _findings),
    ("contradictions", "findings.csv", _contradictions),
    ("calibration", "evaluation.json", _calibration),
    ("learning", "evaluation.json", _learning),
    ("exports", "exports", _exports),
    ("usage", "run.json", _usage),
    ("data", "predictions.csv", _data),
)
