"""Exports of a run: files for other programs, each judged before it is kept."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from efftune.data.images import Pixels
from efftune.delivery import judging, photos
from efftune.delivery import receipt as receipts
from efftune.delivery.export_requests import ExportRequest
from efftune.delivery.formats import Material
from efftune.delivery.judging import Originals
from efftune.delivery.photos import Photo
from efftune.delivery.receipt import Attempt, Receipt, Score
from efftune.delivery.targets import Target
from efftune.errors import DataError, UsageError
from efftune.model import catalogue
from efftune.model.classifier import Classifier
from efftune.recipe.recipe import Recipe
from efftune.report import model_card
from efftune.system import files

LABELS_FILE = "labels.txt"
_JUDGED = 300  # pictures, at most, that tell which layers need more than 8 bits


@dataclass(frozen=True)
class Export:
    """A file that was exported.

    Attributes:
        name: of its format, or of what it is for.
        path: of the file.
        receipt: what it answers on the run's pictures.
    """

    name: str
    path: Path
    receipt: Receipt


@dataclass(frozen=True)
class Exportable:
    """A run that is exported.

    Attributes:
        record: its `run.json`.
        recipe: of it.
        originals: what its classifier answers.
        training: photos that it was trained on, for files that have to be calibrated.
    """

    record: Mapping[str, Any]
    recipe: Recipe
    originals: Originals
    training: Sequence[Photo]

    @property
    def classifier(self) -> Classifier:
        """That of the run."""
        return self.originals.classifier


def export(
    run: Exportable, request: ExportRequest, on_progress: Callable[[int, int], None]
) -> Export:
    """Write a classifier in another format, and keep the file if it answers alike.

    Args:
        run: whose classifier.
        request: what is to be written, and where, with its model card.
        on_progress: called with the number of pictures judged and their total.

    Raises:
        UsageError: the folder cannot be written to, or training pictures that are needed are gone.
        DiskFull: there is no room for the file.
        DataError: the file answers otherwise than the classifier.
    """
    target, folder = request.target, request.folder
    try:
        with files.folder_written_whole(folder, replace=True) as partial:
            with _material(run, request) as material:
                name = request.format.file if target is None else target.model_file(material)
                made = _first_that_holds(run, request, material, partial / name, on_progress)
                made = replace(made, file=name)
                if target is not None:
                    target.write(material, partial)
                    made = _in_application(made, run, target, (partial, name), on_progress)
            if target is None or target.has_labels:
                files.write(partial / LABELS_FILE, material.labels_text)
            text = json.dumps(made.to_dict(), indent=1, ensure_ascii=False)
            files.write(partial / receipts.FILE, text + "\n")
            model_card.write(run.classifier.folder, partial, receipt=made.to_dict())
    except OSError as error:
        place = f"Cannot write to {folder}: {error.strerror or error}."
        full = files.disk_full(error, folder)
        raise full or UsageError(f"{place} Choose another place with --into.") from None
    return Export(request.name, folder / name, made)


@contextmanager
def _material(run: Exportable, request: ExportRequest) -> Iterator[Material]:
    """What the file is written from."""
    originals = run.originals
    _, rows = originals.decisive()
    rows = rows[:: 1 + len(rows) // _JUDGED]
    with tempfile.TemporaryDirectory(prefix="efftune-export-") as scratch:
        yield Material(
            classifier=run.classifier,
            metadata=_metadata(run),
            batch=request.batch if request.target is None else request.target.batch,
            scratch=Path(scratch),
            decode_calibration=lambda: _calibration(run),
            judged=lambda: (originals.pixels[rows], originals.expected(rows)),
            max_drop=request.max_drop,
            browser_runtime=request.browser_runtime,
        )


def _calibration(run: Exportable) -> Pixels:
    """Pixels of training pictures.

    Raises:
        UsageError: they are gone.
    """
    pixels, kept = photos.read(run.training, run.classifier)
    if not kept:
        raise UsageError(
            "Files of 8 bits are calibrated with pictures that the run was trained on, and none of "
            "them is there any more. Restore them, or say where they are: --photos SOURCE."
        )
    return pixels


def _first_that_holds(
    run: Exportable,
    request: ExportRequest,
    material: Material,
    path: Path,
    on_progress: Callable[[int, int], None],
) -> Receipt:
    """Write the file in the first way whose answers are good enough.

    Raises:
        DataError: none is.
    """
    wanted = request.format
    tried, measured = list[Attempt](), dict[str, Any]()
    for way in wanted.ways:
        try:
            attempt, measured = _attempted(run, request, (way, material, path), on_progress)
        except DataError as error:
            if wanted.bound is not None:
                raise
            attempt = Attempt(way, failure=str(error))
        tried.append(attempt)
        if attempt.kept:
            break
    if not measured:
        raise DataError(tried[-1].failure)
    made = Receipt(
        format=request.format_name,
        file=path.name,
        bytes=tried[-1].bytes,
        bound=wanted.bound,
        max_drop=request.max_drop if wanted.bound is None else None,
        attempts=tuple(tried),
        **measured,
    )
    _require_alike(made, run)
    return made


def _attempted(
    run: Exportable,
    request: ExportRequest,
    how: tuple[str, Material, Path],
    on_progress: Callable[[int, int], None],
) -> tuple[Attempt, dict[str, Any]]:
    """Write a file in a way, and judge it: once more with calibrated logits, if 8 bits need that.

    Returns:
        Whether it is good enough, and what was measured.

    Raises:
        DataError: it cannot be written in this way.
    """
    way, material, path = how
    attempt, measured, temperature = _written_and_judged(run, request, how, on_progress)
    if request.format.bound is not None or not attempt.kept or temperature == 1:
        return attempt, measured
    before = shutil.move(path.parent, material.scratch / "before")
    again = (way, material.recalibrated(temperature), path)
    with suppress(DataError):  # then the file is kept as it was
        other, found, _ = _written_and_judged(run, request, again, on_progress)
        if other.kept and _decisive(found, run).mean_gap < _decisive(measured, run).mean_gap:
            return replace(other, temperature=temperature), found
    shutil.rmtree(path.parent)
    shutil.move(before, path.parent)
    return attempt, measured


def _written_and_judged(
    run: Exportable,
    request: ExportRequest,
    how: tuple[str, Material, Path],
    on_progress: Callable[[int, int], None],
) -> tuple[Attempt, dict[str, Any], float]:
    """Write a file in a way: whether it is good enough, what was measured, its temperature."""
    way, material, path = how
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    request.format.ways[way](material, path)
    measured, temperature = judging.judge(
        lambda: request.format.load(path), run.originals, on_progress
    )
    score = _decisive(measured, run)
    size = sum(each.stat().st_size for each in path.parent.rglob("*") if each.is_file())
    good = request.format.bound is not None or score.drop <= request.max_drop + 1e-9
    return Attempt(way, size, score.split, score.drop, kept=good), measured, temperature


def _decisive(measured: Mapping[str, Any], run: Exportable) -> Score:
    """What a file came to on the pictures that choose."""
    split, _ = run.originals.decisive()
    scores: Sequence[Score] = measured["same_pixels"]
    return next(score for score in scores if score.split == split)


def _in_application(
    made: Receipt,
    run: Exportable,
    target: Target,
    place: tuple[Path, str],
    on_progress: Callable[[int, int], None],
) -> Receipt:
    """The receipt with what the file answers in the application that it is for."""
    folder, name = place
    prepare = target.preparation(folder, run.classifier)
    loaded = target.load(folder / name)
    found = judging.judge_application(loaded, prepare, run.originals, on_progress)
    return replace(made, application=target.does, **found)


def _metadata(run: Exportable) -> dict[str, str]:
    """What programs can read from a file without running it, in ASCII."""
    classifier, model = run.classifier, run.record["model"]
    known = {
        "producer": f"efftune {version('efftune')}",
        "run": classifier.folder.resolve().name,
        "model": model["name"],
        "weights": model["weights"],
        "classes": json.dumps(classifier.class_names),
        "input": "float32, red, green and blue, 0 to 255, (batch, height, width, 3)",
        "image_size": str(classifier.image_size),
        "fit": str(classifier.fit),
        "depth": json.dumps(asdict(classifier.depth)),  # of pictures of more than 8 bits
        "output": "calibrated probabilities, float32 (batch, classes)",
    }
    if licence := catalogue.licence(model, run.recipe.backbone.weights):
        known["licence"] = licence
    if classifier.uncertainty is not None:
        known["unsure_below"] = repr(classifier.uncertainty.unsure_below)  # may be just above 1
        known["temperature"] = f"{classifier.uncertainty.temperature:.6f}"
    return {key: value.encode("ascii", "backslashreplace").decode() for key, value in known.items()}


def _require_alike(made: Receipt, run: Exportable) -> None:
    """Check the answers for the same pixels.

    Raises:
        DataError: a gap is beyond the bound, or the accuracy dropped by too much.
    """
    last = made.attempts[-1]
    if not last.kept:
        tried = "; ".join(each.outcome.rstrip(".") for each in made.attempts)
        split = next(each.split for each in made.attempts if each.split)
        raise DataError(
            f"The {made.format} file of {run.classifier.folder} loses more accuracy than "
            f"{100 * (made.max_drop or 0):g} points on the {split} pictures, or cannot be written "
            f"({tried}). It was not kept. Allow more with --max-drop, or export another format."
        )
    worst = max(made.same_pixels, key=lambda score: score.largest_gap)
    if made.bound is not None and worst.largest_gap > made.bound:
        raise DataError(
            f"The {made.format} file answers otherwise than {run.classifier.folder}: for the same "
            f"pixels of {worst.worst}, a probability differs by {worst.largest_gap:.2g}, and "
            f"{made.bound:g} is the most. {worst.agreement:.1%} of the first answers agree. The "
            "file was not kept. Please report that."
        )
