"""Printing of what exports came to."""

import json
from collections.abc import Sequence

from efftune.cli.console import echo, percent, show_table
from efftune.delivery.export import Export
from efftune.delivery.receipt import Receipt


def show_exports(exports: Sequence[Export], *, as_json: bool) -> None:
    """Print where exported files are, and what they came to."""
    if as_json:
        for each in exports:
            line = {"path": str(each.path)} | each.receipt.to_dict()
            print(json.dumps(line, ensure_ascii=False))
        return
    headings = (
        "format",
        "MB",
        "pictures",
        "same answer",
        "largest gap",
        "test accuracy",
        "ms",
        "in",
    )
    show_table(headings, [_export_row(each.receipt) for each in exports], left=("in",))
    if left_out := exports[0].receipt.left_out:
        echo(f"\nPictures that are gone or have changed: {len(left_out):,}, such as {left_out[0]}")
    echo()
    for each in exports:
        echo(f"{each.path}")


def _export_row(receipt: Receipt) -> tuple[str, ...]:
    scores = receipt.same_pixels
    pictures = sum(score.pictures for score in scores)
    same = sum(score.pictures * score.agreement for score in scores) / pictures
    score = scores[-1]
    accuracy = "–"
    if score.split == "test" and score.accuracy is not None and score.accuracy_before is not None:
        accuracy = f"{percent(score.accuracy_before)} → {percent(score.accuracy)}"
    gap = max(score.largest_gap for score in scores)
    return (
        receipt.format,
        f"{receipt.bytes / 1e6:.1f}",
        f"{pictures:,}",
        percent(same),
        f"{gap:.1e}",
        accuracy,
        f"{receipt.ms:.1f}",
        receipt.runtime,
    )
