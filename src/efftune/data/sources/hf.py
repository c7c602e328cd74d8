"""Data sets of Hugging Face, as folders of split and class folders.

A set is written out once, record by record, as the encoded pictures that its records hold. From
then on it is a source like any other folder.
"""

import hashlib
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from efftune.data.sources import records
from efftune.data.sources.tables import Columns
from efftune.errors import DataError, EfftuneError, UsageError
from efftune.system import files
from efftune.system.progress import Progress, silent

PREFIX = "hf:"
_TIMEOUT_SECONDS = 5.0
_WORDS = re.compile(r"(large_)?string|u?int\d+|bool")  # types of values that can name a class

_Parts = Sequence[tuple[str, Any]]  # splits and their data sets


def unpacked(
    source: str, splits: Mapping[str, str], columns: Columns, on_progress: Progress = silent
) -> Path:
    """The folder of a data set, with files such as `train/CLASS/000017.jpg`.

    Args:
        source: `hf:NAME[:CONFIG]`, or `hf:FOLDER` of a set saved by `save_to_disk` or readable by
            `load_dataset`. The package datasets keeps its own files where it always does.
        splits: what splits are called here, by what they may be called there; others are left out.
            A set with one split of any name is all for training.
        columns: path and label choose among several columns of pictures or classes.
        on_progress: called with `unpack`, the pictures written and their total.

    Raises:
        UsageError: the package datasets is not installed, or there is no such set.
        DataError: the set cannot be loaded, or does not consist of pictures with a class each.
    """
    parts = _wanted(source, _loaded(source, on_progress), splits)
    image, label = _chosen_columns(source, parts, columns)
    facts = [image, label, *(f"{split} {each._fingerprint}" for split, each in parts)]
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    folder = files.cache_folder() / "hf" / f"{_short(source)}-{key}"
    if not folder.is_dir():  # it appears when it is whole
        with files.folder_written_whole(folder) as partial:
            _write(source, parts, (image, label), partial, on_progress)
    return folder


def _short(source: str) -> str:
    """A set's name, fit for a folder."""
    name = source.removeprefix(PREFIX)
    folder = files.user_path(name)
    told = folder.resolve().name if folder.is_dir() else name
    return re.sub(r"[^\w.-]+", "-", told).strip("-.")[:80] or "set"


def _loaded(source: str, on_progress: Progress) -> Mapping[str, Any]:
    """The data sets of all splits, by their names."""
    try:
        import datasets
    except ImportError:
        raise UsageError(
            f'{source} needs the package datasets. Run: pip install "efftune[hf]".'
        ) from None
    name = source.removeprefix(PREFIX)
    folder = files.user_path(name)
    try:
        with _without_bars():
            if name and folder.is_dir():
                found = _from_folder(folder)
            elif not name or name[0] in ".~" or folder.is_absolute():
                raise UsageError(f"There is no folder {name!r}. Name one, or a set: hf:NAME.")
            else:
                on_progress("download", 0, 0)
                found = _from_hub(name)
    except EfftuneError:
        raise
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(f"Hugging Face has no set {name!r}: {_first_line(error)}") from None
    except Exception as error:  # noqa: BLE001  (its errors have no common kind)
        raise DataError(
            f"{source} cannot be loaded: {_first_line(error)} A set is named hf:NAME or, if it has "
            "several configs, hf:NAME:CONFIG."
        ) from None
    return found if isinstance(found, dict) else {"train": found}


def _from_folder(folder: Path) -> Any:
    import datasets

    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return datasets.load_from_disk(str(folder))
    return datasets.load_dataset(str(folder))


def _from_hub(name: str) -> Any:
    """Load a set by name; without a network from what is kept of it, without trying for minutes."""
    import datasets

    name, _, config = name.partition(":")
    settings: Any = datasets.config
    offline = settings.HF_HUB_OFFLINE
    trouble = "its offline mode is on" if offline else _trouble(settings.HF_ENDPOINT)
    settings.HF_HUB_OFFLINE = bool(trouble)
    try:
        return datasets.load_dataset(name, config or None)
    except ConnectionError as error:
        raise DataError(
            f"{PREFIX}{name} cannot be downloaded ({trouble or _first_line(error)}). With a "
            "network it can; without one, name a folder of your own, or sample:digits."
        ) from None
    finally:
        settings.HF_HUB_OFFLINE = offline


def _trouble(url: str) -> str:
    """Why a server cannot be reached; empty if it can."""
    try:
        urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        pass  # somebody answered
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # others may trust other certificates
            return f"{urlsplit(url).hostname} cannot be reached: {reason}"
    return ""


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep datasets from drawing its own progress bars."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


def _wanted(source: str, sets: Mapping[str, Any], splits: Mapping[str, str]) -> _Parts:
    known = {name: splits.get(name.casefold(), "") for name in sets}
    if len(sets) == 1:
        known = dict.fromkeys(sets, "train")
    if "train" not in known.values():
        raise DataError(f"{source} has no train split. Its splits: {', '.join(sets)}.")
    return [(known[name], each) for name, each in sets.items() if known[name]]


def _chosen_columns(source: str, parts: _Parts, columns: Columns) -> tuple[str, str]:
    """What the picture and its class are called in a record."""
    import datasets

    features = parts[0][1].features
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    kind = features.get(columns.label)
    if isinstance(kind, datasets.Value) and _WORDS.fullmatch(kind.dtype):
        classes = [columns.label, *classes]
    image = _chosen("path", pictures, features, columns, source)
    label = _chosen("label", classes, features, columns, source)
    for split, each in parts:
        if not {image, label} <= set(each.features):
            raise DataError(
                f"{source} has no columns {image!r} and {label!r} in its {split} split."
            )
    return image, label


def _chosen(
    role: str, fit: Sequence[str], features: Mapping[str, Any], columns: Columns, source: str
) -> str:
    """The column so called, or else the only one that can be it."""
    named, usual = getattr(columns, role), getattr(Columns(), role)
    if named in fit:
        return str(named)
    if named == usual and len(fit) == 1:
        return fit[0]
    what = "pictures" if role == "path" else "classes"
    if named != usual:
        found = f"no column {named!r} of {what}"
    else:
        found = f"several columns of {what}: {', '.join(fit)}" if fit else f"no column of {what}"
    told = ", ".join(f"{name} ({_told(kind)})" for name, kind in features.items())
    raise DataError(
        f"{source} has {found}. All its columns: {told}. Say which one it is with --{role}-column."
    )


def _told(feature: Any) -> str:
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def _write(
    source: str, parts: _Parts, columns: tuple[str, str], folder: Path, on_progress: Progress
) -> None:
    import datasets

    image, label = columns
    names = sorted({name for _, each in parts for name in _classes(each, label)})
    folders = dict(zip(names, records.class_folders(names), strict=True))
    total = sum(len(each) for _, each in parts)
    done = 0
    for split, each in parts:
        class_of = _namer(each, label)
        plain = each.with_format(None).select_columns([image, label])
        for record in plain.cast_column(image, datasets.Image(decode=False)):
            name = class_of(record[label])
            if name:  # some sets have pictures without a class among the others
                content = _content(record[image], f"Record {done} of {source}")
                records.write(folder / split / folders[name], done, content)
            done += 1
            on_progress("unpack", done, total)
    if not (folder / "train").is_dir():
        raise DataError(f"No record in the train split of {source} has a class in {label!r}.")


def _classes(dataset: Any, label: str) -> set[str]:
    """The names of all classes that a data set has pictures of, and perhaps of others."""
    names = getattr(dataset.features[label], "names", None)
    if names is None:
        names = map(_namer(dataset, label), dataset.unique(label))
    return {name for name in names if name}


def _namer(dataset: Any, label: str) -> Callable[[Any], str]:
    """From what a record holds to the name of its class; empty if it has none."""
    names = getattr(dataset.features[label], "names", None)
    if names is None:
        return lambda value: "" if value is None else str(value).strip()
    return lambda value: "" if value is None or value < 0 else str(names[value])


def _content(picture: dict[str, Any] | None, record: str) -> bytes:
    """The bytes of a picture; none where a record has none, which makes it an empty file."""
    if picture is None or (picture["bytes"] is None and picture["path"] is None):
        return b""
    if picture["bytes"] is not None:
        return bytes(picture["bytes"])
    try:
        return Path(picture["path"]).read_bytes()
    except OSError as error:
        raise DataError(
            f"{record} names a file that cannot be read: {picture['path']} ({error.strerror}). Put "
            "it back, or save the set with its pictures inside."
        ) from None


def _first_line(error: Exception) -> str:
    line = str(error).strip().split("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."
