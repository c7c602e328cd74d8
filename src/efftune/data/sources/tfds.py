"""Data sets from TensorFlow Datasets, unpacked into split and class folders.

The encoded pictures are written to the cache folder once. After that the data set is read like any
other folder.
"""

import io
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from efftune.data.sources import records
from efftune.errors import DataError, UsageError
from efftune.system import files, packages, pruning
from efftune.system.progress import Progress, silent

PREFIX = "tfds:"
_TIMEOUT_SECONDS = 20.0


def unpacked(source: str, splits: Mapping[str, str], on_progress: Progress = silent) -> Path:
    """Unpack a data set and return its folder, with files such as `train/CLASS/000017.jpg`.

    Args:
        source: `tfds:NAME[/CONFIG][:VERSION]`. TensorFlow Datasets stores its own files
            as usual, in `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        splits: maps split names of the data set to ours; other splits are ignored.
        on_progress: called with `unpack`, the number of records processed and the total.

    Raises:
        UsageError: TensorFlow Datasets is not installed or has no such data set.
        DataError: the data set cannot be downloaded, or is not one of pictures with one class each.
    """
    builder = _prepare(source)
    info = builder.info
    used_splits = {name: splits[name] for name in info.splits if name in splits}
    if "train" not in used_splits.values():
        raise DataError(f"{source} has no train split. Its splits: {', '.join(info.splits)}.")
    folder: Path = files.cache_folder() / "tfds" / info.full_name.replace("/", "-")
    if folder.is_dir():  # written atomically, so it is complete if it exists
        pruning.note_use(folder)
    else:
        pruning.prune_sources(folder.parent)
        with files.folder_written_whole(folder) as partial:
            _write(builder, source, used_splits, partial, on_progress)
    return folder


def _prepare(source: str) -> Any:
    """The builder of the data set, downloaded and prepared if necessary."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UsageError(
            f"{source} needs TensorFlow Datasets. Run: {packages.install('efftune[tfds]')}"
        ) from None
    name = source.removeprefix(PREFIX)
    try:
        builder = tfds.builder(name)
    except Exception as error:  # noqa: BLE001  (its exceptions have no common base class)
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"TensorFlow Datasets has no data set {name!r}: {reason}") from None
    try:
        if not builder.is_prepared():
            _require_network(builder)
            builder.download_and_prepare()
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"{source} cannot be downloaded ({reason}). With a network connection, run "
            f"`tfds build {name}`; without one, use a folder of your own, or sample:digits."
        ) from None
    return builder


def _require_network(builder: Any) -> None:
    """Fail immediately instead of after minutes of download retries.

    Raises:
        OSError: the server of the first file cannot be reached.
    """
    for url in [*builder.url_infos][:1]:
        try:
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310
        except urllib.error.HTTPError:
            pass  # the server responded
        except urllib.error.URLError as error:
            host = urlsplit(url).hostname
            raise OSError(f"{host} cannot be reached: {error.reason}") from None


def _write(
    builder: Any, source: str, splits: Mapping[str, str], folder: Path, on_progress: Progress
) -> None:
    import tensorflow_datasets as tfds

    image, label = _keys(builder, source)
    names = records.class_folders(builder.info.features[label].names)
    total = sum(builder.info.splits[name].num_examples for name in splits)
    done = 0
    for name, split in splits.items():
        data = builder.as_dataset(
            split=name,
            decoders=tfds.decode.PartialDecoding(
                {image: True, label: True}, decoders={image: tfds.decode.SkipDecoding()}
            ),
            shuffle_files=False,
        )
        for record in tfds.as_numpy(data):
            number = int(record[label])
            if number >= 0:  # in some data sets, some pictures have no class
                records.write(folder / split / names[number], done, _encode(record[image]))
            done += 1
            on_progress("unpack", done, total)


def _keys(builder: Any, source: str) -> tuple[str, str]:
    """The names of the picture and label features of a record."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image, label = builder.info.supervised_keys or ("image", "label")
    kinds = ((image, tfds.features.Image), (label, tfds.features.ClassLabel))
    if all(key in features and isinstance(features[key], kind) for key, kind in kinds):
        return image, label
    raise DataError(
        f"The records of {source} are not pictures with one class each. Their features: "
        f"{', '.join(features)}. Use a data set for image classification."
    )


def _encode(picture: Any) -> bytes:
    """The encoded picture of a record; decoded pixels are encoded as PNG."""
    if isinstance(picture, bytes):
        return picture
    pixels = np.asarray(picture)
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
