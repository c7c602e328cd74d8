"""Photos sorted into a folder for each class, while the photos themselves stay as they are.

What is placed is a hard link, or where there can be none, a copy. It is written down before it is
placed, so that all of it can be taken away again.
"""

import filecmp
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape

from efftune.delivery.sorted_files import (
    UNDO,
    PhotoState,
    Placed,
    held,
    note,
    record_of,
    recorded,
)
from efftune.errors import DataError, UsageError
from efftune.model.classifier import Classifier
from efftune.model.prediction import Prediction
from efftune.system import files

UNSURE = "unsure"
_NO_LETTERS = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_AT_ONCE = 2048  # photos that are predicted before they are placed
_MOST_BYTES = 120  # of a folder's name
_MOST_OF_FILE = 255  # bytes of a file's name, on most disks
_MOST_OF_SUFFIX = 16  # what is longer is part of the name
_SIDECAR_SUFFIX = ".xmp"
_SIDECAR = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:subject><rdf:Bag><rdf:li>{}</rdf:li></rdf:Bag></dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


@dataclass(frozen=True)
class Sorted:
    """What became of a photo.

    Attributes:
        prediction: for it.
        path: where it is among the sorted ones; None if it was there already.
    """

    prediction: Prediction
    path: Path | None


def sort(
    classifier: Classifier,
    photos: Sequence[Path],
    sorter: "Sorter",
    on_unreadable: Callable[[Path, str], None],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Sorted]:
    """Sort photos into a folder for each class.

    Args:
        classifier: that decides.
        photos: their paths; those in the folder of the sorted ones are left out.
        sorter: places them.
        on_unreadable: called with the path and the reason for each that cannot be decoded.
        on_progress: called with the number of photos done and their total.

    Raises:
        DataError: the record of the folder is damaged.
        DiskFull: there is no room for a copy.
        UsageError: the folder cannot be written to, or another process sorts into it.
    """
    place = sorter.into.resolve()
    photos = [photo for photo in photos if not photo.resolve().is_relative_to(place)]
    found, total = list[Sorted](), len(photos)
    with held(sorter.into):
        sorter.read_record()
        for start in range(0, total, _AT_ONCE):
            predictions = classifier.predict(
                photos[start : start + _AT_ONCE],
                on_unreadable=on_unreadable,
                on_progress=partial(_told, on_progress, start, total),
            )
            found += sorter.place(predictions) if predictions else []
    return found


def _told(
    on_progress: Callable[[int, int], None], start: int, total: int, done: int, _: int
) -> None:
    on_progress(start + done, total)


class Sorter:
    """Sorts photos into a folder; those that are there already, by its record, are left out.

    A photo is known by its path, size and time: cameras give the same names again.
    """

    def __init__(
        self,
        into: Path,
        class_names: Sequence[str],
        *,
        copy: bool = False,
        xmp: bool = False,
    ):
        """Begin, or go on.

        Args:
            into: the folder; created if it is missing.
            class_names: of the classifier.
            copy: place copies, no hard links.
            xmp: place the class as a keyword beside each photo, in a file for photo libraries.

        Raises:
            DataError: the record of the folder is damaged.
        """
        self.into = into
        self._copy, self._xmp = copy, xmp
        self._folders = folder_names(class_names)
        self._there = set[PhotoState]()
        self._last = dict[str, Placed]()  # by photo, of those that are there
        self._sidecars = set[str]()
        self._numbers = dict[tuple[str, str, str], int]()  # by folder, stem and suffix
        self.read_record()

    def read_record(self) -> None:
        """Find what is there already, again if another process may have sorted meanwhile.

        Raises:
            DataError: the record of the folder is damaged.
        """
        listed = [each for each in recorded(self.into) if os.path.lexists(self.into / each.path)]
        there = [each for each in listed if each.way != "sidecar"]
        self._there = {each.state for each in there}
        self._last = {each.photo: each for each in there}
        self._sidecars = {each.path for each in listed if each.way == "sidecar"}

    def place(self, predictions: Iterable[Prediction]) -> list[Sorted]:
        """Place photos by their class; those that are unsure or unlike go to `unsure`.

        Args:
            predictions: of photos that were given as paths.

        Returns:
            What became of each.

        Raises:
            DataError: a photo is gone.
            DiskFull: there is no room for a copy.
            UsageError: the folder cannot be written to.
        """
        placed = list[Sorted]()
        try:
            with record_of(self.into) as record:
                for each in predictions:
                    placed.append(Sorted(each, self._placed(each, record)))
        except OSError as error:
            full = files.disk_full(error, self.into)
            reason = f"Cannot write to {self.into}: {error.strerror or error}."
            raise full or UsageError(f"{reason} Choose another folder with --into.") from None
        return placed

    def _placed(self, prediction: Prediction, record: TextIO) -> Path | None:
        """Place a photo, unless it is there."""
        assert prediction.path is not None  # noqa: S101
        photo = prediction.path.resolve()
        try:
            status = photo.stat()
        except OSError as error:
            reason = f"{photo} cannot be read any more: {error.strerror}."
            raise DataError(f"{reason} Sort again; what is placed stays.") from None
        state = (str(photo), status.st_size, status.st_mtime_ns)
        if state in self._there:
            return None
        is_sure = not (prediction.unsure or prediction.unlike)
        folder = self._folders[prediction.label] if is_sure else UNSURE
        last = self._last.get(str(photo))
        if last is not None and self._is_there_still(last, photo, folder):
            way = last.way if photo.samefile(self.into / last.path) else "copy"
            self._note(record, Placed(state[0], last.path, way, *state[1:]))
            return None if last.size == status.st_size else self.into / last.path
        (self.into / folder).mkdir(exist_ok=True)
        placed = Placed(state[0], self._free(folder, photo.name), "link", *state[1:])
        self._put(placed, status, record)
        if self._xmp and is_sure:
            self._describe(photo, placed.path, prediction.label, record)
        return self.into / placed.path

    def _is_there_still(self, last: Placed, photo: Path, folder: str) -> bool:
        """Whether what was placed last under a photo's name is the photo as it is now.

        A link to a photo that was written anew where it lies has changed with it. If it is in
        another folder than it should be now, it is taken away.
        """
        path = self.into / last.path
        try:
            if path.is_symlink() or not path.samefile(photo):
                return filecmp.cmp(photo, path, shallow=False)
            place, links = path.resolve(), path.stat().st_nlink
        except OSError:  # it is gone
            return False
        is_link = place != photo and place.is_relative_to(self.into.resolve()) and links > 1
        if last.path.startswith(f"{folder}/") or not is_link:
            return True
        path.unlink()
        if (sidecar := f"{last.path}{_SIDECAR_SUFFIX}") in self._sidecars:
            (self.into / sidecar).unlink(missing_ok=True)
        return False

    def _put(self, placed: Placed, status: os.stat_result, record: TextIO) -> None:
        """Place a link to a photo, or where there can be none, a copy."""
        photo, path = Path(placed.photo), self.into / placed.path
        if self._copy:
            placed = replace(placed, way="copy")
        self._note(record, placed)
        if placed.way == "link" and not _linked(photo, path):
            placed = replace(placed, way="copy")
            self._note(record, placed)
        if placed.way == "copy":
            with files.written_whole(path, flush=False) as partial:
                shutil.copy2(photo, partial)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _note(self, record: TextIO, placed: Placed) -> None:
        """Write down what is going to be placed, and know it from now on."""
        note(record, placed)
        self._there.add(placed.state)
        self._last[placed.photo] = placed

    def _describe(self, photo: Path, path: str, label: str, record: TextIO) -> None:
        """Place the class of a photo as a keyword beside it."""
        place, keyword = f"{path}{_SIDECAR_SUFFIX}", escape(_NO_LETTERS_OF_XML.sub("_", label))
        content = _SIDECAR.format(keyword).encode(errors="replace")
        note(record, Placed(str(photo), place, "sidecar", len(content)))
        files.write(self.into / place, content, flush=False)
        self._sidecars.add(place)

    def _free(self, folder: str, name: str) -> str:
        """A path of no file yet, with the photo's name or nearly; there is room for a sidecar's."""
        stem, suffix = os.path.splitext(name)  # noqa: PTH122  (of any name)
        if len(os.fsencode(suffix)) > _MOST_OF_SUFFIX:
            stem, suffix = name, ""
        most = _MOST_OF_FILE - len(_SIDECAR_SUFFIX) * self._xmp
        key = (folder, stem, suffix)
        number = self._numbers.get(key, 1)  # those before it are taken
        while True:
            end = suffix if number == 1 else f"-{number}{suffix}"
            path = f"{folder}/{_shortened(stem, most - len(os.fsencode(end)))}{end}"
            taken = (self.into / path, self.into / f"{path}{_SIDECAR_SUFFIX}")
            if not any(map(os.path.lexists, taken)):
                self._numbers[key] = number
                return path
            number += 1


# What XML 1.0 cannot hold.
_NO_LETTERS_OF_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def folder_names(class_names: Sequence[str]) -> dict[str, str]:
    """A folder's name for each class, which every system takes; no two are alike but for case."""
    taken, found = {UNSURE, UNDO}, dict[str, str]()
    for label in class_names:
        plain = label.encode(errors="backslashreplace").decode()  # as a run's tables have it
        plain = _NO_LETTERS.sub("_", unicodedata.normalize("NFC", plain)).strip(" .")
        plain = plain.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" .")
        if not plain or _RESERVED.fullmatch(plain):
            plain = f"_{plain}"
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        found[label] = name
    return found


def _shortened(stem: str, most: int) -> str:
    """A name of at most so many bytes, by whole letters; it may have any bytes."""
    while len(os.fsencode(stem)) > most:
        stem = stem[:-1]
    return stem


def _linked(photo: Path, path: Path) -> bool:
    """Whether there could be a hard link."""
    try:
        os.link(photo, path)
    except OSError as error:
        if files.disk_full(error, path):
            raise
        return False  # another disk, or one that knows no links
    return True
