"""Data sets of TensorFlow Datasets, as folders of split and class folders.

A set is written out once, record by record, as the encoded pictures that its records hold. From
then on it is a source like any other folder.
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
from efftune.system import files
from efftune.system.progress import Progress, silent

PREFIX = "tfds:"
_TIMEOUT_SECONDS = 20.0


def unpacked(source: str, splits: Mapping[str, str], on_progress: Progress = silent) -> Path:
    """The folder of a data set, with files such as `train/CLASS/000017.jpg`.

    Args:
        source: `tfds:NAME[/CONFIG][:VERSION]`. TensorFlow Datasets keeps its own files where it
            always does: in `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
        splits: what splits are called here, by what they may be called there; others are left out.
        on_progress: called with `unpack`, the pictures written and their total.

    Raises:
        UsageError: TensorFlow Datasets is not installed, or knows no such set.
        DataError: the set cannot be downloaded, or does not consist of pictures with a class each.
    """
    builder = _prepared(source)
    info = builder.info
    wanted = {name: splits[name] for name in info.splits if name in splits}
    if "train" not in wanted.values():
        raise DataError(f"{source} has no train split. Its splits: {', '.join(info.splits)}.")
    folder: Path = files.cache_folder() / "tfds" / info.full_name.replace("/", "-")
    if not folder.is_dir():  # it appears when it is whole
        with files.folder_written_whole(folder) as partial:
            _write(builder, source, wanted, partial, on_progress)
    return folder


def _prepared(source: str) -> Any:
    """The data set's builder, with its records on this machine."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UsageError(
            f'{source} needs TensorFlow Datasets. Run: pip install "efftune[tfds]".'
        ) from None
    name = source.removeprefix(PREFIX)
    try:
        builder = tfds.builder(name)
    except Exception as error:  # noqa: BLE001  (its errors have no common kind)
        reason = str(error).strip().split("\n")[0]
        raise UsageError(f"TensorFlow Datasets knows no {name!r}: {reason}") from None
    try:
        if not builder.is_prepared():
            _require_network(builder)
            builder.download_and_prepare()
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"{source} cannot be downloaded ({reason}). With a network, `tfds build {name}` does "
            "that; without one, name a folder of your own, or sample:digits."
        ) from None
    return builder


def _require_network(builder: Any) -> None:
    """Fail at once where a download would try again for minutes.

    Raises:
        OSError: the first file's server cannot be reached.
    """
    for url in [*builder.url_infos][:1]:
        try:
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310
        except urllib.error.HTTPError:
            pass  # somebody answered
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
            if number >= 0:  # some sets have pictures without a class among the others
                records.write(folder / split / names[number], done, _encoded(record[image]))
            done += 1
            on_progress("unpack", done, total)


def _keys(builder: Any, source: str) -> tuple[str, str]:
    """What the picture and its class are called in a record."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image, label = builder.info.supervised_keys or ("image", "label")
    kinds = ((image, tfds.features.Image), (label, tfds.features.ClassLabel))
    if all(key in features and isinstance(features[key], kind) for key, kind in kinds):
        return image, label
    raise DataError(
        f"The records of {source} are not pictures with one class each, but: {', '.join(features)}."
    )


def _encoded(picture: Any) -> bytes:
    """A record's picture as the bytes of a file; pixels become a PNG."""
    if isinstance(picture, bytes):
        return picture
    pixels = np.asarray(picture)
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
