"""What is said of related pictures: copies and groups, in several splits or among what judges."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from efftune.data.inspection import FEW_GROUPS
from efftune.errors import DataError
from efftune.report.page import Row, read_table
from efftune.system.text import counted, percent

_NAMES = {"val": "validation"}


def relatives(record: Mapping[str, Any]) -> str:
    """What leaked pictures have in an earlier split.

    Args:
        record: `run.json`.
    """
    has_groups = record["data"].get("findings", {}).get("group-leak")
    return "copies or pictures of the same group" if has_groups else "copies"


def all_leaked(evaluation: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether every test picture has a copy or relative in an earlier split.

    Args:
        evaluation: `evaluation.json`.
        record: `run.json`.
    """
    leaked = record["data"].get("leaked", {}).get("test", 0)
    return bool(leaked) and leaked >= evaluation["test"]["pictures"]


def counts_leaks(evaluation: Mapping[str, Any], pictures: int, split: str = "test") -> bool:
    """Whether a number is of all pictures of a split, though only some of them have no relatives.

    Args:
        evaluation: `evaluation.json`.
        pictures: that the number is of.
        split: of these pictures.
    """
    clean = evaluation.get(f"{split}_without_leaks")
    return clean is not None and pictures > clean["pictures"]


def leaks(evaluation: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """How many pictures leaked, and what that means for the accuracy; empty if none did.

    Args:
        evaluation: `evaluation.json`.
        record: `run.json`.
    """
    data = record["data"]
    leaked = {split: count for split, count in data.get("leaked", {}).items() if count}
    if data.get("val_is_test"):
        leaked.pop("val", None)
    if not leaked:
        return ""
    parts = [f"{counted(count, 'picture')} of {_NAMES.get(s, s)}" for s, count in leaked.items()]
    have = "has" if list(leaked.values()) == [1] else "have"
    found = f"{' and '.join(parts)} {have} {relatives(record)} in an earlier split"
    if all_leaked(evaluation, record):
        return (
            f"{found}. These are all test pictures there are, so the accuracy above counts them "
            "and says nothing about new pictures."
        )
    return f"{found}. The accuracy above does not count them."


def left_out(evaluation: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The remark on test pictures that the accuracy does not count, or should not; or empty.

    Args:
        evaluation: `evaluation.json`.
        record: `run.json`.
    """
    everything, clean = evaluation["test"], evaluation.get("test_without_leaks")
    has_groups = relatives(record) != "copies"
    if all_leaked(evaluation, record):
        return (
            f"All test pictures have {relatives(record)} in an earlier split: this accuracy says "
            "nothing about new pictures."
        )
    if not clean:
        return ""
    leaked = everything["pictures"] - clean["pictures"]
    if leaked == 1:
        what = "a copy of it" + " or a picture of the same group" * has_groups
        told = f"1 test picture was left out because an earlier split contains {what}"
    else:
        what = "copies of them" + " or pictures of the same group" * has_groups
        told = f"{leaked:,} test pictures were left out because an earlier split contains {what}"
    return f"{told}; counting all test pictures, accuracy is {percent(everything['accuracy'])}."


def unknown_classes(evaluation: Mapping[str, Any]) -> str:
    """The remark on pictures that cross-validation could not judge; empty if there are none.

    Args:
        evaluation: `evaluation.json`.
    """
    unknown = (evaluation.get("cross_validation") or {}).get("unknown", 0)
    if not unknown:
        return ""
    pictures = evaluation["test"]["pictures"]
    right, others = round(evaluation["test"]["accuracy"] * pictures), pictures - unknown
    count = "counts as a mistake" if unknown == 1 else "count as mistakes"
    its = "its class" if unknown == 1 else "their class"
    return (
        f"{counted(unknown, 'picture')} {count}, since no other fold has {its}; of the other "
        f"{others:,}, {percent(right / others)} are right."
    )


def findings(folder: Path) -> list[Row]:
    """The rows of `findings.csv` of a run; none if it has no such file, or a damaged one."""
    with suppress(DataError):
        return read_table(folder / "findings.csv")
    return []


def few_groups(findings: Sequence[Mapping[str, str]] | None) -> str:
    """The remark that pictures of few groups judge; empty if they do not.

    Args:
        findings: rows of `findings.csv`; None if there are none.
    """
    found = next((row["detail"] for row in findings or () if row["kind"] == FEW_GROUPS), "")
    if not found:
        return ""
    return (
        f"The 95 % interval takes pictures as independent, but these are {found} of the source: "
        "for pictures of new groups it is too narrow."
    )
