"""Finished runs side by side, on the pictures that all of them were judged on.

Everything is read from the run folders. Pictures are the same if their files' contents are: sources
may have been renamed, moved or split anew in between.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efftune.errors import DataError, UsageError, unknown_name
from efftune.evaluation.metrics import wilson

LEVEL = 0.05  # p-values below it tell a difference
_JUDGED = ("val", "test")  # splits

_Right = Sequence[bool]  # by picture, whether it is recognised


@dataclass(frozen=True)
class ComparedRun:
    """A finished run to be compared.

    Attributes:
        folder: where it lies.
        model: name of its model.
        recipe: name of its recipe.
        seconds: that it took.
    """

    folder: Path
    model: str
    recipe: str
    seconds: float


@dataclass(frozen=True)
class Difference:
    """How a run's answers differ from those of the first.

    Attributes:
        both_right: pictures that both runs recognise.
        both_wrong: pictures that neither does.
        only_first: pictures that only the first run recognises.
        only_this: pictures that only this one does.
        p: of McNemar's exact test, 0 to 1: how often chance alone would tell two equally good runs
            at least that far apart.
        adjusted: `p` after Holm's correction for the number of runs compared with the first.
    """

    both_right: int
    both_wrong: int
    only_first: int
    only_this: int
    p: float
    adjusted: float

    @property
    def gain(self) -> float:
        """This run's accuracy above the first one's, -1 to 1."""
        pictures = self.both_right + self.both_wrong + self.only_first + self.only_this
        return (self.only_this - self.only_first) / pictures

    @property
    def verdict(self) -> str:
        """The difference in words, such as "better by 5.2 points, p = 0.001"."""
        if not self.only_first + self.only_this:
            return "no difference: right on the same pictures"
        told = "p < 0.001" if self.adjusted < 0.001 else f"p = {_rounded(self.adjusted)}"
        points = 100 * self.gain
        if self.adjusted >= LEVEL:
            return f"no clear difference: {points:+.1f} points, {told}"
        return f"{'better' if points > 0 else 'worse'} by {abs(points):.1f} points, {told}"


@dataclass(frozen=True)
class RunScore:
    """How one run fares among others.

    Attributes:
        run: which.
        pictures: that it was judged on, each content counted once.
        right: how many of those that count it recognises.
        accuracy: the share of them, 0 to 1.
        low: lower end of the accuracy's 95 % interval (Wilson).
        high: upper end of it.
        difference: from the first run; None for that one.
    """

    run: ComparedRun
    pictures: int
    right: int
    accuracy: float
    low: float
    high: float
    difference: Difference | None = None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        split: that they were judged on.
        pictures: how many contents all runs have in it, in the same class.
        trained_on: how many they have in it beside these that one of them has in its training
            split, too; they do not count.
        relabelled: how many more that are not of the same class for all; likewise.
        standings: one per run, the first being what the others are compared with.
    """

    split: str
    pictures: int
    trained_on: int
    relabelled: int
    standings: tuple[RunScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        return {
            "split": self.split,
            "pictures": self.pictures,
            "trained_on": self.trained_on,
            "relabelled": self.relabelled,
            "runs": [_told(standing) for standing in self.standings],
        }


@dataclass(frozen=True)
class _Answer:
    label: str
    predicted: str


@dataclass(frozen=True)
class _Judged:
    """What a run says of the pictures of a split, by their contents.

    Attributes:
        answers: None where the run has the same content in two classes.
        trained: contents of its training pictures.
    """

    answers: Mapping[str, _Answer | None]
    trained: frozenset[str]


def compare(runs: Sequence[ComparedRun], split: str = "test") -> Comparison:
    """Compare finished runs on the pictures that all of them were judged on.

    The first run is what each other one is compared with, by McNemar's exact test on the pictures
    that only one of the two recognises. Source: Q. McNemar, "Note on the sampling error of the
    difference between correlated proportions or percentages", Psychometrika 12 (1947). Pictures
    that a run was trained on as well do not count.

    Args:
        runs: two or more.
        split: `test` or `val`.

    Raises:
        UsageError: fewer than two runs, or another split.
        DataError: a run's files are damaged, or there is no picture that counts for all runs.
    """
    if len(runs) < 2:
        raise UsageError(f"Name two runs or more to compare. Received: {len(runs)}.")
    if split not in _JUDGED:
        raise unknown_name("split", split, _JUDGED)
    judged = [_judged(run.folder, split) for run in runs]
    trained = frozenset().union(*(each.trained for each in judged))
    common = [x for x in judged[0].answers if all(x in each.answers for each in judged)]
    unseen = [x for x in common if x not in trained]
    agreed = [x for x in unseen if _same_class([each.answers[x] for each in judged])]
    if not agreed:
        raise _nothing_left(split, len(common), len(unseen))
    right = [[_is_right(each.answers[x]) for x in agreed] for each in judged]
    differences = [None, *_differences(right[0], right[1:])]
    standings = (
        RunScore(run, len(each.answers), sum(row), sum(row) / len(row), *_interval(row), difference)
        for run, each, row, difference in zip(runs, judged, right, differences, strict=True)
    )
    left_out = len(common) - len(unseen), len(unseen) - len(agreed)
    return Comparison(split, len(agreed), *left_out, tuple(standings))


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many there are.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979).

    Args:
        values: p-values, 0 to 1.

    Returns:
        As many, in the same order: rejecting those below a level errs once or more with at most
        that probability.
    """
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = highest
    return adjusted


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test; see `compare`.

    Args:
        only_first: pictures that only the first of two classifiers recognises.
        only_second: pictures that only the second does.

    Returns:
        A number from 0 to 1; 1 where the two never differ.
    """
    from scipy.stats import binomtest

    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def _judged(folder: Path, split: str) -> _Judged:
    try:
        used = [row for row in _rows(folder / "examples.csv") if row["status"] == "used"]
        # A table may list a file more than once, but it has one content.
        contents = {row["path"]: row["sha256"] for row in used}
        trained = frozenset(row["sha256"] for row in used if row["split"] == "train")
        answers: dict[str, _Answer | None] = {}
        for row in _rows(folder / "predictions.csv"):
            if row["split"] == split:
                content, answer = contents[row["path"]], _Answer(row["label"], row["predicted"])
                known = answers.setdefault(content, answer)
                answers[content] = answer if _same_class([known, answer]) else None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"The run {folder} is damaged: {error}. Train again.") from None
    return _Judged(answers, trained)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _same_class(answers: Sequence[_Answer | None]) -> bool:
    labels = {None if answer is None else answer.label for answer in answers}
    return len(labels) == 1 and None not in labels


def _is_right(answer: _Answer | None) -> bool:
    return answer is not None and answer.label == answer.predicted


def _nothing_left(split: str, common: int, unseen: int) -> DataError:
    if not common:
        return DataError(
            f"There is no picture that all of these runs have in their {split} split. Train them "
            f"on sources that bring the same {split} split, or on the same pictures with the same "
            "--seed."
        )
    if not unseen:
        return DataError(
            f"Each picture that all of these runs have in their {split} split is a training "
            "picture, too, for one of them. Compare runs trained on sources without such leaks: "
            "`efftune check` finds them."
        )
    return DataError(
        f"The {unseen:,} pictures that all of these runs have in their {split} split are not of "
        "the same class for all. Give the classes the same names in all sources, and train again."
    )


def _differences(first: _Right, others: Sequence[_Right]) -> list[Difference]:
    counts = [_counted(first, other) for other in others]
    values = [mcnemar(only_first, only_this) for _, _, only_first, only_this in counts]
    return [
        Difference(*count, p, adjusted)
        for count, p, adjusted in zip(counts, values, holm(values), strict=True)
    ]


def _counted(first: _Right, other: _Right) -> tuple[int, int, int, int]:
    """Pictures that both are right of, neither, only the first, only the other."""
    met = Counter(zip(first, other, strict=True))
    return met[True, True], met[False, False], met[True, False], met[False, True]


def _interval(right: _Right) -> tuple[float, float]:
    return wilson(sum(right), len(right))


def _rounded(p: float) -> str:
    """A p-value to two digits that count, or to two places."""
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _told(standing: RunScore) -> dict[str, Any]:
    difference = standing.difference
    told = asdict(standing) | asdict(standing.run) | {"run": str(standing.run.folder)}
    del told["folder"]
    if difference is None:
        return told
    words = {"gain": difference.gain, "verdict": difference.verdict}
    return told | {"difference": asdict(difference) | words}
