"""Finished runs found again: their record, and their classifier."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from efftune.data.bit_depth import BitDepth
from efftune.delivery import exported
from efftune.errors import DataError, UsageError, unknown_name
from efftune.evaluation import predictions
from efftune.model import saving
from efftune.model import uncertainty as uncertainties
from efftune.model.classifier import Classifier
from efftune.model.engines import devices
from efftune.model.engines.engine import chosen_precision
from efftune.model.uncertainty import Uncertainty
from efftune.recipe.recipe import Recipe
from efftune.runs import soundness
from efftune.system import files, shell
from efftune.system.journal import RECORD

PrecisionChoice = Literal["f32", "bf16", "auto"]
# What reading a damaged file may raise: the last two for values nested too deeply, or too large.
_READ_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError),
    *(RecursionError, ArithmeticError),
)


def load(
    folder: str | Path,
    max_error: float | str | None = None,
    *,
    device: str = "cpu",
    precision: PrecisionChoice = "f32",
) -> Classifier:
    """Load the classifier of a finished run and verify its checksums, or that of an export.

    An exported file is answered by its own runtime, on the CPU, and has the threshold that it was
    exported with.

    Args:
        folder: the run folder; or an exported file, or its folder.
        max_error: the highest acceptable error rate among predictions not marked `unsure`, such as
            0.01 or `1%`; by default as the run was trained.
        device: where to compute: `cpu`, which starts fastest; `gpu`, for many pictures, through
            JAX; or `auto`, a GPU if JAX sees one.
        precision: of the computation: `f32`, as it was judged; `bf16`, which is faster where the
            processor has it and changes probabilities a little; or `auto`, bf16 if it has it.

    Raises:
        UsageError: the folder does not exist, `max_error` is not a valid share, there is no usable
            GPU or no bfloat16, or an exported file cannot do what is asked.
        DataError: it is not a finished run, its model was modified after the run finished, or a
            file is damaged or unsafe to read.
    """
    if precision not in get_args(PrecisionChoice):
        raise unknown_name("precision", str(precision), get_args(PrecisionChoice))
    folder = files.user_path(folder)
    if exported.is_export(folder):
        return _of_export(folder, max_error, device, precision)
    record = record_of(folder)
    for name, expected in record["files"].items():
        if files.sha256(soundness.checked(folder, name)) != expected:
            raise DataError(
                f"{folder / name} was modified after the run finished (its checksum differs). "
                "Restore it, or train again."
            )
    names = soundness.classes(folder / saving.CLASSES_FILE)
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
    if precision != "f32":
        classifier.precision = chosen_precision(classifier.engine, precision)
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


def _of_export(
    path: Path, max_error: float | str | None, device: str, precision: str
) -> Classifier:
    """Load an exported file.

    Raises:
        UsageError: something is asked that only a run can do.
        DataError: it is damaged.
    """
    if max_error is not None:
        raise UsageError(
            f"{path} is an export, and keeps the threshold it was exported with. Leave out the "
            "highest error, or give the run."
        )
    if device != "cpu":
        raise UsageError(
            f"{path} is an export, which its own runtime answers on the CPU. Leave out the device, "
            "or give the run."
        )
    if precision != "f32":
        raise UsageError(
            f"{path} is an export, and computes as it was exported. Leave out the precision, or "
            "give the run."
        )
    return exported.load(path)


def record_of(folder: Path) -> dict[str, Any]:
    """The contents of `run.json`, with what is needed of it in its right type.

    Raises:
        UsageError: the folder does not exist, or is that of an export.
        DataError: it is not a finished run, or one of its files is unsafe to read.
    """
    if not folder.exists():
        name = str(folder)
        hub = f" Take it from the Hub first: efftune load {name}" if name.startswith("hf:") else ""
        raise UsageError(f"There is no run folder {name}.{hub}")
    if exported.is_export(folder):
        raise UsageError(
            f"{folder} is an export, which only `predict`, `evaluate`, `sort` and `serve` take. "
            "Give its run folder."
        )
    try:
        has_record = folder.is_dir() and os.path.lexists(folder / RECORD)
        if has_record:
            soundness.require_sound(folder)
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if record["state"] == "finished" and record["files"] and record["model"]:
                soundness.require_usable(record, folder)
                return dict(record)
            if record["state"] == "unfinished":
                command = f"efftune resume {shell.quoted(folder)}"
                raise DataError(f"{folder} is an unfinished run. Go on with it: {command}")
    except OSError as error:
        raise DataError(f"{folder / RECORD} cannot be read: {error.strerror}.") from None
    except _READ_ERRORS:
        pass
    raise DataError(
        f"{folder} is not a finished run: it has no valid {RECORD}. Give a folder that "
        "`efftune train` has created, or an exported file."
    )
