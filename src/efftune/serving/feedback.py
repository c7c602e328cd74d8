"""Pictures that people have corrected, kept for the next training.

The folder holds the pictures and `labels.csv`, which says what each is. `efftune train SOURCE
--labels FOLDER/labels.csv` adds them to its own; the folder by itself is a source, too.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock

from filelock import FileLock, Timeout

from efftune.data import formats, relabelling
from efftune.data.formats import FORMATS
from efftune.data.relabelling import LABELS_FILE, Decision
from efftune.errors import UsageError
from efftune.model.classifier import Classifier
from efftune.serving.answering import Unreadable, pixels_of
from efftune.serving.metrics import Metrics
from efftune.system import files

_LOCK = ".lock"
_DIGITS = 12  # of the checksum, in a picture's name
_MOST_LETTERS = 40  # of a client's name, in it


@dataclass(frozen=True)
class Correction:
    """What somebody says of a picture.

    Attributes:
        label: what it is.
        predicted: what the classifier has said.
        name: of the file, as the client calls it; may be anything.
    """

    label: str
    predicted: str
    name: str = ""


class Feedback:
    """A folder of corrected pictures, of one server at a time; may be used from several threads."""

    def __init__(self, folder: Path):
        """Open the folder, which is created if it is missing.

        Raises:
            UsageError: it cannot be written to, or another server uses it.
            DataError: its `labels.csv` is damaged.
        """
        self.folder = folder
        self._lock = Lock()
        self._of_server = FileLock(folder / _LOCK, timeout=0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._of_server.acquire()
            with files.written_whole(folder / f"{_LOCK}-probe", flush=False) as probe:
                probe.touch()
            (folder / f"{_LOCK}-probe").unlink()
        except Timeout:
            reason = "another server keeps its corrections there"
            raise UsageError(f"--feedback {folder}: {reason}. Give each its own.") from None
        except (OSError, NotImplementedError) as error:
            text = getattr(error, "strerror", None) or error
            raise UsageError(f"--feedback {folder} cannot be written to: {text}.") from None
        self._decisions()

    def keep(self, content: bytes, correction: Correction) -> str:
        """Keep a picture that can be decoded, and what it is.

        A second correction of the same content takes the place of the first. Whenever the process
        ends, `labels.csv` has the whole row or none, and the picture of each row is there.

        Returns:
            The picture's name in the folder.

        Raises:
            DiskFull: there is no room.
            OSError: the folder cannot be written to any more.
            UsageError: `labels.csv` cannot be opened any more.
            DataError: somebody has damaged `labels.csv`.
        """
        choice = "keep" if correction.label == correction.predicted else "relabel"
        new_label = correction.label if choice == "relabel" else ""
        decision = Decision(correction.predicted, choice, new_label)  # type: ignore[arg-type]
        with self._lock:
            decisions = self._decisions()
            try:
                name = self._kept(content, correction.name)
                relabelling.write(self.folder / LABELS_FILE, {**decisions, name: decision})
            except OSError as error:
                full = files.disk_full(error, self.folder, len(content))
                raise full or error from None
            return name

    def close(self) -> None:
        """Leave the folder to another server."""
        self._of_server.release()

    def _decisions(self) -> Mapping[str, Decision]:
        """What is in `labels.csv`, which its owner may have edited meanwhile."""
        path = self.folder / LABELS_FILE
        return relabelling.read(path) if path.exists() else {}

    def _kept(self, content: bytes, name: str) -> str:
        """Write a picture, unless it is there; returns its name."""
        digest = hashlib.sha256(content).hexdigest()
        suffix = FORMATS[formats.detect(content[: formats.HEAD])].suffixes[0]
        for path in self.folder.glob(f"*-{digest[:_DIGITS]}*{suffix}"):
            if files.sha256(path) == digest:
                return path.name
        kept = f"{_safe(name)}-{digest[:_DIGITS]}{suffix}"
        if (self.folder / kept).exists():  # another content, whose checksum begins alike
            kept = f"{_safe(name)}-{digest}{suffix}"
        files.write(self.folder / kept, content)
        return kept


@dataclass(frozen=True)
class Keeping:
    """What is done with a corrected picture.

    Attributes:
        feedback: keeps it.
        correction: of it.
        classifier: that has to be able to read it.
        most_pixels: of a picture.
        metrics: count what is done.
    """

    feedback: Feedback
    correction: Correction
    classifier: Classifier
    most_pixels: int
    metrics: Metrics

    def __call__(self, picture: bytes) -> str | Unreadable:
        """Keep the picture in a file; returns its name in the folder."""
        pixels = pixels_of(picture, self.classifier, self.most_pixels, self.metrics)
        if isinstance(pixels, Unreadable):
            return pixels
        return self.feedback.keep(picture, self.correction)


def _safe(name: str) -> str:
    """Letters, digits and hyphens of a name, without folders and suffix; never empty."""
    last = PurePosixPath(name.replace("\\", "/").replace("\0", "")).name
    stem = last.rpartition(".")[0] or last
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", errors="ignore").decode()
    letters = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:_MOST_LETTERS].strip("-")
    return letters or "photo"
