"""`efftune pack`: the pictures of a source in shards, large files that are read in order."""

import io
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from efftune.data import formats, picture_bytes
from efftune.data.examples import Example, Examples
from efftune.data.formats import FORMATS
from efftune.data.sources import addresses, discovery, shards
from efftune.data.sources.storage import Missing, Storage
from efftune.data.sources.table_columns import Columns
from efftune.errors import BadImage, DataError, UsageError
from efftune.system import files, packages
from efftune.system.progress import OnProgress, Progress, showing

_Place: TypeAlias = AbstractContextManager[tuple[Path, Callable[[Path], None]]]
_AT_ONCE = 16  # pictures that are read before they are written
_BYTES_BESIDE = 4096  # of a picture in a tar file: its label, and what fills blocks
_GROUP_BYTES = 2**25  # of a group of rows in a Parquet file
_SPLIT_NAMES = {"val": "validation", "": "photos"}


@dataclass(frozen=True)
class Shards:
    """Shards that were written.

    Attributes:
        folder: of the shards and their manifest, or their address.
        shards: name, number of pictures, bytes and SHA-256 of each.
        examples: of the source, including those set aside, which are in no shard.
    """

    folder: Path | str
    shards: tuple[dict[str, Any], ...]
    examples: Examples

    @property
    def pictures(self) -> int:
        """The number of pictures in all shards."""
        return sum(each["pictures"] for each in self.shards)

    @property
    def source(self) -> str:
        """What to give to `train`."""
        is_parquet = self.shards[0]["name"].endswith(_Parquet.suffix)
        return f"hf:{self.folder}" if is_parquet else str(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """The output of `efftune pack --json`."""
        left_out = {row.name: row.reason for row in self.examples.set_aside}
        return {
            **{"source": self.source, "folder": str(self.folder), "pictures": self.pictures},
            **{"shards": list(self.shards), "left_out": left_out},
        }


def pack(
    source: str | Path,
    into: str | Path,
    *,
    form: Literal["tar", "parquet"] = "tar",
    megabytes: int = 256,
    columns: Columns = Columns(),  # noqa: B008  (frozen)
    on_progress: OnProgress = "auto",
) -> Shards:
    """Write the pictures of a source into shards, unchanged and in its order.

    Args:
        source: as for `train`.
        into: a new folder, of shards called by their splits, and `manifest.json`; or an address,
            where each shard is written once it is complete, and the manifest last.
        form: `tar`, in the layout of WebDataset; or `parquet`, in that of Hugging Face.
        megabytes: that a shard has at most, unless a single picture has more.
        columns: the column names of a table.
        on_progress: as for `train`; the phases are those of finding the source, and `pack`.

    Raises:
        UsageError: the source does not exist, the folder does, or pyarrow is not installed; or the
            source has groups, which Parquet shards would lose; or these are to be at an address.
        DataError: the source cannot be read, has no picture, or one changed meanwhile; or the
            address cannot be written.
        DiskFull: there is no room for the shards.
    """
    if megabytes < 1:
        raise UsageError(f"A shard of {megabytes} MB holds nothing: give 1 or more.")
    if form == "parquet" and addresses.is_address(into):
        raise UsageError("Parquet shards are read from a disk only: use --format tar.")
    if form == "parquet" and find_spec("pyarrow") is None:
        raise UsageError(f"Parquet needs pyarrow. Run: {packages.install('efftune[parquet]')}")
    folder, place = _place(into)
    kind: type[_Writer] = _Parquet if form == "parquet" else _Tar
    with showing(on_progress) as report:
        examples = discovery.find(source, report, columns)
        rows = [row for row in examples.rows if row.usable]
        if not rows:
            raise DataError(f"{source} holds no picture that can be read.")
        if form == "parquet" and any(row.group for row in rows):
            raise UsageError("Parquet shards cannot tell groups apart: use --format tar.")
        with place as (partial, deliver):
            written = []
            for shard in _written(partial, rows, kind, megabytes * 10**6, report):
                written.append(shard)
                deliver(partial / shard["name"])
            classes = sorted({row.label for row in rows})
            manifest = {"classes": classes, "pictures": len(rows), "shards": written}
            files.write(partial / shards.MANIFEST, json.dumps(manifest, indent=1) + "\n")
            deliver(partial / shards.MANIFEST)
    return Shards(folder, tuple(written), examples)


@contextmanager
def _new_folder(folder: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A folder that is there once it is complete, and nothing to do with its files.

    Raises:
        UsageError: it cannot be written.
        DiskFull: there is no room.
    """
    try:
        with files.folder_written_whole(folder) as partial:
            yield partial, lambda _: None
            with suppress(FileNotFoundError):
                folder.rmdir()  # an empty one; one that was filled meanwhile stays
    except OSError as error:
        problem = f"{folder} cannot be written: {error.strerror or error}."
        raise files.disk_full(error, folder) or UsageError(problem) from None


@contextmanager
def _at_address(storage: Storage) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A folder of this machine, and what moves a file from there to an address.

    Raises:
        DataError: the address cannot be written.
        DiskFull: there is no room on this machine.
    """

    def move(file: Path) -> None:
        storage.put(file)
        file.unlink()

    cache = files.cache_folder()
    try:
        with tempfile.TemporaryDirectory(prefix="pack-", dir=cache) as partial:
            yield Path(partial), move
    except OSError as error:
        problem = f"{cache} cannot be written: {error.strerror or error}."
        raise files.disk_full(error, cache) or UsageError(problem) from None


def _place(into: str | Path) -> tuple[Path | str, _Place]:
    """Where shards are written; see `_new_folder`, `_at_address`.

    Raises:
        UsageError: something is there.
    """
    if addresses.is_address(into):
        storage = Storage(str(into))

        def refuse(count: int) -> None:  # at the first file: there may be millions
            if count:
                raise UsageError(f"{into} exists, and is not empty. Name a new folder with --into.")

        with suppress(Missing):
            storage.files(refuse)
        return str(into).rstrip("/"), _at_address(storage)
    folder = files.user_path(into)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists, and is not empty. Name a new folder with --into.")
    if folder.is_symlink() or os.path.ismount(folder):
        raise UsageError(f"{folder} is a link or a disk. Name a new folder in it with --into.")
    return folder, _new_folder(folder)


class _Writer(Protocol):
    """Writes a shard."""

    suffix: str

    def __init__(self, path: Path, classes: Sequence[str]): ...

    def add(self, key: str, row: Example, content: bytes) -> None:
        """Write a picture."""

    def close(self) -> None:
        """Write what is left."""


def _written(
    folder: Path,
    rows: Sequence[Example],
    kind: type[_Writer],
    most: int,
    report: Progress,
) -> Iterator[dict[str, Any]]:
    """Write shards: name, number of pictures, bytes and SHA-256 of each."""
    classes = sorted({row.label for row in rows})
    done = 0
    for split in dict.fromkeys(row.split for row in rows):
        contents = _contents([row for row in rows if row.split == split])
        prefix = _SPLIT_NAMES.get(split, split)
        for shard, group in itertools.groupby(_numbered(contents, most), lambda each: each[0]):
            path = folder / f"{prefix}-{shard:06}{kind.suffix}"
            before = done
            with closing(kind(path, classes)) as writer:
                for _, row, content in group:
                    writer.add(f"{done:08}", row, content)
                    done += 1
                    report("pack", done, len(rows))
            size = path.stat().st_size
            yield {
                **{"name": path.name, "pictures": done - before},
                **{"bytes": size, "sha256": files.sha256(path)},
            }


def _numbered(
    contents: Iterable[tuple[Example, bytes]], most: int
) -> Iterator[tuple[int, Example, bytes]]:
    """The number of a shard for each picture, so that none has more than `most` bytes."""
    shard = filled = 0
    for row, content in contents:
        size = len(content) + _BYTES_BESIDE
        if filled and filled + size > most:
            shard, filled = shard + 1, 0
        filled += size
        yield shard, row, content


def _contents(rows: Sequence[Example]) -> Iterator[tuple[Example, bytes]]:
    """Pictures and their bytes, of which a few are read ahead."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="packing") as pool:
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            yield from zip(some, pool.map(_content, some), strict=True)


def _content(row: Example) -> bytes:
    """The bytes of a picture, which is one still."""
    try:
        content = picture_bytes.read(row.path)
        formats.detect(content[: formats.HEAD])
    except BadImage as error:
        raise DataError(f"{row.name} has changed while it was packed: {error}.") from None
    return content


class _Tar:
    """See `_Writer`; see `shards` for the layout."""

    suffix = shards.SUFFIX

    def __init__(self, path: Path, classes: Sequence[str]):
        self._file = tarfile.open(path, "w:")  # noqa: SIM115  (see close)
        self._numbers = {label: number for number, label in enumerate(classes)}
        self.close = self._file.close

    def add(self, key: str, row: Example, content: bytes) -> None:
        told = {"label": row.label, "name": row.name, "split": row.split, "group": row.group}
        told = {key: value for key, value in told.items() if value}
        suffix = FORMATS[formats.detect(content[: formats.HEAD])].suffixes[0]
        members = {
            **{suffix: content, ".cls": str(self._numbers[row.label]).encode()},
            **{".json": json.dumps(told).encode()},
        }
        for each, value in members.items():
            member = tarfile.TarInfo(key + each)
            member.size = len(value)
            self._file.addfile(member, io.BytesIO(value))
            self._file.members.clear()  # type: ignore[attr-defined]  # else all stay in memory


class _Parquet:
    """See `_Writer`; the layout is that of Hugging Face's data sets."""

    suffix = ".parquet"

    def __init__(self, path: Path, classes: Sequence[str]):
        import pyarrow
        from pyarrow import parquet

        features = {
            "image": {"_type": "Image"},
            "label": {"_type": "ClassLabel", "names": list(classes)},
        }
        picture = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        schema = pyarrow.schema({"image": picture, "label": pyarrow.int64()})
        told = json.dumps({"info": {"features": features}})
        self._schema = schema.with_metadata({"huggingface": told})
        self._numbers = {label: number for number, label in enumerate(classes)}
        # Pictures are compressed already.
        self._file = parquet.ParquetWriter(path, self._schema, compression="none")
        self._table_of = pyarrow.Table.from_pylist
        self._rows, self._bytes = list[dict[str, Any]](), 0

    def add(self, key: str, row: Example, content: bytes) -> None:  # noqa: ARG002
        name = row.name.encode(errors="backslashreplace").decode()
        picture = {"bytes": content, "path": name}
        self._rows.append({"image": picture, "label": self._numbers[row.label]})
        self._bytes += len(content)
        if self._bytes > _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        self._file.write_table(self._table_of(self._rows, self._schema))
        self._rows, self._bytes = [], 0
