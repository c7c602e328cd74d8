"""Labels that look wrong, found by confident learning on out-of-fold probabilities."""

import io
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Example
from efftune.errors import DataError
from efftune.system import files, stored

FILE = "suspects.csv"
_FEWEST = 5  # pictures of a class whose probabilities tell what is usual


@dataclass(frozen=True)
class Suspect:
    """A training picture whose out-of-fold prediction differs from its label.

    Attributes:
        example: the picture.
        suggested: the predicted class.
        p_label: out-of-fold probability of the label, 0 to 1.
        p_suggested: out-of-fold probability of the suggested class, 0 to 1.
        likely: whether `p_suggested` reaches the mean out-of-fold probability of pictures labelled
            as the suggested class, so that the label is probably wrong. Never with fewer than five
            of these, whose mean tells nothing.
    """

    example: Example
    suggested: str
    p_label: float
    p_suggested: float
    likely: bool

    @property
    def score(self) -> float:
        """Quality of the label (normalised margin), 0 to 0.5; lower is more suspect."""
        return (1 + self.p_label - self.p_suggested) / 2


def suspects(
    rows: Sequence[Example],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    confirmed: Set[Path] = frozenset(),
) -> tuple[Suspect, ...]:
    """Rank the labels that look wrong.

    Labels are ranked by the margin between the probabilities of the label and the suggested class.
    A label is `likely` wrong if the probability of the suggested class is at least the mean of that
    probability over the pictures labelled as that class, of which there must be five.

    Source: Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021),
    https://arxiv.org/abs/1911.00068, implemented by its authors in cleanlab.

    Args:
        rows: the training pictures.
        probabilities: out-of-fold, float32 (pictures, classes). Pictures whose row is NaN are left
            out.
        labels: class numbers, shape (pictures,).
        class_names: in the order of the numbers.
        confirmed: pictures whose label was reviewed and confirmed; they are left out.

    Returns:
        The pictures predicted as another class, most suspect first.
    """
    numbers = np.arange(len(rows))
    of_label = probabilities[numbers, labels]
    valid = ~np.isnan(of_label)
    counts = np.bincount(labels[valid], minlength=len(class_names))
    sums = np.bincount(labels[valid], of_label[valid], minlength=len(class_names))
    thresholds = np.where(counts >= _FEWEST, sums / counts.clip(1), np.inf)
    suggested = probabilities.argmax(axis=1)
    of_suggested = probabilities[numbers, suggested]
    order = np.argsort(of_label - of_suggested, kind="stable")
    return tuple(
        Suspect(
            rows[i],
            class_names[suggested[i]],
            float(of_label[i]),
            float(of_suggested[i]),
            bool(of_suggested[i] >= thresholds[suggested[i]]),
        )
        for i in order
        if valid[i] and suggested[i] != labels[i] and rows[i].path not in confirmed
    )


def to_csv(suspects: Sequence[Suspect]) -> str:
    """Format `suspects.csv`: path, label, suggested, p_label, p_suggested, score, likely."""
    table = io.StringIO()
    writer = files.csv_writer(table)
    writer.writerow(["path", "label", "suggested", "p_label", "p_suggested", "score", "likely"])
    for each in suspects:
        numbers = (f"{value:.6f}" for value in (each.p_label, each.p_suggested, each.score))
        cells = [each.example.name, each.example.label, each.suggested, *numbers]
        writer.writerow([*cells, "yes" if each.likely else "no"])
    return table.getvalue()


@dataclass(frozen=True)
class ListedSuspect:
    """A row of `suspects.csv`; see `Suspect`.

    Attributes:
        name: the picture, as in `examples.csv`.
        label: its label.
        suggested: the predicted class.
        p_label: out-of-fold probability of the label, 0 to 1.
        p_suggested: out-of-fold probability of the suggested class, 0 to 1.
    """

    name: str
    label: str
    suggested: str
    p_label: float
    p_suggested: float


def read(folder: Path, why_missing: Callable[[Path], str]) -> list[ListedSuspect]:
    """Read the suspects of a run, most suspect first.

    Args:
        folder: of the run.
        why_missing: the reason why a run has none, asked for if this has none.

    Raises:
        DataError: the run has no such table, or it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        raise DataError(f"{folder} has no suspect labels: {why_missing(folder)}.")
    with stored.reading(path):
        return [
            ListedSuspect(
                row["path"],
                row["label"],
                row["suggested"],
                float(row["p_label"]),
                float(row["p_suggested"]),
            )
            for row in stored.rows(path)
        ]
