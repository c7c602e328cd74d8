"""Printing of what exports came to."""

import json
from collections.abc import Sequence

from efftune.cli.console import echo, percent, show_table
from efftune.delivery.export import Export
from efftune.delivery.receipt import Score
from efftune.delivery.targets import TARGETS

_MUCH = 0.005  # of accuracy
_HEADINGS = ("export", "MB", "same answer", "gap", "test accuracy", "in application", "ms")


def show_exports(exports: Sequence[Export], *, as_json: bool) -> None:
    """Print where exported files are, and what they came to."""
    if as_json:
        for each in exports:
            line = {"path": str(each.path)} | each.receipt.to_dict()
            print(json.dumps(line))
        return
    show_table(_HEADINGS, [_export_row(each) for each in exports])
    pictures = sum(score.pictures for score in exports[0].receipt.same_pixels)
    known = " The classifier was trained on them: with others, the gap may be larger."
    echo(f"\nJudged on {pictures:,} pictures.{known * exports[0].receipt.trained_on}")
    for each in exports:
        _show_remarks(each)
    if left_out := exports[0].receipt.left_out:
        echo(f"Pictures that are gone or have changed: {len(left_out):,}, such as {left_out[0]}")
    for each in exports:
        echo(f"{each.path}")


def _export_row(export: Export) -> tuple[str, ...]:
    receipt = export.receipt
    scores = receipt.same_pixels
    pictures = sum(score.pictures for score in scores)
    same = sum(score.pictures * score.agreement for score in scores) / pictures
    last = scores[-1]
    accuracy = f"{_accuracy(last, before=True)} → {_accuracy(last)}" if _is_test(last) else "–"
    there = receipt.application_pixels[-1:]
    return (
        export.name,
        f"{receipt.bytes / 1e6:.1f}",
        percent(same),
        f"{max(score.largest_gap for score in scores):.1e}",
        accuracy,
        _accuracy(there[0]) if there and _is_test(there[0]) else "–",
        f"{receipt.ms:.1f}",
    )


def _is_test(score: Score) -> bool:
    return score.split == "test" and score.accuracy is not None


def _accuracy(score: Score, *, before: bool = False) -> str:
    return percent((score.accuracy_before if before else score.accuracy) or 0)


def _show_remarks(export: Export) -> None:
    """Say what a receipt tells beyond the table."""
    name, receipt = export.name, export.receipt
    if len(receipt.attempts) > 1 or receipt.attempts[0].temperature != 1:
        tried = "; ".join(each.outcome for each in receipt.attempts)
        kept = " The last is kept." if len(receipt.attempts) > 1 else ""
        echo(f"{name}: {tried}.{kept}")
    if not receipt.application:
        return
    echo(f"{name}: {receipt.application}")
    if left_out := receipt.application_left_out:
        echo(f"{name}: it cannot read {len(left_out):,} pictures, such as {left_out[0]}")
    if (
        TARGETS[name].training
        and receipt.application_pixels
        and receipt.application_pixels[-1].drop > receipt.same_pixels[-1].drop + _MUCH
    ):
        echo(f"{name}: that costs accuracy. A run of `efftune train --for {name}` is used to it.")
