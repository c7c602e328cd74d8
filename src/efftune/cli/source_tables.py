"""Printing of what a source contains, and of what was packed."""

from collections import Counter
from pathlib import Path

from efftune.cli.console import echo, show_table
from efftune.data.examples import SPLITS
from efftune.data.inspection import Finding
from efftune.data.packing import Shards
from efftune.report.source_check import Check
from efftune.system import shell


def show_check(check: Check, out: Path | None) -> None:
    """Print the number of pictures in a source by class and split, and the findings."""
    numbers = check.numbers
    used = {name for counts in numbers["classes"].values() for name in counts}
    splits = [name for name in (*SPLITS, "undecided") if name in used]
    show_table(
        ("class", *splits, "all"),
        [
            (name, *(f"{counts.get(split, 0):,}" for split in splits), f"{sum(counts.values()):,}")
            for name, counts in numbers["classes"].items()
        ],
    )
    echo()
    echo(check.counts)
    if numbers["sizes"]:
        (_, width, _), (_, height, _) = numbers["sizes"].values()
        formats = ", ".join(f"{count:,} {name}" for name, count in numbers["formats"].items())
        echo(f"Median width {width} pixels, median height {height} pixels; {formats}")
    for title, is_problem in (("Problems", True), ("Worth knowing", False)):
        findings = [each for each in check.findings if each.is_problem is is_problem]
        if findings:
            echo(f"\n{title}:")
            kinds = Counter(each.kind for each in findings)
            examples = {each.kind: each for each in reversed(findings)}
            show_table(
                ("finding", "count", "example"),
                [(kind, f"{n:,}", _as_text(examples[kind])) for kind, n in kinds.most_common()],
                left=("example",),
            )
    if not check.problems:
        echo("\nNo problems found.")
    elif out is None:
        echo("\nFor the complete list use --json, or --out FOLDER for a table and plots.")
    if out is not None:
        echo(f"\nTable and plots: {out}")


def show_shards(result: Shards) -> None:
    """Print what was packed, and how to use it."""
    megabytes = sum(each["bytes"] for each in result.shards) / 1e6
    count = len(result.shards)
    shards = f"{count:,} shard{'s' * (count > 1)} of {megabytes:,.3g} MB"
    echo(f"Packed {result.pictures:,} pictures into {result.folder}: {shards}")
    if result.examples.set_aside:
        echo(f"Left out: {result.examples.reasons_summary}")
    echo(f"Train with them: efftune train {shell.quoted(result.source)}")


def _as_text(finding: Finding) -> str:
    other = f" and {finding.other}" if finding.other else ""
    return f"{finding.name}{other}" + (f": {finding.detail}" if finding.detail else "")
