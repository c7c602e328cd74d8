"""Classifiers from exported files, which their own runtime answers."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efftune.delivery import receipt as receipts
from efftune.delivery.asking import AGAIN, Answers
from efftune.delivery.reading import KINDS, MOST_BYTES
from efftune.errors import DataError, UsageError
from efftune.model.classifier import Classifier
from efftune.model.prediction import ModelOutputs, Prediction
from efftune.model.uncertainty import Uncertainty
from efftune.system import files, packages
from efftune.system.journal import RECORD

if TYPE_CHECKING:
    import keras


def is_export(path: Path) -> bool:
    """Whether a path, if there is anything, is meant to be an exported file or its folder."""
    if path.is_dir():
        return (path / receipts.FILE).exists() and not (path / RECORD).exists()
    return path.suffix.lower() in KINDS


def load(path: Path) -> "ExportedClassifier":
    """Load an exported file into its runtime.

    Args:
        path: of the file, or of the folder with its receipt.

    Raises:
        UsageError: there is no such file, or its runtime is not installed.
        DataError: it is damaged, or no export.
    """
    path = _file(path)
    needed = KINDS[path.suffix.lower()].needs
    missing = [package for package in needed if find_spec(package) is None]
    if missing:
        names = [each.replace("_", "-") for each in missing]
        command = packages.install(*names)
        raise UsageError(f"{path} needs {' '.join(names)}. Run: {command}")
    return ExportedClassifier(path)


def _file(given: Path) -> Path:
    """The file of an export, as regular files in one folder."""
    path = given
    if given.is_dir():
        receipt = files.inside(given, receipts.FILE, most=2**24)
        try:
            name = json.loads(receipt.read_bytes())["file"]
            suffix = Path(name).suffix.lower()
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            name, suffix = "", ""
        if suffix == "" and (given / name / "saved_model.pb").is_file():
            raise UsageError(
                f"{given} is a SavedModel, which may hold any program: efftune does not load it. "
                "Give the run, or another export of it."
            )
        if suffix not in KINDS or ".." in Path(name).parts or Path(name).is_absolute():
            raise DataError(f"{receipt} is damaged: it names no exported file. {AGAIN}")
        path = given / name
    if not path.exists():
        raise UsageError(f"There is no {path}.")
    path = path.resolve()  # the user has chosen it, and may have done so by a link
    if path.suffix.lower() not in KINDS:
        raise DataError(f"{path} is no exported file. {AGAIN}")
    for suffix in ("", *KINDS[path.suffix.lower()].beside):
        name = path.with_suffix(suffix).name if suffix else path.name
        found = files.inside(path.parent, name, most=MOST_BYTES)
        if not found.stat().st_size:
            raise DataError(f"{found} is empty. Export it again.")
    return path


class ExportedClassifier(Classifier):
    """A classifier from an exported file.

    It has no measure of how much a picture is unlike the training pictures, and no Keras model.

    Attributes:
        path: of the file.
        runtime: what answers, with its version.
    """

    def __init__(self, path: Path):
        """Check a file, load it, and let it answer once."""
        self.path = path
        self._answers = Answers(path)
        described = self._answers.description
        uncertainty = Uncertainty(described.temperature, described.unsure_below)
        super().__init__(
            *(path.parent, described.classes, described.image_size, described.fit),
            *(uncertainty, described.depth),
        )

    @property
    def runtime(self) -> str:
        """What answers, with its version."""
        return self._answers.runtime

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path: the file is read again."""
        return ExportedClassifier, (self.path,)

    @property
    def network(self) -> Answers:
        """What answers, in a process of its own."""
        return self._answers

    @property
    def model(self) -> "keras.Model":
        """There is none: a UsageError is raised."""
        raise UsageError(f"{self.path} is an export, which has no Keras model. Load its run.")

    def _prediction(
        self, outputs: ModelOutputs, index: int, top: int, *, path: Path | None, raw: bool
    ) -> Prediction:
        found = super()._prediction(outputs, index, top, path=path, raw=raw)
        return replace(found, unlike=None)
