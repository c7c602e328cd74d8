"""Hugging Face data sets, unpacked into split and class folders.

The encoded pictures are written to the cache folder once. After that the data set is read like any
other folder.
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
from efftune.data.sources.table_columns import Columns
from efftune.errors import DataError, EfftuneError, UsageError
from efftune.system import files, packages, pruning
from efftune.system.progress import Progress, silent

PREFIX = "hf:"
_TIMEOUT_SECONDS = 5.0
_CLASS_TYPES = re.compile(r"(large_)?string|u?int\d+|bool")  # data types for class columns

_Parts = Sequence[tuple[str, Any]]  # pairs of split and data set


def unpacked(
    source: str, splits: Mapping[str, str], columns: Columns, on_progress: Progress = silent
) -> Path:
    """Unpack a data set and return its folder, with files such as `train/CLASS/000017.jpg`.

    Args:
        source: `hf:NAME[:CONFIG]`, or `hf:FOLDER` for a data set saved by `save_to_disk` or
            readable by `load_dataset`. The package datasets stores its own files as usual.
        splits: maps split names of the data set to ours; other splits are ignored. If the data set
            has only one split, it is used for training, whatever its name.
        columns: `path` and `label` choose among several picture or class columns.
        on_progress: called with `download`, without counts, before a data set is loaded by name,
            and with `unpack`, the number of records processed and the total.

    Raises:
        UsageError: the package datasets is not installed, or there is no such data set.
        DataError: the data set cannot be loaded, or is not one of pictures with one class each.
    """
    parts = _used_splits(source, _load(source, on_progress), splits)
    image, label = _choose_columns(source, parts, columns)
    key_parts = [image, label, *(f"{split} {each._fingerprint}" for split, each in parts)]
    key = hashlib.sha256("\n".join(key_parts).encode()).hexdigest()[:16]
    folder = files.cache_folder() / "hf" / f"{_folder_name(source)}-{key}"
    if folder.is_dir():  # written atomically, so it is complete if it exists
        pruning.note_use(folder)
    else:
        pruning.prune_sources(folder.parent)
        with files.folder_written_whole(folder) as partial:
            _write(source, parts, (image, label), partial, on_progress)
    return folder


def _folder_name(source: str) -> str:
    """The name of a data set, usable as a folder name."""
    name = source.removeprefix(PREFIX)
    folder = files.user_path(name)
    short = folder.resolve().name if folder.is_dir() else name
    return re.sub(r"[^\w.-]+", "-", short).strip("-.")[:80] or "set"


def _load(source: str, on_progress: Progress) -> Mapping[str, Any]:
    """Load the data sets of all splits, by split name."""
    try:
        import datasets
    except ImportError:
        raise UsageError(
            f"{source} needs the package datasets. Run: {packages.install('efftune[hf]')}"
        ) from None
    name = source.removeprefix(PREFIX)
    folder = files.user_path(name)
    try:
        with _no_progress_bars():
            if name and folder.is_dir():
                data = _from_folder(folder)
            elif not name or name[0] in ".~" or folder.is_absolute():
                raise UsageError(
                    f"There is no folder {name!r}. Give a folder, or a data set as hf:NAME."
                )
            else:
                on_progress("download", 0, 0)
                data = _from_hub(name)
    except EfftuneError:
        raise
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(f"Hugging Face has no data set {name!r}: {_first_line(error)}") from None
    except Exception as error:  # noqa: BLE001  (its exceptions have no common base class)
        raise DataError(
            f"{source} cannot be loaded: {_first_line(error)} Use hf:NAME or, for a data set with "
            "several configurations, hf:NAME:CONFIG."
        ) from None
    return data if isinstance(data, dict) else {"train": data}


def _from_folder(folder: Path) -> Any:
    import datasets

    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return datasets.load_from_disk(str(folder))
    return datasets.load_dataset(str(folder))


def _from_hub(name: str) -> Any:
    """Load a data set by name; offline from the cache, without minutes of retries."""
    import datasets

    name, _, config = name.partition(":")
    settings: Any = datasets.config
    offline = settings.HF_HUB_OFFLINE
    problem = "its offline mode is on" if offline else _connection_problem(settings.HF_ENDPOINT)
    settings.HF_HUB_OFFLINE = bool(problem)
    try:
        return datasets.load_dataset(name, config or None)
    except ConnectionError as error:
        raise DataError(
            f"{PREFIX}{name} cannot be downloaded ({problem or _first_line(error)}). Connect "
            "to the network, or use a folder of your own, or sample:digits."
        ) from None
    finally:
        settings.HF_HUB_OFFLINE = offline


def _connection_problem(url: str) -> str:
    """The reason why a server cannot be reached; empty if it can."""
    try:
        urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        pass  # the server responded
    except OSError as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # the library may trust other certificates
            return f"{urlsplit(url).hostname} cannot be reached: {reason}"
    return ""


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Disable the progress bars of the package datasets."""
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


def _used_splits(source: str, sets: Mapping[str, Any], splits: Mapping[str, str]) -> _Parts:
    used = {name: splits.get(name.casefold(), "") for name in sets}
    if len(sets) == 1:
        used = dict.fromkeys(sets, "train")
    if "train" not in used.values():
        raise DataError(f"{source} has no train split. Its splits: {', '.join(sets)}.")
    return [(used[name], each) for name, each in sets.items() if used[name]]


def _choose_columns(source: str, parts: _Parts, columns: Columns) -> tuple[str, str]:
    """The names of the picture and class columns."""
    import datasets

    features = parts[0][1].features
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    kind = features.get(columns.label)
    if isinstance(kind, datasets.Value) and _CLASS_TYPES.fullmatch(kind.dtype):
        classes = [columns.label, *classes]
    image = _choose_column("path", pictures, features, columns, source)
    label = _choose_column("label", classes, features, columns, source)
    for split, each in parts:
        if not {image, label} <= set(each.features):
            raise DataError(
                f"{source} has no columns {image!r} and {label!r} in its {split} split."
            )
    return image, label


def _choose_column(
    role: str, candidates: Sequence[str], features: Mapping[str, Any], columns: Columns, source: str
) -> str:
    """The column with the configured name, or else the only suitable one."""
    name, default = getattr(columns, role), getattr(Columns(), role)
    if name in candidates:
        return str(name)
    if name == default and len(candidates) == 1:
        return candidates[0]
    what = "pictures" if role == "path" else "classes"
    if name != default:
        problem = f"no column {name!r} of {what}"
    else:
        several = f"several columns of {what}: {', '.join(candidates)}"
        problem = several if candidates else f"no column of {what}"
    listing = ", ".join(f"{key} ({_type_name(kind)})" for key, kind in features.items())
    raise DataError(
        f"{source} has {problem}. All its columns: {listing}. Choose one with --{role}-column."
    )


def _type_name(feature: Any) -> str:
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
        class_of = _class_name_of(each, label)
        plain = each.with_format(None).select_columns([image, label])
        for record in plain.cast_column(image, datasets.Image(decode=False)):
            name = class_of(record[label])
            if name:  # in some data sets, some pictures have no class
                content = _content(record[image], f"Record {done} of {source}")
                records.write(folder / split / folders[name], done, content)
            done += 1
            on_progress("unpack", done, total)
    if not (folder / "train").is_dir():
        raise DataError(
            f"No record in the train split of {source} has a class in the column {label!r}. "
            "Choose another with --label-column."
        )


def _classes(dataset: Any, label: str) -> set[str]:
    """All class names of a data set, possibly including classes without pictures."""
    names = getattr(dataset.features[label], "names", None)
    if names is None:
        names = map(_class_name_of(dataset, label), dataset.unique(label))
    return {name for name in names if name}


def _class_name_of(dataset: Any, label: str) -> Callable[[Any], str]:
    """A function from the label of a record to its class name; empty for no class."""
    names = getattr(dataset.features[label], "names", None)
    if names is None:
        return lambda value: "" if value is None else str(value).strip()
    return lambda value: "" if value is None or value < 0 else str(names[value])


def _content(picture: dict[str, Any] | None, record: str) -> bytes:
    """The bytes of a picture; empty if the record has no picture."""
    if picture is None or (picture["bytes"] is None and picture["path"] is None):
        return b""
    if picture["bytes"] is not None:
        return bytes(picture["bytes"])
    try:
        return Path(picture["path"]).read_bytes()
    except OSError as error:
        raise DataError(
            f"{record} refers to a file that cannot be read: {picture['path']} ({error.strerror}). "
            "Restore it, or save the data set with embedded pictures."
        ) from None


def _first_line(error: Exception) -> str:
    line = str(error).strip().split("\n")[0] or type(error).__name__
    return line if line.endswith(".") else f"{line}."
