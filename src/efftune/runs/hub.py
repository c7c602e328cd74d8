"""Runs from the Hugging Face Hub."""

from functools import partial
from pathlib import Path

from efftune.delivery import hub, hub_load
from efftune.errors import DataError, UsageError
from efftune.report import model_card
from efftune.runs import loading
from efftune.runs.run import Run
from efftune.system import files
from efftune.system.progress import OnProgress, showing


def load_from_hub(
    repository: str,
    into: str | Path | None = None,
    *,
    device: str = "cpu",
    on_progress: OnProgress = "auto",
) -> Run:
    """Take a run from the Hugging Face Hub, where `Run.push` has put it.

    Each file is taken only if it is one that runs have, and its size and checksums are right.
    Nothing that comes from there is executed.

    Args:
        repository: `hf:USER/NAME`.
        into: the folder to create; by default `runs/NAME`.
        device: where to compute its classifier; see `load`.
        on_progress: as for `train`.

    Raises:
        UsageError: the package huggingface_hub is not installed, there is no such repository or no
            access to it, or the folder exists or cannot be created.
        DataError: the repository holds no run, a file is not what it should be, or the Hub cannot
            be reached.
        DiskFull: there is no room for it.
    """
    repo = hub.repository(repository)
    hub.require_installed()
    folder = Path("runs") / repo.partition("/")[2] if into is None else files.output_path(into)
    files.require_free(folder)
    try:
        with files.folder_written_whole(folder) as new, showing(on_progress) as show:
            hub_load.download(repo, new, partial(show, "load"))
            _finish(repo, new)
    except OSError as error:
        full = files.disk_full(error, folder)
        place = f"Cannot write to {folder}: {error.strerror or error}."
        raise full or UsageError(f"{place} Choose another place with --into.") from None
    return Run.load(folder, device=device)


def _finish(repo: str, folder: Path) -> None:
    """Check that what came is a whole run, and write its card, and its report if that has come.

    Raises:
        DataError: it is none.
    """
    try:
        if missing := [name for name in loading.record_of(folder)["files"] if ".." in name]:
            raise DataError(f"its run.json names {missing[0]}.")
        loading.load(folder)
        run = Run.load(folder)
        if run.record.get("without_pictures"):
            model_card.write(folder)
        else:
            run.report()
    except (DataError, UsageError) as error:
        reason = str(error).replace(f"{folder}/", "").replace(str(folder), repo)
        raise DataError(f"{repo} holds no whole run: {reason}") from None
