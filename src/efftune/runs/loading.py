"""Finished runs found again: their record, and their classifier."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from efftune.data.bit_depth import BitDepth
from efftune.errors import DataError, UsageError
from efftune.evaluation import predictions
from efftune.model import saving
from efftune.model import uncertainty as uncertainties
from efftune.model.classifier import Classifier
from efftune.model.engines import devices
from efftune.model.uncertainty import Uncertainty
from efftune.recipe.recipe import Recipe
from efftune.system import files
from efftune.system.journal import RECORD


def load(
    folder: str | Path,
    max_error: float | str | None = None,
    *,
    device: str = "cpu",
) -> Classifier:
    """Load the classifier of a finished run and verify its checksums.

    Args:
        folder: the run folder.
        max_error: the highest acceptable error rate among predictions not marked `unsure`, such as
            0.01 or `1%`; by default as the run was trained.
        device: where to compute: `cpu`, which starts fastest; `gpu`, for many pictures, through
            JAX; or `auto`, a GPU if JAX sees one.

    Raises:
        UsageError: the folder does not exist, `max_error` is not a valid share, or there is no
            usable GPU.
        DataError: it is not a finished run, or its model was modified after the run finished.
    """
    folder = files.user_path(folder)
    record = record_of(folder)
    for name, expected in record["files"].items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing. Restore it, or train again.")
        if files.sha256(folder / name) != expected:
            raise DataError(
                f"{folder / name} was modified after the run finished (its checksum differs). "
                "Restore it, or train again."
            )
    names = json.loads((folder / saving.CLASSES_FILE).read_text(encoding="utf-8"))
    path = folder / saving.UNCERTAINTY_FILE
    if not path.exists():
        path = folder / saving.UNCERTAINTY_FILE_BEFORE
    uncertainty = Uncertainty.read(path)
    if max_error is not None:
        require_pictures(folder, record)
        share = Recipe().changed(max_error=max_error).evaluation.max_error
        confidences, correct = predictions.confidences(folder, "val")
        threshold = uncertainties.confidence_threshold(confidences, correct, share)
        uncertainty = replace(uncertainty, unsure_below=threshold)
    model = record["model"]
    depth = BitDepth.from_dict(model.get("depth", {}))
    classifier = Classifier(folder, names, model["image_size"], model["fit"], uncertainty, depth)
    classifier.device = devices.for_prediction(device)
    return classifier


def require_pictures(folder: Path, record: Mapping[str, Any]) -> None:
    """Check that a run has what is known of its pictures: their names, labels and predictions.

    Raises:
        UsageError: it came from the Hub, where it was put without that.
    """
    if record.get("without_pictures"):
        raise UsageError(
            f"{folder} came from the Hub without what is known of its pictures, which this needs. "
            "Whoever has the run can push it --with-report."
        )


def record_of(folder: Path) -> dict[str, Any]:
    """The contents of `run.json`.

    Raises:
        UsageError: the folder does not exist.
        DataError: it is not a finished run.
    """
    if not folder.exists():
        raise UsageError(f"There is no run folder {folder}.")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["state"] == "finished" and record["files"] and record["model"]:
            return dict(record)
        if record["state"] == "unfinished":
            command = f"efftune resume {shlex.quote(str(folder))}"
            raise DataError(f"{folder} is an unfinished run. Go on with it: {command}")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{folder} is not a finished run: it has no valid {RECORD}. Give a folder that "
        "`efftune train` has created."
    )
