"""Which labels look wrong: confident learning on out-of-fold probabilities."""

import csv
import io
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Example
from efftune.errors import DataError

FILE = "suspects.csv"


@dataclass(frozen=True)
class Suspect:
    """A training picture that heads fitted without it take for another class.

    Attributes:
        example: the picture.
        suggested: the class they take it for.
        p_label: the probability they give to its label, 0 to 1.
        p_suggested: and to the suggested class.
        likely: whether that is beyond what pictures of the suggested class usually get, so that
            the label is more likely wrong than the picture odd.
    """

    example: Example
    suggested: str
    p_label: float
    p_suggested: float
    likely: bool

    @property
    def score(self) -> float:
        """How well the label fits, 0 to 0.5; the lower, the more suspect."""
        return (1 + self.p_label - self.p_suggested) / 2


def suspects(
    rows: Sequence[Example],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    confirmed: Set[Path] = frozenset(),
) -> tuple[Suspect, ...]:
    """Rank the labels that look wrong.

    The ranking is by the margin between the label's probability and the suggested class's. A label
    is `likely` wrong if the suggested class gets at least the mean probability that pictures
    labelled so get.

    Source: Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021),
    https://arxiv.org/abs/1911.00068, whose authors' package is cleanlab.

    Args:
        rows: the training pictures.
        probabilities: of heads fitted without the picture, float32 (pictures, classes). Pictures
            whose row is NaN are not judged.
        labels: class numbers, shape (pictures,).
        class_names: in the order of the numbers.
        confirmed: pictures whose label was looked at and found right; they are left out.

    Returns:
        The pictures taken for another class, the most suspect first.
    """
    numbers = np.arange(len(rows))
    of_label = probabilities[numbers, labels]
    known = ~np.isnan(of_label)
    counts = np.bincount(labels[known], minlength=len(class_names))
    sums = np.bincount(labels[known], of_label[known], minlength=len(class_names))
    usual = np.where(counts > 0, sums / counts.clip(1), 1.0)
    suggested = probabilities.argmax(axis=1)
    of_suggested = probabilities[numbers, suggested]
    order = np.argsort(of_label - of_suggested, kind="stable")
    return tuple(
        Suspect(
            rows[i],
            class_names[suggested[i]],
            float(of_label[i]),
            float(of_suggested[i]),
            bool(of_suggested[i] >= usual[suggested[i]]),
        )
        for i in order
        if known[i] and suggested[i] != labels[i] and rows[i].path not in confirmed
    )


def to_csv(found: Sequence[Suspect]) -> str:
    """The table `suspects.csv`: path, label, suggested, p_label, p_suggested, score, likely."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "suggested", "p_label", "p_suggested", "score", "likely"])
    for each in found:
        numbers = (f"{value:.6f}" for value in (each.p_label, each.p_suggested, each.score))
        told = [each.example.name, each.example.label, each.suggested, *numbers]
        writer.writerow([*told, "yes" if each.likely else "no"])
    return table.getvalue()


@dataclass(frozen=True)
class ListedSuspect:
    """A suspect as a run lists it; see `Suspect`.

    Attributes:
        name: the picture, as in `examples.csv`.
        label: its class.
        suggested: the class it is taken for.
        p_label: the probability of its label, 0 to 1.
        p_suggested: and of the suggested class.
    """

    name: str
    label: str
    suggested: str
    p_label: float
    p_suggested: float


def read(folder: Path) -> list[ListedSuspect]:
    """The suspects of a run, the most suspect first.

    Raises:
        DataError: the run has none, or the table is damaged.
    """
    path = folder / FILE
    if not path.exists():
        raise DataError(
            f"{folder} has no suspect labels: they are looked for where the head is fitted by "
            "regression, as --recipe quick, balanced and thorough do."
        )
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [
                ListedSuspect(
                    row["path"],
                    row["label"],
                    row["suggested"],
                    float(row["p_label"]),
                    float(row["p_suggested"]),
                )
                for row in csv.DictReader(stream)
            ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path} is damaged: {error}. Train again.") from None
