"""What an exported file answers on the run's own photos, beside the run's classifier."""

from dataclasses import asdict, dataclass
from typing import Any

FILE = "receipt.json"
TRAINING = "training"  # pictures of a run that was judged out of fold


@dataclass(frozen=True)
class Score:
    """How the answers for the photos of a split compare with the classifier's.

    Attributes:
        split: `val` or `test`; `training` if cross-validation judged the run.
        pictures: their number.
        agreement: share with the same first answer, 0 to 1.
        largest_gap: between two probabilities of the same class.
        mean_gap: the mean over pictures of the largest gap of each.
        worst: name of the picture with the largest gap.
        accuracy: share of right answers; None for pictures that the classifier was trained on.
        accuracy_before: the same, of the classifier.
        loss: cross-entropy, in nats; None where there is no accuracy.
        loss_before: the same, of the classifier.
        p: p-value of McNemar's exact test between the two.
        unsure_flips: share of pictures that are unsure for one of them only.
    """

    split: str
    pictures: int
    agreement: float
    largest_gap: float
    mean_gap: float
    worst: str
    accuracy: float | None
    accuracy_before: float | None
    loss: float | None
    loss_before: float | None
    p: float | None
    unsure_flips: float

    @property
    def drop(self) -> float:
        """Of accuracy, 0 to 1; for pictures that the classifier was trained on, of agreement."""
        if self.accuracy is None or self.accuracy_before is None:
            return 1 - self.agreement
        return self.accuracy_before - self.accuracy


@dataclass(frozen=True)
class Attempt:
    """A way in which a file was written, in order to be judged.

    Attributes:
        way: how, such as `int8`.
        bytes: size of the file, with the files that belong to it.
        split: whose pictures judged it.
        drop: of the share of these that are given the right class; of those that are given the
            classifier's, if it was trained on them. None if it could not be written or judged.
        kept: whether it was good enough.
        temperature: by which the logits were divided to calibrate what 8 bits had changed; 1 if
            they were not.
        failure: why it could not be written; else empty.
    """

    way: str
    bytes: int = 0
    split: str = ""
    drop: float | None = None
    kept: bool = False
    temperature: float = 1.0
    failure: str = ""

    @property
    def outcome(self) -> str:
        """In a few words."""
        if self.drop is None:
            return f"{self.way}: {self.failure}"
        about = f"{self.bytes / 1e6:.1f} MB"
        if self.temperature != 1:
            about += f", calibrated again, temperature {self.temperature:.2f}"
        loses = f"{100 * self.drop:.1f} points" if self.drop > 0 else "nothing"
        return f"{self.way} loses {loses} ({about})"


@dataclass(frozen=True)
class Receipt:
    """What an exported file came to.

    Attributes:
        format: of the file.
        file: its path in the folder of the export.
        bytes: its size, with the files that belong to it.
        runtime: what answered, with its version.
        machine: where.
        bound: on the gap between probabilities, for the same pixels; None for 8 bits.
        max_drop: of accuracy, 0 to 1, for 8 bits; else None.
        attempts: in which it was written, the one that was kept last.
        same_pixels: given the pixels that the classifier gets, by split.
        trained_on: whether the classifier was trained on these pictures, of which it is surer than
            of others: with others, gaps may be larger.
        load_ms: milliseconds until the file was loaded and had answered once.
        ms: median milliseconds for the pixels of one picture.
        ms_95: their 95th percentile.
        left_out: names of photos that are gone, have changed or cannot be read any more.
        application: what the program that it is for does with a picture; empty if it is for none.
        application_pixels: given the pixels that this program makes, by split.
        application_left_out: names of photos that this program cannot read.
    """

    format: str
    file: str
    bytes: int
    runtime: str
    machine: dict[str, Any]
    bound: float | None
    max_drop: float | None
    attempts: tuple[Attempt, ...]
    same_pixels: tuple[Score, ...]
    load_ms: float
    ms: float
    ms_95: float
    trained_on: bool = False
    left_out: tuple[str, ...] = ()
    application: str = ""
    application_pixels: tuple[Score, ...] = ()
    application_left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
