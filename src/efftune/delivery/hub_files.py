"""What of a run is put on the Hugging Face Hub, and the manifest that vouches for it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from efftune.errors import DataError
from efftune.evaluation import predictions, suspects
from efftune.model import saving
from efftune.model.engines.engine import KERAS_FILE, OPENVINO_FILE
from efftune.recipe.recipe import Recipe
from efftune.report import model_card, thumbnails
from efftune.report.page import read_json
from efftune.system import files, packages
from efftune.system.journal import RECORD

MANIFEST = "efftune.json"
CARD = "README.md"  # which the Hub shows, and people edit there: the manifest leaves it out
MOST_BYTES = 4 * 2**30  # of a run; the largest model takes a quarter of that
MOST_MANIFEST_BYTES = 2**20
_FORMAT = 1
_NEEDED = (RECORD, "recipe.toml", "evaluation.json", saving.CLASSES_FILE)
_CLASSIFIER = (
    *(KERAS_FILE, OPENVINO_FILE, "openvino/model.bin", saving.UNCERTAINTY_FILE),
    saving.UNCERTAINTY_FILE_BEFORE,
)
REPORT = (*("examples.csv", "findings.csv", predictions.FILE, suspects.FILE, thumbnails.FILE),)
KNOWN = (*_NEEDED, *_CLASSIFIER, "history.csv", *REPORT)
_PATH = re.compile(r"(?<![\w/:.~])(?:~?(?:/[^\s/'\"]+)+|[A-Za-z]:(?:[\\/][^\s\\/'\"]+)+)")


@dataclass(frozen=True)
class Entry:
    """A file of a manifest.

    Attributes:
        bytes: its size.
        sha256: of its content, 64 hexadecimal digits.
    """

    bytes: int
    sha256: str


def collect(folder: Path, recipe: Recipe, into: Path, *, with_report: bool) -> dict[str, Path]:
    """What is to be put on the Hub, by its name there.

    Args:
        folder: of a finished run.
        recipe: of it.
        into: an empty folder, for what is not put there as it is in the run.
        with_report: also what the report shows: names, small pictures and predictions.

    Raises:
        DataError: a file of the run is missing or damaged.
    """
    record = read_json(folder / RECORD)
    public = public_record(record, folder) | {"without_pictures": not with_report}
    files.write(into / RECORD, _json(public))
    files.write(into / "recipe.toml", public_recipe(recipe).to_toml())
    names = [*_NEEDED, *record["files"], "history.csv", *(REPORT if with_report else ())]
    found = {name: into / name if (into / name).exists() else folder / name for name in names}
    found = {name: path for name, path in found.items() if path.is_file()}
    entries = {
        name: asdict(Entry(path.stat().st_size, files.sha256(path)))
        for name, path in sorted(found.items())
    }
    manifest = {"format": _FORMAT, "efftune": version("efftune"), "files": entries}
    files.write(into / MANIFEST, _json(manifest))
    return found | {MANIFEST: into / MANIFEST}


def public_record(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`run.json` without what tells of the machine: command, source's place, system, paths.

    Args:
        record: `run.json`.
        folder: of the run, for what a record of earlier versions lacks.
    """
    data = dict(record["data"])
    if "classes" not in data:
        classes = read_json(folder / saving.CLASSES_FILE)
        data["classes"] = model_card.class_counts(folder, classes)
    machine = {key: value for key, value in record["machine"].items() if key != "system"}
    source = str(record["source"])
    public = {
        **{**record, "data": data, "machine": machine},
        **{"command": "", "asked": "", "source": model_card.dataset_name(source)},
    }
    return {
        key: value if key in ("files", "source", "versions") else _without_paths(value, source)
        for key, value in public.items()
    }


def public_recipe(recipe: Recipe) -> Recipe:
    """A recipe without paths: of those settings that have one, the file's name or the default."""
    default, data = Recipe().data, recipe.data
    changed: dict[str, Any] = {
        key: getattr(default, key) for key in ("val", "test") if _is_path(getattr(data, key))
    }
    changed |= {"root": default.root, "labels": default.labels}
    if _is_path(recipe.backbone.weights):
        changed["weights"] = Path(str(recipe.backbone.weights)).name
    return recipe.changed(**changed)


def entries(text: str) -> dict[str, Entry]:
    """The files that a manifest lists. Nothing in it is trusted.

    Raises:
        DataError: it is no manifest, names what no run has, or is of a later version.
    """
    try:
        values = json.loads(text)
        if values["format"] != _FORMAT:
            command = packages.install("-U", "efftune")
            raise DataError(f"{MANIFEST} is of a later efftune. Run: {command}")
        found = {name: Entry(**each) for name, each in values["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{MANIFEST} is no manifest of efftune: {error!r}.") from None
    for name, each in found.items():
        if name not in KNOWN:
            raise DataError(f"{MANIFEST} lists {name!r}, a file that no run has. It is refused.")
        if type(each.bytes) is not int or each.bytes < 0:
            raise DataError(f"{MANIFEST} has no size for {name}.")
        if not isinstance(each.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", each.sha256):
            raise DataError(f"{MANIFEST} has no SHA-256 for {name}.")
    if missing := [name for name in _NEEDED if name not in found]:
        raise DataError(f"{MANIFEST} does not list {missing[0]}, which every run has.")
    if sum(each.bytes for each in found.values()) > MOST_BYTES:
        raise DataError(f"{MANIFEST} lists more than {MOST_BYTES:,} bytes. They are refused.")
    return found


def _is_path(value: object) -> bool:
    """Whether a setting names a file or a folder, rather than something by its name."""
    if not isinstance(value, str) or not value:
        return False
    return bool(re.search(r"[/\\~]", value)) or files.user_path(value).exists()


def _without_paths(value: Any, source: str) -> Any:
    """JSON values with absolute paths in their texts cut to the last part."""
    if isinstance(value, str):
        is_path = re.search(r"[/\\]", source)
        kept = value.replace(source, model_card.dataset_name(source)) if is_path else value
        return _PATH.sub(lambda path: re.split(r"[/\\]", path[0])[-1], kept)
    if isinstance(value, dict):
        return {key: _without_paths(each, source) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each, source) for each in value]
    return value


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
