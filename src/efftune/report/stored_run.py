"""What the report shows of a run, read from its folder."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efftune.errors import DataError
from efftune.evaluation import predictions
from efftune.evaluation.predictions import OUT_OF_FOLD
from efftune.evaluation.suspects import FILE as SUSPECTS_FILE
from efftune.report import thumbnails
from efftune.report.page import Row, read_json, read_table

# Of `predictions.csv`, which has one more for each class.
COLUMNS = ("path", "split", "label", "predicted", "confidence", "unsure", "unlike")


@dataclass(frozen=True)
class StoredRun:
    """The contents of a run's files that the report shows.

    Attributes:
        folder: of the run.
        record: `run.json`.
        evaluation: `evaluation.json`.
        classes: their names, in order.
        history: rows of `history.csv`.
        test: rows of `predictions.csv` of the test split, or of all pictures, out of fold; without
            the probabilities.
        examples: rows of `examples.csv`.
        findings: rows of `findings.csv`; None if the run has no such file.
        suspects: rows of `suspects.csv`; None if the run has no such file.
        thumbnails: WebP in base64, by picture name.
        explained: pictures next to their heat maps, WebP in base64, by picture name.
        receipts: of the exports in the folder, by their names.
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
    receipts: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "StoredRun":
        """Read the files of a run.

        Raises:
            DataError: a required file is missing, or a file is damaged.
        """
        small, explained = thumbnails.read(folder)
        table = predictions.rows(folder, COLUMNS)
        test = [row for row in table if row["split"] in ("test", OUT_OF_FOLD)]
        return cls(
            folder=folder,
            record=read_json(folder / "run.json"),
            evaluation=read_json(folder / "evaluation.json"),
            classes=read_json(folder / "classes.json"),
            history=read_table(folder / "history.csv"),
            test=test,
            examples=read_table(folder / "examples.csv"),
            findings=_read_optional(folder / "findings.csv"),
            suspects=_read_optional(folder / SUSPECTS_FILE),
            thumbnails=small,
            explained=explained,
            receipts=_receipts(folder / "exports"),
        )

    def missing(self, part: str) -> dict[str, str]:
        """The reason why a run lacks a part of its report."""
        reasons = self.record.get("not_available", {})
        return {
            "missing": reasons.get(part, "this run was trained without it; train again to get it")
        }


def _read_optional(path: Path) -> list[Row] | None:
    return read_table(path) if path.exists() else None


def _receipts(folder: Path) -> dict[str, dict[str, Any]]:
    """What exports came to; of a damaged one, nothing, as it may be made again."""
    found = {}
    for path in sorted(folder.glob("*/receipt.json")):
        with suppress(DataError):
            receipt = read_json(path)
            if isinstance(receipt, dict) and receipt.get("same_pixels"):
                found[path.parent.name] = receipt
    return found
