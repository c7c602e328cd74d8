"""Examples: the pictures of a source with their classes and splits."""

import hashlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efftune.data import bit_depth, stratified_split
from efftune.data.bit_depth import BitDepth
from efftune.data.stratified_split import StratifiedSplit
from efftune.errors import DataError
from efftune.system import files

Split = Literal["train", "val", "test"]
Undecided = Literal[""]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
HIDDEN, MACOS, WINDOWS = "hidden", "left over from a macOS archive", "left over from Windows"
RUN, HEAT_MAPS, FINDINGS = "run folder", "heat maps of efftune", "findings of efftune"
NO_CLASS_FOLDER = "not in a class folder"
_ALLOW = ", or pass --set missing_classes=allow"
NO_TIME = "no time for it within the budget"  # a reason, too
LEFTOVERS = frozenset({HIDDEN, MACOS, WINDOWS, RUN, HEAT_MAPS, FINDINGS})  # files of no class


@dataclass(frozen=True, slots=True)
class Example:
    """One file of a source.

    Attributes:
        path: of the file.
        name: as shown to the user, relative to the source.
        label: class name; empty if the source gives none.
        split: name of the split; empty if not yet assigned.
        reason: why the file is set aside; empty for a usable picture.
        sha256: of the file's bytes, 64 hexadecimal digits; empty until the file is read.
        line: number, from 1, of its line in a table; 0 for sources other than tables.
        group: name of a group of related pictures, such as a patient, video or session; empty if
            the source defines none.
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
        """Whether this is a picture for training or evaluation."""
        return not self.reason


@dataclass(frozen=True)
class Examples:
    """All files of a source in a fixed order: usable pictures and files set aside.

    Attributes:
        source: as given by the user.
        rows: one example per file.
        cut: the splits created by efftune because the source has none.
        val_is_test: whether the test split is also used as the validation split.
        leaked: validation and test pictures with a copy in an earlier split.
        confirmed: pictures whose label was confirmed or corrected in a review.
        together: group numbers by path; a group holds copies or otherwise related pictures.
        fold_of: fold numbers by path, from 0, if cross-validation judges; empty otherwise.
        depth: which values of pictures of more than 8 bits become black and white.
    """

    source: str
    rows: tuple[Example, ...] = field(repr=False)  # thousands
    cut: frozenset[Split] = frozenset()
    val_is_test: bool = False
    leaked: frozenset[Path] = field(default=frozenset(), repr=False)
    confirmed: frozenset[Path] = field(default=frozenset(), repr=False)
    together: Mapping[Path, int] = field(default_factory=dict, repr=False)
    fold_of: Mapping[Path, int] = field(default_factory=dict, repr=False)
    depth: BitDepth = bit_depth.UNKNOWN

    @property
    def class_names(self) -> tuple[str, ...]:
        """Sorted classes of all usable pictures; their positions are the class numbers."""
        return tuple(sorted({row.label for row in self.rows if row.usable}))

    @property
    def set_aside(self) -> tuple[Example, ...]:
        """The files that are not used; `reason` says why."""
        return tuple(row for row in self.rows if not row.usable)

    def of(self, split: Split) -> tuple[Example, ...]:
        """The usable pictures of one split."""
        if split == "val" and self.val_is_test:
            split = "test"
        return tuple(row for row in self.rows if row.usable and row.split == split)

    def groups(self, split: Split) -> NDArray[np.int64]:
        """Group numbers of the usable pictures of a split, int64 (pictures,)."""
        alone = itertools.count(1 + max(self.together.values(), default=0))
        return np.array(
            [self.together.get(row.path, next(alone)) for row in self.of(split)], np.int64
        )

    @property
    def counts(self) -> dict[Split, int]:
        """Number of usable pictures in each split."""
        return {split: len(self.of(split)) for split in SPLITS}

    def with_test_as_val(self) -> "Examples":
        """Also use the test split for validation if the source has no validation split."""
        return replace(
            self, val_is_test="test" in self._source_splits and "val" not in self._source_splits
        )

    @property
    def has_splits(self) -> bool:
        """Whether the source itself says which pictures are for validation or testing."""
        return bool(self._source_splits & {"val", "test"})

    @property
    def folds(self) -> NDArray[np.int64] | None:
        """Fold numbers of the usable pictures, int64 (pictures,); None if there are none."""
        if not self.fold_of:
            return None
        found = [self.fold_of[row.path] for row in self.of("train")]
        return np.unique(found, return_inverse=True)[1]  # without folds that have lost all theirs

    @property
    def _source_splits(self) -> set[str]:
        """The splits defined by the source, including a test split used for validation."""
        splits: set[str] = {row.split for row in self.rows if row.usable}
        return splits | {"val"} if self.val_is_test else splits

    def split(
        self,
        val: float,
        test: float,
        seed: int,
        together: Mapping[Path, int] = MappingProxyType({}),
    ) -> "Examples":
        """Assign a split to every usable picture; splits defined by the source are unchanged.

        Missing splits are drawn from the training pictures, stratified by class, with at least one
        picture of each class in each split. The result depends only on the seed and on the order
        of the pictures.

        Args:
            val: fraction of the pictures for a missing validation split, 0 to 1.
            test: the same for a missing test split.
            seed: of the random draw.
            together: group numbers by path; a group is never divided between splits. The fractions
                are then matched as closely as the groups allow.

        Returns:
            New examples in which every usable picture has a split.
        """
        fractions = {
            "test": 0.0 if "test" in self._source_splits else test,
            "val": 0.0 if "val" in self._source_splits else val,
        }
        splitter = StratifiedSplit(self.rows, together)
        random = np.random.default_rng(seed)
        for label in self.class_names:
            splitter.divide(label, fractions, random)
        created = frozenset(name for name in SPLITS if fractions.get(name))
        return replace(self, rows=splitter.result, cut=created, together=together)

    def in_folds(self, count: int, seed: int, together: Mapping[Path, int]) -> "Examples":
        """Use every picture for training, and assign it to a fold for cross-validation.

        Args:
            count: number of folds; fewer if no class has as many groups.
            seed: of the random assignment.
            together: group numbers by path; a group is never divided between folds.
        """
        rows = tuple(replace(row, split="train") if row.usable else row for row in self.rows)
        usable = [row for row in rows if row.usable]
        fold_of = stratified_split.folds(usable, together, count, seed)
        return replace(self, rows=rows, together=together, fold_of=fold_of)

    def as_read(self, sha256s: Mapping[Path, str], failures: Mapping[Path, str]) -> "Examples":
        """Add the results of reading the files.

        Args:
            sha256s: content hashes by path.
            failures: reasons by path, for the files to set aside.
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

    def require_splittable(self, *, allow_missing: bool, in_folds: bool = False) -> None:
        """Check, before splitting, that there are enough pictures of each class for all splits.

        Args:
            allow_missing: accept classes with too few pictures.
            in_folds: pictures will be divided into folds, not into splits.

        Raises:
            DataError: there is no picture, only one class, or a class with too few pictures.
        """
        if not any(row.usable for row in self.rows):
            if not self.rows:
                problem = "that can be read. It is empty: add one folder per class."
            elif any(row.reason == NO_CLASS_FOLDER for row in self.rows):
                problem = (
                    f"in a class folder. Found: {self.reasons_summary}. Put the pictures of each "
                    "class into a folder of its own, or list them in a table with the columns "
                    "path and label."
                )
            else:
                problem = f"that can be read. Found: {self.reasons_summary}."
                if "no such file" in self.reasons_summary:
                    problem += " Correct the paths in the table, or name their folder: --root."
            raise DataError(f"{self.source} holds no picture {problem}")
        if not allow_missing:
            self._require_no_class_lost()
        if len(self.class_names) < 2:
            raise DataError(
                f"{self.source} contains only one class, {self.class_names[0]!r}. A classifier "
                "needs at least two: put the pictures of each class in a separate folder."
            )
        usable = [row for row in self.rows if row.usable]
        needed = 2 if in_folds else 1 + len({"val", "test"} - self._source_splits)
        counts = Counter(row.label for row in usable if row.split in ("", "train"))
        small = sorted(name for name, count in counts.items() if count < needed)
        purpose = "one to learn from and one to judge by" if in_folds else "one for each split"
        if small and not allow_missing:
            raise DataError(
                f"Class {small[0]!r} has {counts[small[0]]} usable training picture(s), but needs "
                f"at least {needed}, {purpose}. Add pictures, move the class out of the "
                "source, or pass --set missing_classes=allow."
            )

    def require_trainable(self, *, allow_missing: bool) -> None:
        """Check, after splitting, that a classifier can be trained and evaluated.

        Args:
            allow_missing: accept classes without validation or test pictures.

        Raises:
            DataError: a split is empty, or a class is missing from one.
        """
        if not allow_missing:
            self._require_no_class_lost()
        if self.fold_of:
            self._require_judgeable(allow_missing=allow_missing)
            return
        for split in SPLITS:
            present = {row.label for row in self.of(split)}
            missing = [name for name in self.class_names if name not in present]
            if not present or (missing and (split == "train" or not allow_missing)):
                raise DataError(
                    f"No usable picture of class {_quoted_list(missing)} in the {split} split of "
                    f"{self.source}. {self._remedy(split, empty=not present)}"
                )

    def _require_judgeable(self, *, allow_missing: bool) -> None:
        """Check that each class has pictures in two folds or more.

        Raises:
            DataError: a class has not, so that no classifier can know it and be judged by it.
        """
        folds: dict[str, set[int]] = {name: set() for name in self.class_names}
        for row in self.of("train"):
            folds[row.label].add(self.fold_of[row.path])
        alone = [name for name, found in folds.items() if len(found) < 2]
        can_allow = len(folds) - len(alone) >= 2  # classes to judge
        if alone and not (allow_missing and can_allow):
            raise DataError(
                f"All usable pictures of class {_quoted_list(alone)} are in one fold: there is "
                "only one, or they are copies or one group, or others were relabelled. Add others "
                "or move the class out" + _ALLOW * can_allow + "."
            )

    def _remedy(self, split: Split, *, empty: bool) -> str:
        if split == "train":
            return "Add training pictures of it, or remove it from the other splits."
        allow = _ALLOW * (not empty)
        if split in self.cut:
            return f"Add pictures of it; at least three must be readable{allow}."
        return f"Add some, or remove that split or --{split} so that some are held out{allow}."

    def _require_no_class_lost(self) -> None:
        present = {row.label for row in self.rows if row.label and row.reason not in LEFTOVERS}
        missing = sorted(present - set(self.class_names))
        if missing:
            reasons = Counter(row.reason for row in self.rows if row.label == missing[0])
            raise DataError(
                f"No usable picture of class {_quoted_list(missing)} ({_summary(reasons)}). "
                "Replace those files, move the class out of the source, or pass "
                "--set missing_classes=allow."
            )

    @property
    def reasons_summary(self) -> str:
        """How many files were set aside for which reasons: "3 not an image, 1 hidden"."""
        return _summary(Counter(row.reason for row in self.set_aside))

    def to_csv(self) -> str:
        """The table `examples.csv`: path, label, split, status, reason, sha256, fold from 1."""
        table = io.StringIO()
        writer = files.csv_writer(table)
        writer.writerow(["path", "label", "split", "status", "reason", "sha256", "fold"])
        for row in self.rows:
            status = "used" if row.usable else "set aside"
            fold = self.fold_of[row.path] + 1 if row.usable and row.path in self.fold_of else ""
            writer.writerow([row.name, row.label, row.split, status, row.reason, row.sha256, fold])
        return table.getvalue()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the contents, labels and splits of all usable pictures, without names."""
        used = [(row, self.fold_of.get(row.path, "")) for row in self.rows if row.usable]
        lines = sorted(f"{row.sha256} {row.label} {row.split}{fold}" for row, fold in used)
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def labels(rows: Sequence[Example], class_names: Sequence[str]) -> NDArray[np.int64]:
    """The class numbers of `rows`: positions in `class_names`, int64 (rows,)."""
    number = {name: i for i, name in enumerate(class_names)}
    return np.array([number[row.label] for row in rows], dtype=np.int64)


def _summary(reasons: Counter[str]) -> str:
    """Reasons with their counts, most frequent first; without line numbers and exceptions."""
    merged: Counter[str] = Counter()
    for reason, count in reasons.items():
        merged[re.split(r", on line | \(", reason)[0]] += count
    return ", ".join(f"{count:,} {reason}" for reason, count in merged.most_common())


def _quoted_list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" …" if len(names) > 5 else "")
