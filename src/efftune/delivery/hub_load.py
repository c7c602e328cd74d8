"""A run taken from the Hugging Face Hub, each file proved before it is kept.

Nothing that comes from there is executed. A file is taken only if the manifest lists it, a run has
such a file, and its size, its SHA-256 and the Hub's own checksum are right.
"""

import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efftune.delivery import hub, hub_files
from efftune.delivery.hub_files import MANIFEST, Entry
from efftune.errors import DataError, DiskFull
from efftune.system import files

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling


def download(repo: str, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Take a run from the Hub.

    Args:
        repo: `USER/NAME`.
        folder: an empty one, for its files.
        on_progress: called with the number of bytes received and their total.

    Raises:
        UsageError: there is no such repository, or access to it is refused.
        DataError: it holds no run, a file is not what it should be, or the Hub cannot be reached.
        DiskFull: there is no room for it.
    """
    with hub.client(repo, folder.parent) as api:
        info = api.model_info(repo, files_metadata=True)
        there = {each.rfilename: each for each in info.siblings or ()}
        if MANIFEST not in there or not info.sha:
            raise DataError(f"{repo} holds no run of efftune: it has no {MANIFEST}.")
        place = _Place(api, repo, info.sha, folder, there)
        text = place.taken(MANIFEST, _size(there[MANIFEST]), lambda _: None)
        found = hub_files.entries(text.read_text(encoding="utf-8", errors="replace"))
        text.unlink()
        _require_there(repo, found, there)
        total, done = sum(each.bytes for each in found.values()), 0
        _require_room(folder, total)
        for name, entry in found.items():
            told = partial(_told, on_progress, done, total)
            path = place.taken(name, entry.bytes, told)
            _require_same(path, name, entry, there[name])
            _require_modest(path, name)
            done += entry.bytes
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes about its downloads


def _told(on_progress: Callable[[int, int], None], before: int, total: int, now: int) -> None:
    on_progress(before + now, total)


class _Place:
    """A commit of a repository, and the folder for its files."""

    def __init__(
        self, api: "HfApi", repo: str, commit: str, folder: Path, there: Mapping[str, "RepoSibling"]
    ):
        self._api, self._repo, self._commit, self._folder = api, repo, commit, folder
        self._there = there

    def taken(self, name: str, most: int, on_bytes: Callable[[int], None]) -> Path:
        """The path of a file, downloaded; it is broken off where it is larger than `most`."""
        expected = self._folder.resolve() / name
        path = self._api.hf_hub_download(
            self._repo,
            name,
            revision=self._commit,
            local_dir=self._folder,
            tqdm_class=_watching(name, most, on_bytes),
        )
        if Path(path).resolve() != expected:
            raise DataError(f"{name} was written to another place, {path}.")
        return expected


def _watching(name: str, most: int, on_bytes: Callable[[int], None]) -> Any:
    """A progress bar that shows nothing, tells of the bytes, and ends what sends too many."""
    from huggingface_hub.utils import tqdm

    class Watching(tqdm):  # type: ignore[misc]
        received = 0

        def update(self, n: float | None = 1) -> Any:
            self.received += int(n or 0)
            if self.received > most:
                raise DataError(f"{name} is larger than the {most:,} bytes that it should have.")
            on_bytes(self.received)
            return super().update(n)

    return Watching


def _size(there: "RepoSibling") -> int:
    """The size of the manifest, as the Hub gives it.

    Raises:
        DataError: it is too large for one.
    """
    if not isinstance(there.size, int) or there.size > hub_files.MOST_MANIFEST_BYTES:
        raise DataError(f"{MANIFEST} has {there.size} bytes. That is no manifest.")
    return there.size


def _require_there(
    repo: str, found: Mapping[str, Entry], there: Mapping[str, "RepoSibling"]
) -> None:
    """Check what the Hub lists against the manifest, before anything large is sent.

    Raises:
        DataError: a file is missing, or has another size or checksum.
    """
    for name, entry in found.items():
        if name not in there:
            raise DataError(f"{repo} lacks {name}, which its {MANIFEST} lists. Push the run again.")
        lfs = there[name].lfs
        size, sha256 = (there[name].size, None) if lfs is None else (lfs.size, lfs.sha256)
        if (size is not None and size != entry.bytes) or sha256 not in (None, entry.sha256):
            raise DataError(
                f"{name} of {repo} is not the one that its {MANIFEST} lists: somebody has changed "
                "it. Push the run again."
            )


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFull(f"{size:,} bytes are needed for the run, {free:,} are free. Make room.")


def _require_same(path: Path, name: str, entry: Entry, there: "RepoSibling") -> None:
    """Check a file that has come.

    Raises:
        DataError: it is another than the manifest, or the Hub, says.
    """
    from huggingface_hub.utils.sha import git_hash

    is_same = path.stat().st_size == entry.bytes and files.sha256(path) == entry.sha256
    if is_same and there.lfs is None and there.blob_id:
        is_same = git_hash(path.read_bytes()) == there.blob_id
    if not is_same:
        raise DataError(f"{name} came damaged (its checksum differs). Try again.")


def _require_modest(path: Path, name: str) -> None:
    """Check that an archive, as model and features are, does not unpack to more than runs have.

    Raises:
        DataError: it does, or is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(each.file_size for each in archive.infolist())
            if size > hub_files.MOST_BYTES:
                raise DataError(f"{name} unpacks to {size:,} bytes. It is refused.")
    except zipfile.BadZipFile as error:
        raise DataError(f"{name} is damaged: {error}.") from None
