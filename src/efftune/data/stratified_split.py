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
        """Assign pictures of a class, with their whole groups, to the missing splits."""
        order = random.permutation([i for i in self.open if self.rows[i].label == label]).tolist()
        counts = _split_counts(len(order), fractions)
        for name, count in counts.items():
            assigned = sum(self.split.get(i) == name for i in order)
            needed_later = 1 + (name == "test" and bool(counts["val"]))
            for i in order:
                if i in self.split or assigned >= count:
                    continue
                group_count = sum(self.rows[j].label == label for j in self.group[i])
                overshoots = assigned + group_count - count > count - assigned and assigned > 0
                if overshoots or self._unassigned_groups(order) <= needed_later:
                    continue
                self.split |= dict.fromkeys(self.group[i], name)
                assigned += group_count

    def _unassigned_groups(self, order: Sequence[int]) -> int:
        return len({self.group[i][0] for i in order if i not in self.split})


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
