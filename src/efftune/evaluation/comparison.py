"""Comparison of finished runs on the pictures that all of them were evaluated on.

Everything is read from the run folders. Pictures are matched by the content of their files, because
sources may have been renamed, moved or split again in between.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efftune.errors import DataError, UsageError, unknown_name
from efftune.evaluation import predictions
from efftune.evaluation.metrics import accuracy_interval
from efftune.evaluation.predictions import OUT_OF_FOLD
from efftune.system import stored
from efftune.system.stored import reading

LEVEL = 0.05  # significance level
_SPLITS = ("val", "test")

_Correct = Sequence[bool]  # by picture


@dataclass(frozen=True)
class ComparedRun:
    """A finished run to be compared.

    Attributes:
        folder: of the run.
        model: name of its model.
        recipe: name of its recipe.
        seconds: its total training time.
        expected_gain: of accuracy, 0 to 1, by which the upper end of its interval is raised; see
            `metrics.SplitEvaluation`.
    """

    folder: Path
    model: str
    recipe: str
    seconds: float
    expected_gain: float = 0.0


@dataclass(frozen=True)
class Difference:
    """How a run's predictions differ from those of the first run.

    Attributes:
        both_right: pictures that both runs predict correctly.
        both_wrong: pictures that neither run predicts correctly.
        only_first: pictures that only the first run predicts correctly.
        only_this: pictures that only this run predicts correctly.
        p: p-value of McNemar's exact test, 0 to 1.
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
        """This run's accuracy minus that of the first run, -1 to 1."""
        pictures = self.both_right + self.both_wrong + self.only_first + self.only_this
        return (self.only_this - self.only_first) / pictures

    @property
    def verdict(self) -> str:
        """The difference in words, such as "better by 5.2 points, p = 0.001"."""
        if not self.only_first + self.only_this:
            return "no difference: correct on the same pictures"
        p_value = "p < 0.001" if self.adjusted < 0.001 else f"p = {_rounded(self.adjusted)}"
        points = 100 * self.gain
        if self.adjusted >= LEVEL:
            return f"no clear difference: {points:+.1f} points, {p_value}"
        return f"{'better' if points > 0 else 'worse'} by {abs(points):.1f} points, {p_value}"


@dataclass(frozen=True)
class RunScore:
    """The score of one run in a comparison.

    Attributes:
        run: the run.
        pictures: number of pictures it was evaluated on, identical files counted once.
        right: number of compared pictures that it predicts correctly.
        accuracy: their share of the compared pictures, 0 to 1.
        low: lower end of the accuracy's 95 % interval; see `metrics.SplitEvaluation`.
        high: upper end of it.
        difference: from the first run; None for the first run itself.
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
    """A comparison of runs.

    Attributes:
        split: that the runs are compared on.
        pictures: number of compared pictures: in the split and of the same class for all runs.
        trained_on: number of common pictures left out because a run was trained on them.
        relabelled: number of common pictures left out because their class differs between runs.
        standings: one score per run; the others are compared with the first.
        out_of_fold: whether a run's predictions are those of a cross-validation.
    """

    split: str
    pictures: int
    trained_on: int
    relabelled: int
    standings: tuple[RunScore, ...]
    out_of_fold: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        return {
            "split": self.split,
            "pictures": self.pictures,
            "trained_on": self.trained_on,
            "relabelled": self.relabelled,
            "out_of_fold": self.out_of_fold,
            "runs": [_to_dict(standing) for standing in self.standings],
        }


@dataclass(frozen=True)
class _Prediction:
    label: str
    predicted: str


@dataclass(frozen=True)
class _EvaluatedRun:
    """The predictions of a run for the pictures of a split.

    Attributes:
        predictions: by SHA-256 of the file; None if identical files have different labels.
        trained: SHA-256 of the training pictures.
        out_of_fold: whether the predictions are those of a cross-validation.
    """

    predictions: Mapping[str, _Prediction | None]
    trained: frozenset[str]
    out_of_fold: bool


def compare(runs: Sequence[ComparedRun], split: str = "test") -> Comparison:
    """Compare finished runs on the pictures that all of them were evaluated on.

    Each other run is compared with the first by McNemar's exact test, which counts the pictures
    that only one of the two predicts correctly. Source: Q. McNemar, "Note on the sampling error of
    the difference between correlated proportions or percentages", Psychometrika 12 (1947). Pictures
    that one of the runs was trained on are left out.

    Args:
        runs: two or more.
        split: `test` or `val`.

    Raises:
        UsageError: there are fewer than two runs, or the split is unknown.
        DataError: a run's files are damaged, or no picture can be compared.
    """
    if len(runs) < 2:
        raise UsageError(f"Name two runs or more to compare. Received: {len(runs)}.")
    if split not in _SPLITS:
        raise unknown_name("split", split, _SPLITS)
    evaluated = [_read(run.folder, split) for run in runs]
    trained = frozenset().union(*(each.trained for each in evaluated))
    answers = [each.predictions for each in evaluated]
    common = [x for x in answers[0] if all(x in each for each in answers)]
    held_out = [x for x in common if x not in trained]
    compared = [x for x in held_out if _same_class([each[x] for each in answers])]
    if not compared:
        raise _nothing_to_compare(split, len(common), len(held_out))
    correct = [[_is_correct(each[x]) for x in compared] for each in answers]
    differences = [None, *_differences(correct[0], correct[1:])]
    standings = (
        RunScore(
            run,
            len(each.predictions),
            sum(row),
            sum(row) / len(row),
            *_interval(row, run, out_of_fold=each.out_of_fold),
            difference,
        )
        for run, each, row, difference in zip(runs, evaluated, correct, differences, strict=True)
    )
    left_out = len(common) - len(held_out), len(held_out) - len(compared)
    out_of_fold = any(each.out_of_fold for each in evaluated)
    return Comparison(split, len(compared), *left_out, tuple(standings), out_of_fold)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm-Bonferroni).

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979).

    Args:
        values: p-values, 0 to 1.

    Returns:
        The adjusted p-values in the same order. Rejecting those below a level keeps the family-wise
        error rate at that level.
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
        only_first: number of pictures that only the first classifier predicts correctly.
        only_second: number of pictures that only the second classifier predicts correctly.

    Returns:
        The p-value, 0 to 1; 1 if the two never differ.
    """
    from scipy.stats import binomtest

    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def _read(folder: Path, split: str) -> _EvaluatedRun:
    examples, columns = folder / "examples.csv", ("label", "predicted", "path")
    with reading(examples):
        used = [row for row in stored.rows(examples) if row["status"] == "used"]
        # A table may list the same file more than once.
        contents = {row["path"]: row["sha256"] for row in used}
        # Out-of-fold predictions come from networks that were not trained on the picture.
        trained = frozenset(
            row["sha256"] for row in used if row["split"] == "train" and not row.get("fold")
        )
    with reading(folder / predictions.FILE):
        judged = [
            (row["path"], _Prediction(row["label"], row["predicted"]))
            for row in predictions.rows(folder, columns)
            if row["split"] in (split, OUT_OF_FOLD)
        ]
    found: dict[str, _Prediction | None] = {}
    with reading(examples):  # which may lack a picture
        for name, prediction in judged:
            previous = found.setdefault(contents[name], prediction)
            same = _same_class([previous, prediction])
            found[contents[name]] = prediction if same else None
    return _EvaluatedRun(found, trained, any(row.get("fold") for row in used))


def _same_class(predictions: Sequence[_Prediction | None]) -> bool:
    labels = {None if each is None else each.label for each in predictions}
    return len(labels) == 1 and None not in labels


def _is_correct(prediction: _Prediction | None) -> bool:
    return prediction is not None and prediction.label == prediction.predicted


def _nothing_to_compare(split: str, common: int, held_out: int) -> DataError:
    if not common:
        return DataError(
            f"These runs have no picture in common in their {split} split. Train them on sources "
            f"with the same {split} split, or on the same pictures with the same --seed."
        )
    if not held_out:
        return DataError(
            f"Each picture that these runs have in common in their {split} split was a training "
            "picture for at least one of them. Compare runs trained on sources without such leaks: "
            "`efftune check` finds them."
        )
    return DataError(
        f"The {held_out:,} pictures that these runs have in common in their {split} split do not "
        "have the same class in all of them. Use the same class names in all sources, and train "
        "again."
    )


def _differences(first: _Correct, others: Sequence[_Correct]) -> list[Difference]:
    counts = [_count(first, other) for other in others]
    values = [mcnemar(only_first, only_this) for _, _, only_first, only_this in counts]
    return [
        Difference(*count, p, adjusted)
        for count, p, adjusted in zip(counts, values, holm(values), strict=True)
    ]


def _count(first: _Correct, other: _Correct) -> tuple[int, int, int, int]:
    """Pictures that both, neither, only the first, or only the other predict correctly."""
    counts = Counter(zip(first, other, strict=True))
    return counts[True, True], counts[False, False], counts[True, False], counts[False, True]


def _interval(correct: _Correct, run: ComparedRun, *, out_of_fold: bool) -> tuple[float, float]:
    low, high = accuracy_interval(sum(correct), len(correct), out_of_fold=out_of_fold)
    return low, min(1.0, high + run.expected_gain)


def _rounded(p: float) -> str:
    """Format a p-value with three decimals below 0.1, otherwise two."""
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _to_dict(standing: RunScore) -> dict[str, Any]:
    difference = standing.difference
    values = asdict(standing) | asdict(standing.run) | {"run": str(standing.run.folder)}
    del values["folder"]
    if difference is None:
        return values
    derived = {"gain": difference.gain, "verdict": difference.verdict}
    return values | {"difference": asdict(difference) | derived}
