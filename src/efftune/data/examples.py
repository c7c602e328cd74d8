"""Examples: which pictures there are, of which class, in which split."""

import csv
import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError

Split = Literal["train", "val", "test"]
Undecided = Literal[""]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
HIDDEN, MACOS, WINDOWS = "hidden", "left over from a macOS archive", "left over from Windows"
LEFTOVERS = frozenset({HIDDEN, MACOS, WINDOWS})  # reasons that say nothing about a class


@dataclass(frozen=True, slots=True)
class Example:
    """One file met in a source.

    Attributes:
        path: the file.
        name: the file as shown to the user, relative to the source.
        label: its class; empty where the source gives none.
        split: its split; empty where not decided.
        reason: why it is set aside; empty for a usable picture.
        sha256: of the file's bytes, 64 hexadecimal digits; empty until it was read.
        line: of the table that lists it, the first being 1; 0 if no table does.
        group: which pictures belong together - patient, video, session; empty if the source does
            not say.
    """

    path: Path
    name: str
    label: str = ""
    split: Split | Undecided = ""
    reason: str = ""
    sha256: str = ""
    line: int = 0
    group: str = ""

    @property
    def usable(self) -> bool:
        """Whether this is a picture to train on or to judge by."""
        return not self.reason


@dataclass(frozen=True)
class Examples:
    """Everything found in a source, in a fixed order, pictures and files set aside alike.

    Attributes:
        source: what the user named.
        rows: one example per file.
        cut: the splits that efftune has cut, because the source brings none.
        val_is_test: whether the test split stands in for a validation split.
        leaked: pictures of validation and test of which a split before theirs has a copy.
        confirmed: pictures whose label somebody has looked at and decided on.
        together: numbers by path; pictures of one number are copies or belong together otherwise.
    """

    source: str
    rows: tuple[Example, ...]
    cut: frozenset[Split] = frozenset()
    val_is_test: bool = False
    leaked: frozenset[Path] = frozenset()
    confirmed: frozenset[Path] = frozenset()
    together: Mapping[Path, int] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of all usable pictures, sorted. This order numbers the classes everywhere."""
        return tuple(sorted({row.label for row in self.rows if row.usable}))

    @property
    def set_aside(self) -> tuple[Example, ...]:
        """The files that are not used, each with its reason."""
        return tuple(row for row in self.rows if not row.usable)

    def of(self, split: Split) -> tuple[Example, ...]:
        """The usable pictures of one split."""
        if split == "val" and self.val_is_test:
            split = "test"
        return tuple(row for row in self.rows if row.usable and row.split == split)

    def groups(self, split: Split) -> NDArray[np.int64]:
        """For each usable picture of a split a number, the same for those that belong together."""
        alone = itertools.count(1 + max(self.together.values(), default=0))
        return np.array(
            [self.together.get(row.path, next(alone)) for row in self.of(split)], np.int64
        )

    @property
    def counts(self) -> dict[Split, int]:
        """How many usable pictures each split has."""
        return {split: len(self.of(split)) for split in SPLITS}

    def with_test_as_val(self) -> "Examples":
        """The same, with the test split for validation, too, where the source brings only that."""
        return replace(self, val_is_test="test" in self._brought and "val" not in self._brought)

    @property
    def _brought(self) -> set[str]:
        """The splits that the source brings, or that stand in for one."""
        brought: set[str] = {row.split for row in self.rows if row.usable}
        return brought | {"val"} if self.val_is_test else brought

    def split(
        self,
        val: float,
        test: float,
        seed: int,
        together: Mapping[Path, int] = MappingProxyType({}),
    ) -> "Examples":
        """Give every usable picture a split; splits that the source brings stay as they are.

        Missing splits are cut from the training pictures, class by class, so that each class has
        its share, and at least one picture, in each split. The draw depends on the seed and on the
        pictures' order only.

        Args:
            val: share of the pictures for a missing validation split, 0 to 1.
            test: the same for the test split.
            seed: of the draw.
            together: numbers by path; pictures of one number come into one split. Shares are then
                met as nearly as groups allow.

        Returns:
            New examples in which every usable row has a split.
        """
        shares = {
            "test": 0.0 if "test" in self._brought else test,
            "val": 0.0 if "val" in self._brought else val,
        }
        cut = _Cut(self.rows, together)
        random = np.random.default_rng(seed)
        for label in self.class_names:
            cut.divide(label, shares, random)
        brought = frozenset(name for name in SPLITS if shares.get(name))
        return replace(self, rows=cut.result, cut=brought, together=together)

    def as_read(self, sha256s: Mapping[Path, str], failures: Mapping[Path, str]) -> "Examples":
        """The same examples with what was learnt by reading them.

        Args:
            sha256s: content hashes by path.
            failures: reasons, by path, of the pictures that could not be decoded.
        """
        rows = (
            replace(
                row,
                sha256=sha256s.get(row.path, row.sha256),
                reason=failures.get(row.path, row.reason),
            )
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))

    def require_splittable(self, *, allow_missing: bool) -> None:
        """Check, before splitting, that every split can get pictures of every class.

        Args:
            allow_missing: accept classes too small for that.

        Raises:
            DataError: no picture, fewer than two classes, or a class too small.
        """
        if not any(row.usable for row in self.rows):
            found = (
                f"Found: {self.reasons_summary}."
                if self.rows
                else "It is empty: put class folders there."
            )
            raise DataError(f"{self.source} holds no picture that can be read. {found}")
        if not allow_missing:
            self._require_no_class_lost()
        if len(self.class_names) < 2:
            raise DataError(
                f"{self.source} holds one class only, {self.class_names[0]!r}. A classifier needs "
                "two or more: give each class a folder of its own."
            )
        usable = [row for row in self.rows if row.usable]
        needed = 1 + len({"val", "test"} - self._brought)
        counts = Counter(row.label for row in usable if row.split in ("", "train"))
        small = sorted(name for name, count in counts.items() if count < needed)
        if small and not allow_missing:
            raise DataError(
                f"Class {small[0]!r} has {counts[small[0]]} usable picture(s) to train on; it "
                f"takes at least {needed}, one for each split. Add pictures, or move the class out "
                "of the source, or pass --set missing_classes=allow."
            )

    def require_trainable(self, *, allow_missing: bool) -> None:
        """Check, after splitting, that a classifier can be trained and judged.

        Args:
            allow_missing: accept classes without a picture in validation or test.

        Raises:
            DataError: a split is empty, or a class is missing from one.
        """
        if not allow_missing:
            self._require_no_class_lost()
        for split in SPLITS:
            present = {row.label for row in self.of(split)}
            missing = [name for name in self.class_names if name not in present]
            if not present or (missing and (split == "train" or not allow_missing)):
                raise DataError(
                    f"No usable picture of class {_listed(missing)} in the {split} split of "
                    f"{self.source}. {self._remedy(split, empty=not present)}"
                )

    def _remedy(self, split: Split, *, empty: bool) -> str:
        if split == "train":
            return "It cannot be learnt: add pictures there, or take it out of the other splits."
        allow = "" if empty else ", or pass --set missing_classes=allow"
        if split in self.cut:
            return f"Add pictures of it, at least three that can be decoded{allow}."
        return f"Add pictures there, or remove that split so that efftune cuts one{allow}."

    def _require_no_class_lost(self) -> None:
        met = {row.label for row in self.rows if row.label and row.reason not in LEFTOVERS}
        lost = sorted(met - set(self.class_names))
        if lost:
            reasons = Counter(row.reason for row in self.rows if row.label == lost[0])
            raise DataError(
                f"No picture of class {_listed(lost)} can be used ({_told(reasons)}). Replace "
                "those files, or move the class out of the source, or pass "
                "--set missing_classes=allow."
            )

    @property
    def reasons_summary(self) -> str:
        """Why files were set aside, in a few words: "3 not an image, 1 hidden"."""
        return _told(Counter(row.reason for row in self.set_aside))

    def to_csv(self) -> str:
        """The table `examples.csv`: path, label, split, status, reason, sha256."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["path", "label", "split", "status", "reason", "sha256"])
        for row in self.rows:
            status = "used" if row.usable else "set aside"
            writer.writerow([row.name, row.label, row.split, status, row.reason, row.sha256])
        return table.getvalue()

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of every usable picture's content, label and split, whatever the file names."""
        lines = sorted(f"{row.sha256} {row.label} {row.split}" for row in self.rows if row.usable)
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def labels(rows: Sequence[Example], class_names: Sequence[str]) -> NDArray[np.int64]:
    """The class numbers of `rows`, as positions in `class_names`."""
    number = {name: i for i, name in enumerate(class_names)}
    return np.array([number[row.label] for row in rows], dtype=np.int64)


def _told(reasons: Counter[str]) -> str:
    """Reasons and how often there are, those of tables without their lines."""
    merged: Counter[str] = Counter()
    for reason, count in reasons.items():
        merged[reason.partition(", on line ")[0]] += count
    return ", ".join(f"{count:,} {reason}" for reason, count in merged.most_common())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" …" if len(names) > 5 else "")


class _Cut:
    """Open rows on their way into splits, group by group."""

    def __init__(self, rows: Sequence[Example], together: Mapping[Path, int]):
        self.rows = rows
        self.open = [i for i, row in enumerate(rows) if row.usable and row.split in ("", "train")]
        groups: dict[object, list[int]] = {}
        for i in self.open:
            groups.setdefault(together.get(rows[i].path, f"alone {i}"), []).append(i)
        self.group = {i: members for members in groups.values() for i in members}
        self.split: dict[int, Split] = {}

    @property
    def result(self) -> tuple[Example, ...]:
        """All rows; what is still open is for training."""
        chosen: dict[int, Split] = {i: self.split.get(i, "train") for i in self.open}
        return tuple(
            replace(row, split=chosen[i]) if i in chosen else row for i, row in enumerate(self.rows)
        )

    def divide(self, label: str, shares: Mapping[str, float], random: np.random.Generator) -> None:
        """Give a class's pictures, and whatever belongs to them, to the missing splits."""
        order = random.permutation([i for i in self.open if self.rows[i].label == label]).tolist()
        counts = _counts(len(order), shares)
        for name, count in counts.items():
            taken = sum(self.split.get(i) == name for i in order)
            later = 1 + (name == "test" and bool(counts["val"]))
            for i in order:
                if i in self.split or taken >= count:
                    continue
                own = sum(self.rows[j].label == label for j in self.group[i])
                too_many = taken + own - count > count - taken and taken > 0
                if too_many or self._groups_left(order) <= later:
                    continue
                self.split |= dict.fromkeys(self.group[i], name)
                taken += own

    def _groups_left(self, order: Sequence[int]) -> int:
        return len({self.group[i][0] for i in order if i not in self.split})


def _counts(total: int, shares: Mapping[str, float]) -> dict[Split, int]:
    """How many of `total` pictures go to each missing split.

    Each split, training first, then test, gets one picture before any gets two.
    """
    counts: dict[Split, int] = {}
    left = total
    reserved: tuple[tuple[Split, int], ...] = (("test", 1 + bool(shares["val"])), ("val", 1))
    for name, others in reserved:
        wanted = max(1, round(shares[name] * total)) if shares[name] else 0
        kept = max(1, min(others, left - 1))
        counts[name] = max(0, min(wanted, left - kept))
        left -= counts[name]
    return counts
