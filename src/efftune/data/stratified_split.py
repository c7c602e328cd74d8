"""Divides the pictures of each class between splits; groups stay together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from efftune.data.examples import Example, Split


OF_EACH_CLASS = 5  # pictures that come first where there may be no time for all


class StratifiedSplit:
    """Assigns rows without a fixed split to splits, one group at a time."""

    def __init__(self, rows: "Sequence[Example]", together: Mapping[Path, int]):
        self.rows = rows
        self.open = [i for i, row in enumerate(rows) if row.usable and row.split in ("", "train")]
        groups: dict[object, list[int]] = {}
        for i in self.open:
            groups.setdefault(together.get(rows[i].path, f"alone {i}"), []).append(i)
        self.group = {i: members for members in groups.values() for i in members}
        self.of_label: dict[str, list[int]] = {}
        for i in self.open:
            self.of_label.setdefault(rows[i].label, []).append(i)
        self.split: dict[int, Split] = {}

    @property
    def result(self) -> "tuple[Example, ...]":
        """All rows; rows not assigned to another split are for training."""
        chosen: dict[int, Split] = {i: self.split.get(i, "train") for i in self.open}
        return tuple(
            replace(row, split=chosen[i]) if i in chosen else row for i, row in enumerate(self.rows)
        )

    def divide(
        self, label: str, fractions: Mapping[str, float], random: np.random.Generator
    ) -> None:
        """Assign pictures of a class, with their whole groups, to the missing splits.

        A group that would take a split further past its share than it now lacks is passed over. If
        that leaves nothing for the split, it gets the group that takes it least far.
        """
        order = random.permutation(self.of_label.get(label, [])).tolist()
        sizes = Counter(self.group[i][0] for i in order)  # of this class, by the first of a group
        counts = _split_counts(len(order), fractions)
        for name, count in counts.items():
            assigned = sum(self.split.get(i) == name for i in order)
            left = [first for first in sizes if first not in self.split]
            spare = len(left) - 1 - (name == "test" and bool(counts["val"]))
            chosen: list[int] = []
            for first in left:
                if assigned >= count or len(chosen) >= spare:
                    break
                if assigned + sizes[first] - count <= count - assigned:
                    chosen.append(first)
                    assigned += sizes[first]
            if count and not assigned and spare > 0:
                chosen.append(min(left, key=sizes.__getitem__))
            for first in chosen:
                self.split |= dict.fromkeys(self.group[first], name)


def stratified_order(classes: Sequence[object], first: int, seed: int) -> NDArray[np.int64]:
    """An order whose beginnings have the same shares of all classes, as far as possible.

    Args:
        classes: of each item.
        first: how many items of each class come before all others.
        seed: of the order within a class.

    Returns:
        Indices of the items, int64 (items,).
    """
    _, numbers = np.unique([str(each) for each in classes], return_inverse=True)
    random, place = np.random.default_rng(seed), np.empty(len(classes))
    for number in np.unique(numbers):
        members = random.permutation(np.flatnonzero(numbers == number))
        place[members] = (np.arange(len(members)) + random.random()) / len(members)
        place[members[:first]] = -1
    return place.argsort(kind="stable")


def folds(
    rows: "Sequence[Example]", together: Mapping[Path, int], count: int, seed: int
) -> dict[Path, int]:
    """Assign pictures to folds: each class evenly, and no group divided.

    Args:
        rows: the pictures.
        together: group numbers by path.
        count: number of folds; fewer if no class has as many groups. With one picture of each
            class in a fold, all classes lose the same share of their pictures without it; heads
            would turn against a class that alone has lost some.
        seed: of the random order.

    Returns:
        Fold numbers by path, from 0.
    """
    groups: dict[object, list[Example]] = {}
    for i in np.random.default_rng(seed).permutation(len(rows)).tolist():
        groups.setdefault(together.get(rows[i].path, f"alone {i}"), []).append(rows[i])
    classes = [Counter(row.label for row in group) for group in groups.values()]
    groups_with = Counter(label for each in classes for label in each)
    count = min(count, max(groups_with.values()))
    rarest = [min(each, key=lambda label: (groups_with[label], label)) for each in classes]
    # Rare classes first, and large groups while others can still even out.
    order = sorted(
        zip(groups.values(), classes, rarest, strict=True),
        key=lambda item: (groups_with[item[2]], item[2], -len(item[0])),
    )
    in_fold = [Counter[str]() for _ in range(count)]  # pictures by class
    fold_of: dict[Path, int] = {}
    for group, labels, rare in order:
        wanting = [
            (each[rare], sum(each[label] for label in labels), each.total()) for each in in_fold
        ]
        fold = wanting.index(min(wanting))
        in_fold[fold].update(labels)
        fold_of |= dict.fromkeys((row.path for row in group), fold)
    return fold_of


def _split_counts(total: int, fractions: Mapping[str, float]) -> "dict[Split, int]":
    """How many of `total` pictures go to each missing split.

    Every split gets one picture, in the order training, test, validation, before any gets two.
    """
    counts: dict[Split, int] = {}
    remaining = total
    reserved: tuple[tuple[Split, int], ...] = (("test", 1 + bool(fractions["val"])), ("val", 1))
    for name, later_splits in reserved:
        wanted = max(1, round(fractions[name] * total)) if fractions[name] else 0
        reserved_count = max(1, min(later_splits, remaining - 1))
        counts[name] = max(0, min(wanted, remaining - reserved_count))
        remaining -= counts[name]
    return counts
