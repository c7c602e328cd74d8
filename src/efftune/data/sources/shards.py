"""Shards in the layout of WebDataset: tar files of samples, whose pictures are read where they lie.

A sample is what has the same name up to its first dot: `0017.jpg` and its class, in `0017.json` (as
`label`), `0017.txt` or `0017.cls`. `efftune pack` writes such shards, and a manifest beside them.
"""

import itertools
import json
import re
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from efftune.data import formats, picture_bytes
from efftune.data.examples import HIDDEN, Example, Split, Undecided
from efftune.data.sources import archives
from efftune.data.sources.folders import SPLIT_FOLDERS, Layout
from efftune.errors import BadImage, DataError, UsageError
from efftune.system.progress import Progress, silent

SUFFIX = ".tar"
MANIFEST = "manifest.json"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABELS = ("json", "txt", "cls")  # the first that a sample has counts
_SURE = ("json", "cls")  # text beside pictures is often something else
_MOST_SHARDS = 100_000
_MOST_BYTES = 2**20  # of a label
_LOOKED_AT = 200  # members of a tar file, which may be an archive of folders


def expanded(pattern: str) -> list[str]:
    """The names that a pattern such as `photos-{000..099}.tar` stands for; itself if it is none.

    Raises:
        UsageError: it stands for too many.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = map(int, match.groups())
    width = len(match[1]) if match[1].startswith("0") else 0
    before, after = pattern[: match.start()], expanded(pattern[match.end() :])
    if (last - first + 1) * len(after) > _MOST_SHARDS or last < first:
        raise UsageError(f"{pattern} stands for no shards, or for more than {_MOST_SHARDS:,}.")
    return [f"{before}{n:0{width}}{rest}" for n in range(first, last + 1) for rest in after]


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern of shards."""
    return bool(_BRACES.search(source)) and source.casefold().endswith(SUFFIX)


def in_folder(folder: Path) -> list[Path]:
    """The shards in a folder; none if it holds folders, or tar files of something else."""
    entries = [each for each in sorted(folder.iterdir()) if not each.name.startswith(".")]
    found = [each for each in entries if each.suffix.casefold() == SUFFIX and each.is_file()]
    are_shards = not any(each.is_dir() for each in entries)
    return found if are_shards and any(is_shard(each, _LABELS) for each in found) else []


def is_shard(path: Path, labels: Sequence[str] = _SURE) -> bool:
    """Whether a tar file begins with samples rather than with folders of pictures.

    Args:
        path: of the file.
        labels: suffixes of what is taken for labels.
    """
    if path.suffix.casefold() != SUFFIX:
        return False
    pictures, labelled = set[str](), set[str]()
    with suppress(DataError), archives.readable_errors(path):  # who reads it says what is wrong
        for file, member in itertools.islice(archives.tar_members(path, silent), _LOOKED_AT):
            key, kind = _key_and_kind(member.name)
            if kind in labels and _label({kind: _text(file, member)}):
                labelled.add(key)
            elif PurePosixPath(member.name).suffix.casefold() in formats.SUFFIXES:
                pictures.add(key)
    return bool(pictures & labelled)


def read(paths: Sequence[Path], on_progress: Progress = silent) -> Layout:
    """Examples for all members of shards but labels, in order.

    Args:
        paths: of the shards, uncompressed tar files. Where there is one called like `train`, those
            called like a split are that split; what a sample says of its split comes before that.
        on_progress: called with `index`, the number of shards read and their total.

    Returns:
        One example for each member, named as the sample says, or by its shard.

    Raises:
        DataError: a shard is missing, damaged or compressed.
    """
    splits = {path: _split(path.name) for path in paths}
    if "train" not in splits.values():
        splits = dict.fromkeys(paths, "")
    classes, rows = _classes(paths), list[Example]()
    for done, path in enumerate(paths):
        on_progress("index", done, len(paths))
        with archives.readable_errors(path):
            _require_plain(path)
            for _, members in itertools.groupby(_members(path), lambda each: each.key):
                rows += _examples(list(members), path, splits[path], classes)
    on_progress("index", len(paths), len(paths))
    return Layout(tuple(rows), f"{len(paths):,} shard{'s' * (len(paths) > 1)} of samples")


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a shard.

    Attributes:
        key: the name of its sample.
        kind: what follows in its name.
        path: where it lies.
        text: its content, if it is a label.
    """

    key: str
    kind: str
    path: Path
    text: str


def _members(shard: Path) -> Iterator[_Member]:
    for file, member in archives.tar_members(shard, silent):
        if member.isdir():
            continue
        key, kind = _key_and_kind(member.name)
        length = member.size if member.isreg() and not member.issparse() else 0  # no links
        name = PurePosixPath(member.name).name or "unnamed"
        path = picture_bytes.path_in(shard, member.offset_data, length, name)
        yield _Member(key, kind, path, _text(file, member) if kind in _LABELS else "")


def _examples(
    sample: Sequence[_Member], shard: Path, split: Split | Undecided, classes: Sequence[str]
) -> Iterator[Example]:
    """Examples for the members of a sample that are no labels."""
    texts = {each.kind: each.text for each in sample if each.kind in _LABELS}
    told, label = _told(texts.get("json", "")), _label(texts)
    if "json" not in texts and "txt" not in texts and label.isdecimal() and classes:
        label = classes[int(label)] if int(label) < len(classes) else ""
    label = unicodedata.normalize("NFC", label.strip())
    split = SPLIT_FOLDERS.get(_text_of(told, "split").casefold(), split)
    others = [each for each in sample if each.kind not in _LABELS]
    for each in others:
        name = f"{shard.name}/{each.key}.{each.kind}"
        if len(others) == 1:
            name = _text_of(told, "name") or name
        group = _text_of(told, "group")
        yield Example(each.path, name, label, split, _reason(each, label), group=group)


def _reason(member: _Member, label: str) -> str:
    """The reason why a member is unusable; empty if it is usable."""
    if PurePosixPath(member.key).name in ("", "."):
        return HIDDEN
    try:
        picture_bytes.sniff(member.path)
    except BadImage as error:
        return error.reason
    return "" if label else "no label"


def _key_and_kind(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return f"{folder}{slash}{key}", kind.casefold()


def _text(file: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """The content of a label."""
    content = file.extractfile(member) if member.isreg() and member.size <= _MOST_BYTES else None
    return "" if content is None else content.read().decode(errors="replace")


def _label(texts: Mapping[str, str]) -> str:
    """The class by the labels of a sample; empty if they tell none."""
    label = _text_of(_told(texts.get("json", "")), "label")
    return label or next((texts[kind].strip() for kind in ("txt", "cls") if texts.get(kind)), "")


def _told(text: str) -> dict[str, Any]:
    """What a JSON text says of a sample; nothing if it is none."""
    try:
        told = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _text_of(told: Mapping[str, Any], key: str) -> str:
    """What a sample says, as text; empty if it says nothing."""
    value = told.get(key)
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() if is_text else ""


def _split(name: str) -> Split | Undecided:
    words = re.split(r"[^a-z]+", name.casefold())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), "")


def _require_plain(shard: Path) -> None:
    with shard.open("rb") as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise DataError(
                f"{shard} is compressed, so that its pictures cannot be read where they lie. "
                "Decompress it: pictures are compressed already."
            )


def _classes(paths: Sequence[Path]) -> list[str]:
    """The classes by number, if a manifest beside the shards names them.

    Raises:
        DataError: the manifest is damaged, or lists a shard that is missing or of another size.
    """
    manifest = paths[0].parent / MANIFEST
    if not manifest.is_file():
        return []
    try:
        told = json.loads(manifest.read_bytes())
        classes = [str(each) for each in told["classes"]]
        sizes = {str(each["name"]): int(each["bytes"]) for each in told["shards"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []  # of another program
    for path in paths:
        size = path.stat().st_size if path.is_file() else None
        if path.name in sizes and size != sizes[path.name]:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise DataError(
                f"{path} {found}, and by {MANIFEST} it has {sizes[path.name]:,}. Copy it again."
            )
    return classes
