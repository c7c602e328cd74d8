"""What is to be exported, as a caller says it, and whether that is possible."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from efftune.delivery import browser
from efftune.delivery import receipt as receipts
from efftune.delivery.formats import FORMATS, Format
from efftune.delivery.targets import ALIASES, TARGETS, Target
from efftune.errors import UsageError, unknown_name
from efftune.system import files, packages
from efftune.system.progress import Progress

MAX_DROP = 0.005  # of accuracy, by 8 bits


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported.

    Attributes:
        name: of a format in `FORMATS`, or of a target in `TARGETS`.
        folder: for its files; an export that is there is replaced.
        batch: how many pictures each call takes, 1, or any number if None.
        max_drop: by how much files of 8 bits may lower the accuracy, 0 to 1.
        browser_runtime: the archive of ONNX Runtime Web, for `browser`.
    """

    name: str
    folder: Path
    batch: int | None = None
    max_drop: float = MAX_DROP
    browser_runtime: Path | None = None

    @property
    def target(self) -> Target | None:
        """What it is for, if that was said."""
        return TARGETS.get(self.name)

    @property
    def format_name(self) -> str:
        """Of its file."""
        return self.name if self.target is None else self.target.format

    @property
    def format(self) -> Format:
        """Of its file."""
        return FORMATS[self.format_name]


class ExportOptions(TypedDict, total=False):
    """Options of exports; see `Run.export`."""

    batch: int | None
    max_drop: float | None
    runtime: str | Path | None
    fetch: bool


def read(
    names: str | Sequence[str], into: Path, options: ExportOptions, on_progress: Progress
) -> list[ExportRequest]:
    """What is to be exported, from what a caller says.

    Args:
        names: of formats and targets.
        into: the folder for a folder of each.
        options: of the caller.
        on_progress: as for `train`; something may have to be downloaded.

    Raises:
        UsageError: an option has no such value, or what it names does not exist.
        DataError: the archive of ONNX Runtime Web is another file, or could not be downloaded.
    """
    batch, max_drop = options.get("batch"), options.get("max_drop")
    max_drop = MAX_DROP if max_drop is None else max_drop
    if batch not in (None, 1):
        raise UsageError(f"batch is 1, or None for any number of pictures. Not {batch!r}.")
    if not 0 <= max_drop <= 1:
        raise UsageError(f"max_drop is a share, 0 to 1. Not {max_drop!r}.")
    given, fetch = options.get("runtime"), options.get("fetch", False)
    named = dict.fromkeys(ALIASES.get(name, name) for name in _as_list(names))
    for name in named:
        if name not in TARGETS and name not in FORMATS:
            raise unknown_name("format or target", name, [*FORMATS, *TARGETS])
    archive = None
    if "browser" in named:
        path = None if given is None else files.user_path(given)
        archive = browser.runtime_archive(path, may_fetch=fetch, on_progress=on_progress)
    elif fetch or given is not None:
        raise UsageError("--runtime and --fetch are for --for browser.")
    requests = [ExportRequest(name, into / name, batch, max_drop, archive) for name in named]
    _require_use(requests, batch, max_drop)
    return requests


def _require_use(requests: Sequence[ExportRequest], batch: int | None, max_drop: float) -> None:
    """Check that what was chosen makes a difference to one of the files at least.

    Raises:
        UsageError: it does not.
    """
    if not requests:
        return
    targets = [each.target for each in requests]
    if batch and all(each is not None and each.batch is None for each in targets):
        names = " and ".join(each.name for each in requests)
        raise UsageError(f"--batch is not for {names}, whose files take any number of pictures.")
    if max_drop != MAX_DROP and all(each.format.bound is not None for each in requests):
        small = ", ".join(name for name, each in FORMATS.items() if each.bound is None)
        raise UsageError(f"--max-drop is for files of 8 bits: {small}, and what is made of them.")


def _as_list(names: str | Sequence[str]) -> Sequence[str]:
    """One name, or several."""
    return [names] if isinstance(names, str) else names


def require_possible(requests: Sequence[ExportRequest], run: Path, image_size: int) -> None:
    """Check what can be known before anything is written.

    Args:
        requests: what is to be exported.
        run: the run folder.
        image_size: of its classifier, in pixels.

    Raises:
        UsageError: there is nothing to do; a name is unknown; what it needs is not installed; the
            application cannot use the classifier; or there is something else in its place.
    """
    if not requests:
        raise UsageError(
            f"Name a format ({', '.join(FORMATS)}) or what it is for ({', '.join(TARGETS)})."
        )
    for request in requests:
        missing = [package for package in request.format.needs if find_spec(package) is None]
        if missing:
            names = [each.replace("_", "-") for each in missing]
            raise UsageError(
                f"Format {request.format_name} needs {' '.join(names)}. Run: "
                f"{packages.install(*names)}"
            )
        if request.target is not None:
            request.target.require(run, image_size)
        folder = request.folder
        is_other = folder.exists() and not (folder / receipts.FILE).is_file()
        if is_other and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(
                f"{folder} exists and is no export of efftune. Choose another place with --into."
            )
